"""`python -m bench.stream`: the firehose's way out: events a second, idle consumers, rewinds.

A gateway in a process of its own over a firehose that was filled before; consumers are sockets of
this process, which only counts line ends, so what is measured is the gateway. The firehose is
embedded, in a folder of its own, or a Kafka topic that `--url` names (made when missing).

| measurement | how |
| --- | --- |
| replay | one NDJSON consumer from the earliest event to the end: the median, and all three runs |
| idle | many live consumers and nothing published: CPU seconds of the gateway a second |
| latency | events published one by one over HTTP, from the request to the consumer's line |
| rewind | a group at the end, planned back to the earliest event |
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer

from bench import machine, report
from bench.fanout import run_app
from bench.talk import Talk
from cells.settings import load_settings
from engine.codec import encode
from engine.errors import Unavailable
from engine.events import FOLLOW, Event, Post, Relation
from engine.limits import DRAIN_S, GROUP_COMMIT_ENTRIES_MAX
from ops.children import child_command, child_environment
from topics import runfiles
from topics.logs import Firehose, open_log

RUNS = 3
PARTITIONS = 32
_CONFIG = """\
[firehose]
url = "{url}"
partitions = {partitions}
[data]
folder = "./data"
[cells.c1]
"""
_READY_S = 60
_READ_BYTES = 2**20
_MARK = b'"position":"'  # once in every event
_TEXT = "The quick brown fox jumps over the lazy dog, and the dog posts about it: number {}."


def event_of(number: int) -> Event:
    """Four posts of some 90 characters, then a follow."""
    if number % 5 == 4:
        return Relation(FOLLOW, number, number // 7)
    return Post(number % 10_000, number, 0, _TEXT.format(number))


def fill(log: Firehose, events: int, talk: Talk) -> int:
    """Append until `events` are kept; how many are."""
    kept = sum(log.end_offsets()) - sum(log.begin_offsets())
    for first in range(kept, events, GROUP_COMMIT_ENTRIES_MAX):
        numbers = range(first, min(first + GROUP_COMMIT_ENTRIES_MAX, events))
        log.append([(number % log.partitions, encode(event_of(number))) for number in numbers])
        talk.progress("filling the firehose", first, events)
    return sum(log.end_offsets()) - sum(log.begin_offsets())


class GatewayProcess:
    """`firecell gateway` in a folder; gone on leaving."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = ""

    def __enter__(self) -> GatewayProcess:
        config = str(self._folder / "firecell.toml")
        with (self._folder / "gateway.log").open("ab") as output:
            self._process = subprocess.Popen(
                child_command("gateway", "--config", config, "--port", "0"),
                cwd=self._folder,
                stdout=output,
                stderr=output,
                env=child_environment({}),
            )
        deadline = time.monotonic() + _READY_S
        while True:
            found = runfiles.find(self._folder / "data", "gateway", "main")
            if found is not None and found.pid == self._process.pid:
                self.url = found.url
                return self
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                raise Unavailable(f"the gateway did not start: {self._folder / 'gateway.log'}")
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def cpu_seconds(self) -> float:
        """Of the process so far."""
        return machine.cpu_seconds(self._process.pid)


def connected(url: str, query: str) -> socket.socket:
    """A connection that has asked for a stream."""
    parts = urlsplit(url)
    found = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=120)
    request = f"GET /v1/firehose?{query} HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n"
    found.sendall(request.encode())
    return found


def replay(url: str, events: int) -> dict[str, float]:
    """One consumer, from the first byte asked to the last event."""
    started = time.perf_counter()
    lines = size = 0
    tail = b""  # of the piece before: a mark may lie across two
    with connected(url, "since=earliest") as stream:
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        while lines < events:
            count = stream.recv_into(buffer)
            if not count:
                raise Unavailable("the stream ended early: see the gateway's log")
            size += count
            piece = tail + view[:count]
            lines += piece.count(_MARK)
            tail = piece[1 - len(_MARK) :]
    seconds = time.perf_counter() - started
    return {
        "events_per_second": round(events / seconds, 1),
        "megabytes_per_second": round(size / seconds / 1e6, 1),
        "seconds": round(seconds, 3),
    }


def idle(gateway: GatewayProcess, consumers: int, seconds: float) -> dict[str, float]:
    """CPU of a gateway with live consumers and nothing to tell."""
    streams = [connected(gateway.url, "since=latest") for _ in range(consumers)]
    try:
        for stream in streams:
            stream.recv(_READ_BYTES)
        time.sleep(1)
        before, started = gateway.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        spent = gateway.cpu_seconds() - before
        return {
            "consumers": consumers,
            "share_of_a_core": round(spent / (time.monotonic() - started), 4),
            "seconds": seconds,
        }
    finally:
        for stream in streams:
            stream.close()


def latency(url: str, events: int, pause_s: float) -> dict[str, dict[str, float]]:
    """ms from a publisher's request to the consumer's line, one event after the other; and to the
    publisher's own answer, which waits for the disk as the consumer does."""
    histogram, sent = report.Histogram(), dict[str, float]()
    answered = report.Histogram()
    done = threading.Event()

    def consume(stream: socket.socket) -> None:
        rest = b""
        while not done.is_set():
            *lines, rest = (rest + stream.recv(_READ_BYTES)).split(b"\n")
            now = time.perf_counter()
            for line in lines:
                if line.startswith(b'{"type"'):
                    histogram.record(1_000 * (now - sent[json.loads(line)["text"]]))
            if histogram.count >= events:
                done.set()

    with connected(url, "since=latest&types=post") as stream:
        stream.recv(_READ_BYTES)
        thread = threading.Thread(target=consume, args=(stream,), daemon=True)
        thread.start()
        with httpx.Client(base_url=url, trust_env=False) as client:
            for number in range(events):
                text = f"{time.time_ns()}"
                sent[text] = time.perf_counter()
                event = {"type": "post", "author": str(number), "text": text}
                client.post("/v1/events", json=event).raise_for_status()
                answered.record(1_000 * (time.perf_counter() - sent[text]))
                time.sleep(pause_s)
        if not done.wait(_READY_S):
            raise Unavailable(f"{histogram.count} of {events} events came")
    return {
        "publish_to_consumer_ms": histogram.summary((50, 90, 99)),
        "publish_to_answer_ms": answered.summary((50, 90, 99)),
    }


def rewind(url: str) -> dict[str, float]:
    """Seconds to plan a group's way back over everything, the slowest of three."""
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        at_end = {"group": "bench", "since": "latest", "until": "0s"}
        client.get("/v1/firehose", params=at_end).raise_for_status()
        seconds, events = 0.0, 0
        for _ in range(RUNS):
            started = time.perf_counter()
            plan = client.post("/v1/admin/groups/bench/rewind", json={"to_datetime": "7d"})
            seconds = max(seconds, time.perf_counter() - started)
            events = plan.raise_for_status().json()["events"]
    return {"events": events, "plan_seconds": round(seconds, 4)}


def prepare(url: str, folder: Path, events: int, talk: Talk) -> int:
    """A configuration and a firehose with at least `events`; how many are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _CONFIG.format(url=url, partitions=PARTITIONS)
    (folder / "firecell.toml").write_text(config, encoding="utf-8")
    log = open_log(load_settings(folder / "firecell.toml").firehose)
    try:
        return fill(log, events, talk)
    finally:
        log.close()


def run(folder: Path, events: int, consumers: int, seconds: float, talk: Talk) -> dict[str, Any]:
    """All measurements of a folder that `prepare` made."""
    found: dict[str, Any] = {"events": events}
    with GatewayProcess(folder) as gateway:
        runs = [replay(gateway.url, events) for _ in range(RUNS)]
        runs.sort(key=lambda one: one["events_per_second"])
        middle = runs[RUNS // 2]
        found["replay"] = {**middle, "runs": [one["events_per_second"] for one in runs]}
        talk.say(f"replay: {middle['events_per_second']:,.0f} events/s")
        found["rewind"] = rewind(gateway.url)
        found["idle"] = idle(gateway, consumers, seconds)
        found |= latency(gateway.url, 1_000, 0.01)
    return found


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    url: Annotated[
        str, typer.Option(help="The firehose; embedded in a folder of its own unless told.")
    ] = "embedded:./firehose",
    events: Annotated[int, typer.Option(help="In the firehose.")] = 1_000_000,
    consumers: Annotated[int, typer.Option(help="Idle ones.")] = 500,
    seconds: Annotated[float, typer.Option(help="Of the idle measurement.")] = 20.0,
    keep: Annotated[
        Path | None, typer.Option(help="Folder to fill once and use again; else a temporary one.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the result file.")] = "stream",
    results: Annotated[
        Path, typer.Option(help="Folder of result files.", show_default="bench/results")
    ] = report.RESULTS,
    json_wanted: Annotated[bool, typer.Option("--json", help="The result on stdout.")] = False,
) -> None:
    """Events a second out of the firehose, the cost of idle consumers, latency, a rewind's plan.

    \b
    Examples:
      firecell bench stream
      firecell bench stream --url kafka://127.0.0.1:9092/bench --name stream-kafka
    """
    talk = Talk()
    with tempfile.TemporaryDirectory(prefix="firecell-stream-") as temporary:
        folder = Path(temporary) if keep is None else keep.absolute()
        kept = prepare(url, folder, events, talk)
        document: dict[str, Any] = {"firehose": url.partition(":")[0]}
        document |= run(folder, kept, consumers, seconds, talk)
    document["command"] = " ".join(["python -m bench.stream", *sys.argv[1:]])
    path = report.write_result(name, document, results)  # it adds the machine
    report.show(name, document, talk.console)
    talk.say(f"written to {path}")
    if json_wanted:
        sys.stdout.write(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(run_app(app))
