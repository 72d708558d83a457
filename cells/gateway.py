"""The gateway's process: the whole life of one, from settings to exit code, in the main thread.

It lies here, not in topics, because it reads the directory and the cells' settings; it imports
nothing of what makes a cell, so it starts fast and stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cells.directory import Directory, load_directory
from cells.settings import Settings
from engine.errors import FirecellError
from engine.limits import RETENTION_EVERY_S, SUCCESSOR_WAIT_S
from engine.version import VERSION
from topics.groups_lock import FileLeadership
from topics.groups_retention import RetentionWatch
from topics.http_proxy import CellProxy
from topics.http_stream import Streams
from topics.kafka_leadership import KafkaLeadership
from topics.lifecycle import Lifecycle, bind, log, serve, url_of
from topics.log_embedded import system_clock_ms
from topics.logs import Firehose, open_log
from topics.nodes import IdSource
from topics.publish import Publisher
from topics.runfiles import find
from topics.security import Guard
from topics.server import Gateway
from topics.tokens import load_tokens
from topics.urls import EmbeddedPlace


def run_gateway(settings: Settings, *, port: int | None = None) -> int:
    """Serve the gateway until told to stop; the exit code. `port` overrides the settings'; 0 takes
    a free one.

    Raises Misconfigured and Precondition for what is wrong before it listens; later failures end
    the process with their exit code.
    """
    lifecycle = Lifecycle("gateway", "main")
    guard = Guard(settings.http.host, load_tokens(settings.tokens.file))
    wanted = settings.http.port if port is None else port
    leaving = find(settings.data.folder, "gateway", "main") is not None
    listener = bind(settings.http.host, wanted, wait_s=SUCCESSOR_WAIT_S if leaving else 0)
    firehose_log = open_log(settings.firehose)
    ids = IdSource(settings.data.folder, settings.firehose.node)
    leadership = _leadership(settings, settings.http.url or url_of(listener))
    streams = Streams(firehose_log, system_clock_ms, leadership)
    publisher = Publisher(firehose_log, ids, appended=streams.appended)
    retention = RetentionWatch(firehose_log, system_clock_ms)
    gateway = Gateway(
        guard,
        publisher,
        ids,
        lambda: _directory(settings),
        CellProxy(lambda cell: cell_url(settings, cell)),
        streams,
        draining=lifecycle.wait_draining,
        not_ready=lambda: lifecycle.reason,
        stats=lambda: {
            **_firehose_numbers(firehose_log.stats()),
            **streams.stats(),
            **retention.stats(),
        },
        details=lambda: _firehose_details(firehose_log),
    )
    lifecycle.on_stop("the publisher", publisher.close)
    lifecycle.on_stop("the id source", ids.close)
    lifecycle.on_stop("the firehose", firehose_log.close)

    def start() -> None:
        if isinstance(leadership, KafkaLeadership):
            leadership.start(lifecycle.draining)
        lifecycle.ready()
        while not lifecycle.draining.wait(RETENTION_EVERY_S):
            _apply_retention(firehose_log)
            retention.look()

    return serve(
        gateway.app,
        lifecycle,
        listener=listener,
        data_folder=settings.data.folder,
        version=VERSION,
        start=start,
    )


def _leadership(settings: Settings, url: str) -> FileLeadership | KafkaLeadership:
    """One gateway coordinates the groups: of an embedded firehose, the one that holds the lock in
    its folder; of Kafka, the one that all of them agree on there. `url`: how others reach this."""
    where = settings.firehose.place
    if isinstance(where, EmbeddedPlace):
        return FileLeadership(where.folder, lambda: url)
    return KafkaLeadership(where, url)


def cell_url(settings: Settings, cell: str) -> str | None:
    """Where a cell listens: its run file in the data folder, else its configured address."""
    running = find(settings.data.folder, "cell", cell)
    if running is not None:
        return running.url
    own = settings.cells.get(cell)
    if own is None or own.port == 0:
        return None
    host = f"[{own.host}]" if ":" in own.host else own.host
    return f"http://{host}:{own.port}"


def _directory(settings: Settings) -> Directory:
    shares = {name: cell.share for name, cell in settings.cells.items()}
    return load_directory(settings.data.folder, shares)


def _apply_retention(firehose: Firehose) -> None:
    try:
        dropped = firehose.apply_retention(system_clock_ms())
    except FirecellError as error:  # the next minute tries again; publishing goes on
        log.warning("retention was not applied: %s", error.message)
        return
    if dropped:
        log.info("retention: %d segments dropped", dropped)


def _firehose_details(firehose: Firehose) -> dict[str, Any]:
    def vector(offsets: list[int]) -> dict[str, int]:
        return {str(partition): offset for partition, offset in enumerate(offsets)}

    return {
        "firehose": {
            "identity": firehose.identity,
            "partitions": firehose.partitions,
            "begin": vector(firehose.begin_offsets()),
            "end": vector(firehose.end_offsets()),
        }
    }


def _firehose_numbers(stats: Mapping[str, int]) -> dict[str, float]:
    """The log's numbers under metric names: in base units, so milliseconds become seconds."""
    numbers: dict[str, float] = {}
    for name, value in stats.items():
        if name.endswith("_ms"):
            numbers[f"firehose_{name.removesuffix('_ms')}_timestamp_seconds"] = value / 1_000
        else:
            numbers[f"firehose_{name}"] = value
    return numbers
