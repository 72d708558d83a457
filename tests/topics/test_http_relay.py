"""Streams that a gateway passes on: they end with its drain, behind a whole record."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.topics.http_fakes import Deployment, live, make_cell
from tests.topics.memory_log import MemoryLog
from tests.topics.taps import Tap, eventually, gateway
from topics import http_relay
from topics.groups_lock import Alone
from topics.http_proxy import CellProxy
from topics.http_stream import Streams
from topics.security import Guard
from topics.server import Gateway


class Elsewhere(Alone):
    """A leadership that names another gateway."""

    def __init__(self, url: str) -> None:
        self.url = url

    def leader(self) -> str | None:
        """The other one."""
        return self.url


@contextmanager
def two_gateways(log: MemoryLog) -> Iterator[tuple[Deployment, Deployment, str]]:
    """(the coordinating gateway, the one that passes on, the URL of that one)."""
    first = Deployment(log=log)
    with live(first.app) as port:
        leadership = Elsewhere(f"http://127.0.0.1:{port}")
        second = Deployment(log=log, streams=Streams(log, log.clock, leadership))
        with live(second.app) as other:
            try:
                yield first, second, f"http://127.0.0.1:{other}"
            finally:
                second.streams.drain()
                first.streams.drain()


def test_a_drain_ends_a_relayed_stream_behind_a_whole_record():
    log = MemoryLog()
    with two_gateways(log) as (first, second, url):
        tap = Tap(url, group="g", since="earliest")
        assert tap.session
        log.say(0, "one", "two")
        tap.wait(2)
        started = time.monotonic()
        second.streams.drain()
        assert tap.until_end().texts() == ["one", "two"]  # a clean end: no line is half
        assert time.monotonic() - started < 1.5
        eventually(lambda: first.streams.counts.open == 0, "the other gateway gives it up")


def test_a_drain_in_full_flow_ends_behind_a_whole_record():
    log = MemoryLog()
    with two_gateways(log) as (_, second, url):
        for number in range(300):
            log.say(number % 4, *["x" * 20_000] * 4)  # 24 MB
        tap = Tap(url, group="g", since="earliest")
        tap.wait(10)
        second.streams.drain()
        tap.until_end()
        assert 10 <= len(tap.events()) < 1_200
        assert all(json.loads(line) for line in tap.lines)


class Held:
    """The relay reads nothing of what comes while `busy`; what has come lies in its kernel."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy, self._reading = threading.Event(), threading.Event()
        self._read = http_relay._feed
        monkeypatch.setattr(http_relay, "_feed", self._feed)

    async def _feed(self, answer: Any, reader: asyncio.StreamReader) -> bool:
        while self.busy.is_set():
            await asyncio.sleep(0.01)
        self._reading.set()
        try:
            return await self._read(answer, reader)
        finally:
            self._reading.clear()

    def hold(self) -> None:
        """It reads once more, and then no more."""
        eventually(self._reading.is_set, "it reads")
        self.busy.set()


def test_what_the_coordinator_has_sent_is_passed_on_when_both_drain(
    monkeypatch: pytest.MonkeyPatch,
):
    """Both gateways got TERM: what the first had sent and acknowledged, the second threw away, and
    the client saw a clean end."""
    held = Held(monkeypatch)
    log = MemoryLog()
    with two_gateways(log) as (first, second, url):
        tap = Tap(url, group="g", since="earliest")
        assert tap.session
        held.hold()  # behind the first event
        log.say(0, "one")
        tap.wait(1)
        log.say(0, "two", "three")
        eventually(lambda: first.streams.counts.events == 3, "it is sent")
        first.streams.drain()
        time.sleep(0.2)
        second.streams.drain()
        time.sleep(0.2)
        held.busy.clear()
        assert tap.until_end().texts() == ["one", "two", "three"]
        eventually(lambda: first.streams.counts.open == 0, "it is given up")


class Owner:
    """Another process with one stream: `first`, and `then` once it is told that nobody asks any
    more; it closes without a last chunk, as one that was given up does."""

    def __init__(self, first: bytes, then: bytes, kind: str = "application/x-ndjson") -> None:
        self._pieces = [first, then]
        self._kind = kind

    async def _answer(self, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {self._kind}\r\n".encode())
        writer.write(b"transfer-encoding: chunked\r\n\r\n")
        for piece in self._pieces:
            if piece:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await reader.read()  # until the end of the other side
        writer.close()

    async def drained(self) -> bytes:
        """What a client sees of it when the gateway between them drains. An httpx error when it
        was cut."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        log = MemoryLog()
        elsewhere = Elsewhere(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        world = Deployment(log=log, streams=Streams(log, log.clock, elsewhere))
        found = b""
        with live(world.app) as here:
            url = f"http://127.0.0.1:{here}/v1/firehose?group=g"
            async with (
                server,
                asyncio.timeout(10),
                httpx.AsyncClient(trust_env=False, timeout=10) as client,
                client.stream("GET", url, headers={"accept-encoding": "identity"}) as answer,
            ):
                async for piece in answer.aiter_raw():
                    found += piece
                    world.streams.drain()
        return found


@pytest.mark.parametrize(
    ("first", "then", "seen"),
    [
        (b"1\n", b"2\n3\n", b"1\n2\n3\n"),
        (b"1\n", b"2\n3\n4", b"1\n2\n3\n"),  # the other process was cut within a record
        (b"1\n2", b"2\n3", b"1\n22\n"),
        (b"1\n", b"", b"1\n"),
    ],
)
def test_a_drain_passes_on_what_comes_until_the_other_process_closes(
    first: bytes, then: bytes, seen: bytes
):
    assert asyncio.run(Owner(first, then).drained()) == seen


def test_a_drain_passes_on_whole_server_sent_events():
    owner = Owner(b"data: 1\n\ndata: 2\n", b"\ndata: 3\n\ndata: 4\n", "text/event-stream")
    assert asyncio.run(owner.drained()) == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"


def test_a_record_that_never_ends_is_no_clean_end_of_a_drain():
    with pytest.raises(httpx.RemoteProtocolError):
        asyncio.run(Owner(b"1\n2", b"").drained())


def test_a_stream_ends_when_its_client_has_no_more_to_say():
    """It wrote on for as long as the client left something untaken: a gateway that drains tells
    the other one in this way, and its slow client would never have seen an end."""
    log = MemoryLog()
    for number in range(400):
        log.say(number % 4, "x" * 60_000)
    with gateway(log=log) as (world, url):
        tap = Tap(url, reading=False, group="g", since="earliest")
        time.sleep(0.5)
        tap._socket.shutdown(socket.SHUT_WR)
        eventually(lambda: world.streams.counts.open == 0, "it is given up", 3)
        tap._thread.start()
        assert 0 < len(tap.until_end().events()) < 400
        assert sum(log.kept.get("g", {}).values()) == 0  # no clean end


def test_a_relayed_client_that_takes_nothing_is_cut_in_a_drain(monkeypatch: pytest.MonkeyPatch):
    for drains in ("http_stream", "http_elsewhere"):
        monkeypatch.setattr(f"topics.{drains}.STREAM_DRAIN_S", 0.3)
    log = MemoryLog()
    with two_gateways(log) as (first, second, url):
        for number in range(400):
            log.say(number % 4, "x" * 60_000)
        tap = Tap(url, reading=False, group="g", since="earliest")
        time.sleep(0.5)
        second.streams.drain()
        eventually(lambda: first.streams.counts.open == 0, "it is given up", 3)
        tap.cut()


def test_a_relayed_answer_with_an_end_is_whole_in_a_drain():
    log = MemoryLog()
    with two_gateways(log) as (_, second, url):
        second.streams.drain()
        log.commit("g", {0: 0})
        answer = httpx.get(f"{url}/v1/admin/groups/g", trust_env=False)
        assert answer.json()["group"] == "g"


def test_a_relayed_stream_is_compressed_by_the_gateway_that_the_client_asked():
    log = MemoryLog()
    log.say(0, "squeezed")
    log.now_ms += 60_000
    headers = {"accept-encoding": "gzip"}
    with (
        two_gateways(log) as (_, _, url),
        httpx.stream(
            "GET", f"{url}/v1/firehose?group=g&since=earliest&until=5s",
            trust_env=False, headers=headers,
        ) as answer,
    ):  # fmt: skip
        assert answer.headers["content-encoding"] == "gzip"
        state = zlib.decompressobj(31)
        text = b"".join(map(state.decompress, answer.iter_raw()))
    assert b"squeezed" in text and b'"cause":"until"' in text
    assert state.eof


def test_a_drain_ends_a_dashboards_stream_that_comes_from_a_cell():
    server, _, _ = make_cell("c0")
    ended = threading.Event()
    with live(server.app) as port:
        world = Deployment()
        locate = lambda name: f"http://127.0.0.1:{port}"  # noqa: E731
        gateway = Gateway(
            Guard("127.0.0.1"), world.publisher, world.ids, world._load_homes,
            CellProxy(locate), world.streams,
        )  # fmt: skip

        def read(client: socket.socket, found: list[bytes]) -> None:
            while piece := client.recv(65_536):
                found.append(piece)
                if piece.endswith(b"0\r\n\r\n"):  # the last chunk
                    break
            ended.set()

        with live(gateway.app) as other, socket.create_connection(("127.0.0.1", other)) as client:
            client.sendall(b"GET /v1/users/2/dashboard/stream HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            found: list[bytes] = []
            thread = threading.Thread(target=read, args=(client, found), daemon=True)
            thread.start()
            eventually(lambda: b"hello" in b"".join(found), "hello")
            world.streams.drain()
            assert ended.wait(1.5)
            assert b"".join(found).endswith(b"\n\n\r\n0\r\n\r\n")
        server._reason = lambda: "draining"


def test_a_stream_that_the_other_process_breaks_off_never_looks_like_one_that_has_ended():
    async def breaks(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n")
        writer.write(b'transfer-encoding: chunked\r\n\r\n5\r\n{"a"\n\r\n')
        await writer.drain()
        writer.transport.abort()

    async def scenario() -> None:
        server = await asyncio.start_server(breaks, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        log = MemoryLog()
        world = Deployment(
            log=log, streams=Streams(log, log.clock, Elsewhere(f"http://127.0.0.1:{port}"))
        )
        with live(world.app) as here:
            async with httpx.AsyncClient(trust_env=False) as client:
                with pytest.raises(httpx.RemoteProtocolError):
                    await client.get(f"http://127.0.0.1:{here}/v1/firehose?group=g")
        server.close()

    asyncio.run(scenario())
