"""The bounds of one connection: requests in line, and what a client never takes."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from engine.limits import HTTP_PARSE_BYTES, HTTP_PIPELINE_MAX
from tests.topics.http_fakes import live
from topics.http_bounds import BoundedProtocol
from topics.http_streaming import park

REQUEST = b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n"
BIG = b"x" * 30_000_000  # more than socket buffers hold


class Wire(asyncio.Transport):
    """A transport whose client takes what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.ended = ""
        self.untaken = 0
        self.high: int | None = None

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def is_closing(self) -> bool:
        return bool(self.ended)

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def connected(app: Any) -> tuple[BoundedProtocol, Wire]:
    """A connection to `app` in the running loop."""
    config = uvicorn.Config(app, ws="none", log_config=None, access_log=False)
    loop = asyncio.get_running_loop()
    protocol, wire = BoundedProtocol(config, ServerState(), {}, _loop=loop), Wire()
    protocol.connection_made(wire)
    return protocol, wire


async def answer(send: Any, body: bytes) -> None:
    """200."""
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def test_requests_in_line_are_bounded_and_all_are_answered_in_order():
    """The one in hand may wait for its client to leave, which reads on: so a client could queue
    requests behind a stream without end."""
    count, most = 5_000, HTTP_PIPELINE_MAX + HTTP_PARSE_BYTES // len(REQUEST % 0) + 1
    let_go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if not let_go.is_set():
            leaving = asyncio.ensure_future(receive())
            await let_go.wait()
            leaving.cancel()
        await answer(send, scope["path"].encode() + b"\n")

    async def scenario() -> bytes:
        protocol, wire = connected(app)
        longest = 0
        sent = b"".join(REQUEST % number for number in range(count))
        for first in range(0, len(sent), 100_000):
            protocol.data_received(sent[first : first + 100_000])
            await asyncio.sleep(0.01)
            longest = max(longest, len(protocol.pipeline))
        assert not wire.reading
        let_go.set()
        deadline = time.monotonic() + 20
        while wire.written.count(b"HTTP/1.1 200") < count and time.monotonic() < deadline:
            await asyncio.sleep(0)
            longest = max(longest, len(protocol.pipeline))
        assert 0 < longest <= most
        assert wire.reading
        protocol.connection_lost(None)
        return wire.written

    written = asyncio.run(scenario())
    paths = [line for line in written.split(b"\n") if line.startswith(b"/")]
    assert paths == [b"/%d" % number for number in range(count)]


def test_a_head_that_waits_for_us_is_not_too_slow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.http_bounds.HTTP_HEADER_WAIT_S", 0.05)
    let_go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await let_go.wait()
        await answer(send, b"")

    async def scenario() -> None:
        protocol, wire = connected(app)
        half = b"GET /half HTTP/1.1\r\nho"
        whole = (REQUEST % 7) * (HTTP_PIPELINE_MAX + 2)
        protocol.data_received(whole + half)
        await asyncio.sleep(0.2)
        assert not wire.ended
        let_go.set()
        await asyncio.sleep(0.02)
        protocol.data_received(b"st: h\r\n\r\n")
        await asyncio.sleep(0.02)
        assert wire.written.count(b"HTTP/1.1 200") == HTTP_PIPELINE_MAX + 3
        protocol.connection_lost(None)

    asyncio.run(scenario())


@pytest.mark.parametrize("taking", [True, False])
def test_a_closed_connection_waits_only_while_its_client_takes_something(
    taking: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("topics.http_bounds.HTTP_TAKE_WAIT_S", 0.05)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"body")

    async def scenario() -> str:
        protocol, wire = connected(app)
        protocol.timeout_keep_alive = 0.01  # type: ignore[assignment]
        wire.untaken = 1_000
        protocol.data_received(REQUEST % 1)
        for _ in range(30):
            await asyncio.sleep(0.01)
            wire.untaken -= 1 if taking else 0
        ended = wire.ended
        protocol.connection_lost(None)
        return ended

    assert asyncio.run(scenario()) == ("closed" if taking else "aborted")


@pytest.mark.parametrize("kind", ["page", "stream", "stream behind a page", "taking"])
def test_only_streams_park(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Pages for a client that never takes one waited for it for ever."""
    monkeypatch.setattr("topics.http_bounds.HTTP_TAKE_WAIT_S", 0.05)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if kind == "stream":
            park(scope)
        await asyncio.sleep(0.02)
        if kind == "stream behind a page":
            park(scope)
        await answer(send, b"body")

    async def scenario() -> str:
        protocol, wire = connected(app)
        wire.untaken = 100_000
        protocol.data_received(REQUEST % 1)
        await asyncio.sleep(0)
        protocol.pause_writing()
        for _ in range(30):
            await asyncio.sleep(0.01)
            wire.untaken -= 1 if kind == "taking" else 0
        ended = wire.ended
        protocol.connection_lost(None)
        return ended

    assert asyncio.run(scenario()) == ("aborted" if kind == "page" else "")


def test_a_stream_waits_until_everything_is_taken_and_the_next_answer_does_not():
    """What a stream has sent counts as taken: up to 64 KB of it were still here."""
    highs: list[int | None] = []

    async def scenario() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if not highs:
                park(scope)
            highs.append(wire.high)
            await answer(send, b"body")

        protocol, wire = connected(app)
        for number in range(2):
            protocol.data_received(REQUEST % number)
            await asyncio.sleep(0.01)
        protocol.connection_lost(None)

    asyncio.run(scenario())
    assert highs == [0, None]


def test_a_client_that_takes_nothing_gives_its_slot_back(monkeypatch: pytest.MonkeyPatch):
    """Over a socket: who reads late finds the connection cut, where it held its slot for ever."""
    monkeypatch.setattr("topics.http_bounds.HTTP_TAKE_WAIT_S", 0.3)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await answer(send, BIG)

    def taken(wait_s: float, pause_s: float, before: bytes = b"") -> int:
        last = b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        with live(app) as port, socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(before + last)
            time.sleep(wait_s)
            size = 0
            try:
                while piece := client.recv(2**20):
                    size += len(piece)
                    time.sleep(pause_s)
            except ConnectionResetError:
                pass
            return size

    assert taken(wait_s=1.0, pause_s=0) < len(BIG)
    assert taken(wait_s=1.0, pause_s=0, before=REQUEST % 1) < len(BIG)  # nothing is closed yet
    assert taken(wait_s=0, pause_s=0.02) > len(BIG)  # slow, but it takes
