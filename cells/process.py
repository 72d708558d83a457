"""The two processes of a deployment put together: `run_gateway` and `run_cell`, each the whole
life of one process, from settings to exit code. Call them in the main thread.

Everything that can refuse (settings, tokens, ports, locks) does so before the process says that it
is ready; stop steps give everything back in the reverse order of opening.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from cells.cell import Cell, now_ms, open_cell
from cells.directory import Directory, load_directory
from cells.server import CellServer
from cells.settings import Settings
from engine.errors import FirecellError, Unavailable
from engine.limits import (
    DRAIN_S,
    PROCESS_WATCH_S,
    RETENTION_EVERY_S,
    SUCCESSOR_WAIT_S,
    SWITCH_INTERVAL_S,
)
from topics.http import own_version
from topics.http_proxy import CellProxy
from topics.jsonlog import setup_logging
from topics.lifecycle import Lifecycle, bind, log, serve
from topics.log_embedded import EmbeddedLog
from topics.nodes import IdSource
from topics.publish import Publisher
from topics.runfiles import find
from topics.security import Guard
from topics.server import Gateway
from topics.tokens import load_tokens


def run_cell(settings: Settings, name: str, *, accept_gap: bool = False) -> int:
    """Serve the cell `name` until told to stop; the exit code.

    Raises Misconfigured and Precondition for what is wrong before it listens; later failures end
    the process with their exit code.
    """
    setup_logging("cell", name)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    own = settings.cell(name)
    lifecycle = Lifecycle("cell", name)
    guard = Guard(own.host, load_tokens(settings.tokens.file))
    server = CellServer(name, guard, reason=lambda: _ending(lifecycle))
    listener = bind(own.host, own.port, wait_s=SUCCESSOR_WAIT_S if own.port else 0)

    def start() -> None:
        cell = open_cell(settings, name, accept_gap=accept_gap)
        lifecycle.on_stop("the cell", lambda: _close_cell(cell))
        cell.runner.start()
        server.attach(cell.reader, cell.runner, settings.firehose.partitions)
        _watch(lifecycle, cell)

    return serve(
        server.app,
        lifecycle,
        listener=listener,
        data_folder=settings.data.folder,
        version=own_version(),
        start=start,
    )


def run_gateway(settings: Settings, *, port: int | None = None) -> int:
    """Serve the gateway until told to stop; the exit code. `port` overrides the settings'; 0 takes
    a free one. Raises as `run_cell` does."""
    setup_logging("gateway", "main")
    lifecycle = Lifecycle("gateway", "main")
    guard = Guard(settings.http.host, load_tokens(settings.tokens.file))
    listener = bind(settings.http.host, settings.http.port if port is None else port)
    firehose = settings.firehose
    log_ = EmbeddedLog.open(
        firehose.folder, partitions=firehose.partitions, retention_ms=firehose.retention_ms
    )
    ids = IdSource(settings.data.folder)
    publisher = Publisher(log_, ids)
    gateway = Gateway(
        guard,
        publisher,
        ids,
        lambda: _directory(settings),
        CellProxy(lambda cell: cell_url(settings, cell)),
        not_ready=lambda: lifecycle.reason,
        stats=lambda: {f"firehose_{key}": value for key, value in log_.stats().items()},
        details=lambda: _firehose_details(log_),
    )
    lifecycle.on_stop("the publisher", publisher.close)
    lifecycle.on_stop("the id source", ids.close)
    lifecycle.on_stop("the firehose", log_.close)

    def start() -> None:
        lifecycle.ready()
        while not lifecycle.draining.wait(RETENTION_EVERY_S):
            _apply_retention(log_)

    return serve(
        gateway.app,
        lifecycle,
        listener=listener,
        data_folder=settings.data.folder,
        version=own_version(),
        start=start,
    )


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


def _ending(lifecycle: Lifecycle) -> str:
    """The lifecycle's own reason once it drains; before, the cell's runner knows better."""
    return lifecycle.reason if lifecycle.draining.is_set() else ""


def _directory(settings: Settings) -> Directory:
    shares = {name: cell.share for name, cell in settings.cells.items()}
    return load_directory(settings.data.folder, shares)


def _watch(lifecycle: Lifecycle, cell: Cell) -> None:
    """Until the end: tell the lifecycle whether the cell is ready, and fail with its fan-out."""
    runner = cell.runner
    while True:
        if runner.failure is not None:
            lifecycle.fail(runner.failure)
        elif runner.ready:
            lifecycle.ready()
        else:
            lifecycle.not_ready(runner.not_ready_reason())
        if lifecycle.draining.wait(PROCESS_WATCH_S):
            return


def _close_cell(cell: Cell) -> None:
    started = time.monotonic()
    if not cell.close(DRAIN_S):
        waited = time.monotonic() - started
        raise Unavailable(f"the fan-out of cell {cell.name} did not end within {waited:.0f} s")


def _apply_retention(firehose: EmbeddedLog) -> None:
    try:
        dropped = firehose.apply_retention(now_ms())
    except FirecellError as error:  # the next minute tries again; publishing goes on
        log.warning("retention was not applied: %s", error.message)
        return
    if dropped:
        log.info("retention: %d segments dropped", dropped)


def _firehose_details(firehose: EmbeddedLog) -> dict[str, Any]:
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
