"""Consumers of a group, gateways and stopped processes: no event is lost, none comes again that was
acknowledged."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.up import ROOT, Up, running
from tests.topics.taps import Tap, eventually

pytestmark = pytest.mark.slow
CONFIG = "[firehose]\npartitions = 4\n[cells.c1]\n"


class Member:
    """A `tests.chaos.consumer` process and what it wrote."""

    def __init__(self, url: str, group: str, path: Path, lease_s: int = 30) -> None:
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.consumer", url, group, str(path), str(lease_s)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def lines(self) -> list[list[str]]:
        """What it wrote, whole lines."""
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split() for line in text.split("\n")[:-1]]

    def got(self) -> list[tuple[float, str]]:
        """(when, position) of each event."""
        return [(float(line[1]), line[2]) for line in self.lines() if line[0] == "got"]

    def acked(self) -> list[tuple[float, dict[int, int]]]:
        """(when it was answered, next offsets)."""
        found = []
        for line in self.lines():
            if line[0] == "ack":
                places = (item.split(":") for item in line[2].split(","))
                found.append((float(line[1]), {int(p): int(at) for p, at in places}))
        return found

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


@contextmanager
def members(url: str, folder: Path, count: int, lease_s: int = 30) -> Iterator[list[Member]]:
    """Some members of group `g`, killed at the end."""
    found = [Member(url, "g", folder / f"member-{n}", lease_s) for n in range(count)]
    try:
        yield found
    finally:
        for member in found:
            member.kill()


class Publishing:
    """Publishes batches in a thread until told to stop; `positions` were acknowledged."""

    def __init__(self, up: Up, text: str = "x") -> None:
        self._up = up
        self._text = text
        self._stop = threading.Event()
        self.positions: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        author = 0
        while not self._stop.is_set():
            author += 1
            lines = [
                json.dumps({"type": "post", "author": str(author * 20 + n), "text": self._text})
                for n in range(20)
            ]
            try:
                answer = self._up.client.post(
                    f"{self._up.url}/v1/events",
                    content="\n".join(lines),
                    headers={"content-type": "application/x-ndjson"},
                )
            except OSError:
                continue
            except Exception as error:
                if type(error).__module__.partition(".")[0] != "httpx":
                    raise
                time.sleep(0.1)
                continue
            results = [json.loads(line) for line in answer.text.splitlines()]
            self.positions += [result["position"] for result in results if "position" in result]
            time.sleep(0.02)

    def stop(self) -> list[str]:
        """What was published."""
        self._stop.set()
        self._thread.join(30)
        return self.positions


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    config = tmp_path / "firecell.toml"
    config.write_text(CONFIG)
    with running(tmp_path, config, 1) as found:
        yield found


def check_union(published: list[str], found: list[Member]) -> None:
    """Every published event came, and none again that had been acknowledged before."""
    wanted = set(published)

    def missing() -> set[str]:
        return wanted - {position for member in found for _, position in member.got()}

    eventually(lambda: not missing(), "all events", 60)
    acks = [entry for member in found for entry in member.acked()]
    for member in found:
        for at, position in member.got():
            partition, offset = map(int, position.split(":"))
            for when, vector in acks:
                again = when < at and vector.get(partition, 0) > offset
                assert not again, f"{position} came again after it was acknowledged"


def test_kill_of_a_member_in_mid_batch_and_of_the_gateway_restart(up: Up, tmp_path: Path) -> None:
    with members(up.url, tmp_path, 3) as found:
        publishing = Publishing(up)
        eventually(lambda: all(len(m.acked()) > 2 for m in found), "all three at work", 60)
        found[0].kill()
        before = [len(member.got()) for member in found[1:]]
        eventually(
            lambda: all(len(m.got()) > b + 50 for m, b in zip(found[1:], before, strict=True)),
            "the others go on", 30,
        )  # fmt: skip
        os.kill(up.pids("gateway")["main"], signal.SIGKILL)
        before = [len(member.acked()) for member in found[1:]]
        eventually(
            lambda: all(len(m.acked()) > b + 3 for m, b in zip(found[1:], before, strict=True)),
            "both go on with the new gateway", 60,
        )  # fmt: skip
        check_union(publishing.stop(), found)


def test_a_member_that_is_stopped_beyond_its_lease_loses_its_partitions_restart(
    up: Up, tmp_path: Path
) -> None:
    with members(up.url, tmp_path, 2, lease_s=2) as found:
        publishing = Publishing(up)
        eventually(lambda: all(len(m.acked()) > 2 for m in found), "both at work", 60)
        os.kill(found[0].process.pid, signal.SIGSTOP)
        published = publishing.stop()
        wanted = set(published) - {position for _, position in found[0].got()}
        eventually(
            lambda: wanted <= {position for _, position in found[1].got()}, "one does it all", 60
        )
        os.kill(found[0].process.pid, signal.SIGCONT)
        more = Publishing(up)
        count = len(found[0].acked())
        eventually(lambda: len(found[0].acked()) > count + 2, "it joins again", 60)
        wanted = {*published, *more.stop()}
        eventually(
            lambda: wanted <= {p for member in found for _, p in member.got()}, "all events", 60
        )


def test_another_gateway_passes_groups_on_and_takes_them_over_restart(
    up: Up, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    firehose = tmp_path / "data" / "firehose"
    (other / "firecell.toml").write_text(
        f'[firehose]\nurl = "embedded:{firehose}"\npartitions = 4\n[cells.c1]\n'
    )
    with gateway(other) as url, ExitStack() as stack:

        def tap(address: str, **query: str) -> Tap:
            found = Tap(address, group="g", **query)
            stack.callback(found.cut)
            assert found.session
            return found

        here, there = tap(up.url, since="earliest"), tap(url)
        assert len(there.controls("hello")[0]["positions"]) == 2  # half of it
        publishing = Publishing(up)
        eventually(lambda: min(len(here.events()), len(there.events())) > 100, "both get some")
        positions = [event["position"] for one in (here, there) for event in one.events()]
        assert len(positions) == len(set(positions))
        os.kill(up.pids("gateway")["main"], signal.SIGKILL)
        assert there.until_end().controls("end") == []  # cut, not ended
        published = publishing.stop()
        again = tap(url)
        want = {*published} - {*positions}
        eventually(lambda: want <= {e["position"] for e in again.events()}, "all of it", 30)


def test_a_dashboard_streams_through_the_gateway_and_goes_on_after_a_cells_kill_restart(
    up: Up,
) -> None:
    up.publish({"type": "follow", "reader": "1", "author": "7"})
    with Dashboard(up.url) as stream:
        up.publish({"type": "post", "author": "7", "text": "one"})
        eventually(lambda: stream.texts() == ["one"], "the post", 5)
        os.kill(up.pids("cell")["c1"], signal.SIGKILL)
        eventually(lambda: stream.ended, "the stream is cut")
    up.wait_ready(1)
    up.publish({"type": "post", "author": "7", "text": "two"})
    with Dashboard(up.url, stream.last_id()) as again:
        eventually(lambda: "two" in again.texts(), "what came meanwhile", 5)
        up.publish({"type": "post", "author": "7", "text": "three"})
        eventually(lambda: again.texts()[-1] == "three", "and what comes", 5)
        assert again.texts() in (["one", "two", "three"], ["two", "three"])


class Dashboard:
    """GET /v1/users/1/dashboard/stream, read in a thread."""

    def __init__(self, url: str, last_id: str = "") -> None:
        self.content = b""
        self.ended = False
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        resume = f"last-event-id: {last_id}\r\n" if last_id else ""
        target = "/v1/users/1/dashboard/stream"
        request = f"GET {target} HTTP/1.1\r\nhost: {parts.netloc}\r\n{resume}\r\n"
        self._socket.sendall(request.encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: b"hello" in self.content, "hello")

    def _read(self) -> None:
        try:
            while piece := self._socket.recv(2**16):
                self.content += piece
        except OSError:
            pass
        self.ended = True

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def texts(self) -> list[str]:
        """Of the posts that came."""
        lines = self.content.decode().splitlines()
        data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        return [post["text"] for post in data if "text" in post]

    def last_id(self) -> str:
        """Where to go on."""
        lines = self.content.decode().splitlines()
        return [line[4:] for line in lines if line.startswith("id: ")][-1]


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """A gateway alone; its URL."""
    from topics.runfiles import find

    log = (folder / "gateway.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.main", "gateway", "--port", "0",
         "--config", str(folder / "firecell.toml")],
        cwd=ROOT, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        found: Any = eventually(lambda: find(folder / "data", "gateway", "main"), "a gateway")
        yield found.url
    finally:
        process.terminate()
        assert process.wait(30) == 0, (folder / "gateway.log").read_text()[-2_000:]
        log.close()


def test_one_that_reads_a_byte_a_second_holds_up_none_of_a_hundred(up: Up) -> None:
    taps = [connection(up.url) for _ in range(100)]
    slow = connection(up.url)
    time.sleep(0.5)
    text = "y" * 2_000
    started = time.monotonic()
    publishing = Publishing(up, text)
    counts = read_all(taps, slow, 2_000)
    assert min(counts) >= 2_000
    published = publishing.stop()
    assert time.monotonic() - started < 60
    rest, lines = b"", 0
    slow.settimeout(20)
    while lines < len(published):  # it was parked, not dropped: now it reads, and has all of it
        piece = slow.recv(2**20)
        assert piece
        lines += (rest + piece).count(b'"type":"post"')
        rest = (rest + piece)[-len(b'"type":"post"') + 1 :]
    for tap in (*taps, slow):
        tap.close()


def connection(url: str) -> socket.socket:
    """A stream that nobody reads yet."""
    parts = urlsplit(url)
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    found.connect((parts.hostname, parts.port))
    request = f"GET /v1/firehose?since=latest HTTP/1.1\r\nhost: {parts.netloc}\r\n\r\n"
    found.sendall(request.encode())
    return found


def read_all(taps: list[socket.socket], slow: socket.socket, wanted: int) -> list[int]:
    """Read all of `taps` until each has so many events; a byte a second of `slow`."""
    counts = dict.fromkeys(taps, 0)
    deadline = time.monotonic() + 60
    next_byte = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for tap in taps:
            selector.register(tap, selectors.EVENT_READ)
        while min(counts.values()) < wanted and time.monotonic() < deadline:
            for key, _ in selector.select(0.5):
                tap = key.fileobj
                assert isinstance(tap, socket.socket)
                counts[tap] += tap.recv(2**20).count(b'"type":"post"')
            if time.monotonic() > next_byte:
                next_byte += 1
                slow.recv(1)
    return list(counts.values())
