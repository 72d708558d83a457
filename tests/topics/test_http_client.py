"""The gateway's client against servers that behave in every way: reuse, ends, lies, silence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from engine.errors import Unavailable
from engine.limits import PROXY_CONNECTIONS_PER_CELL_MAX
from topics.http_client import Answer, CellPool, Request

GET = Request("GET", "/x?a=1", {})
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nRetry-After: 1\r\n\r\n{}"
Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


class Served:
    """A server that treats its n-th connection as `behave(reader, writer, n)` says."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.connections = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self.behave(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def run(self, scenario: Callable[[CellPool], Awaitable[None]]) -> None:
        """Serve on a free port while `scenario` asks."""

        async def both() -> None:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            pool = CellPool(f"http://127.0.0.1:{port}")
            try:
                await asyncio.wait_for(scenario(pool), 20)
            finally:
                pool.close()
                server.close()
                await asyncio.sleep(0.01)

        asyncio.run(both())


async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(OK)


def test_requests_in_a_row_share_one_connection():
    served = Served(polite)

    async def scenario(pool: CellPool) -> None:
        for _ in range(5):
            answer = await pool.ask(GET, 5)
            assert (answer.status, answer.body) == (200, b"{}")
            assert answer.headers["retry-after"] == "1"

    served.run(scenario)
    assert served.connections == 1


def test_requests_at_once_are_bounded_and_all_answered():
    async def slow(reader, writer, number) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.005)
            writer.write(OK)

    served = Served(slow)

    async def scenario(pool: CellPool) -> None:
        answers = await asyncio.gather(*(pool.ask(GET, 10) for _ in range(300)))
        assert {answer.status for answer in answers} == {200}

    served.run(scenario)
    assert 1 < served.connections <= PROXY_CONNECTIONS_PER_CELL_MAX


def test_what_is_sent_is_one_whole_request():
    received = []

    async def note(reader, writer, number) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(4))
        writer.write(OK)
        await reader.read()

    async def scenario(pool: CellPool) -> None:
        await pool.ask(Request("PUT", "/m", {"content-type": "application/json"}, b"null"), 5)

    Served(note).run(scenario)
    head = received[0].decode()
    assert head.startswith("PUT /m HTTP/1.1\r\nhost: 127.0.0.1:")
    assert "\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull" in head


def test_a_kept_connection_that_has_ended_is_replaced():
    async def once(reader, writer, number) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)

    served = Served(once)

    async def scenario(pool: CellPool) -> None:
        for _ in range(4):
            assert (await pool.ask(GET, 5)).status == 200

    served.run(scenario)
    assert served.connections == 4


def test_connection_close_is_obeyed_and_chunks_are_joined():
    async def chunked(reader, writer, number) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n")
        for piece in (b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    served = Served(chunked)

    async def scenario(pool: CellPool) -> None:
        for _ in range(2):
            answer = await pool.ask(GET, 5)
            assert (answer.status, answer.body) == (503, b"abcde")

    served.run(scenario)
    assert served.connections == 2


@pytest.mark.parametrize(
    "raw",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf", b"SSH-2.0-x\r\n", b"HTTP/1.1 20",
     b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}"],
)  # fmt: skip
def test_half_and_wrong_answers_are_connection_errors(raw):
    async def lie(reader, writer, number) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()

    async def scenario(pool: CellPool) -> None:
        with pytest.raises(ConnectionError):
            await pool.ask(GET, 5)

    Served(lie).run(scenario)


def test_an_answer_that_is_too_large_is_cut_off(monkeypatch):
    monkeypatch.setattr("topics.http_client.PROXY_ANSWER_BYTES_MAX", 1_000)

    async def flood(reader, writer, number) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async def scenario(pool: CellPool) -> None:
        with pytest.raises(ConnectionError):
            await pool.ask(GET, 5)

    Served(flood).run(scenario)


def test_a_late_answer_never_reaches_another_request():
    """The first request times out; its answer comes later, on a connection that nobody uses."""

    async def late(reader, writer, number) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b"late" if number == 1 else b"mine"
        await asyncio.sleep(0.1 if number == 1 else 0.2)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + body)
        await reader.read()

    async def scenario(pool: CellPool) -> None:
        with pytest.raises(TimeoutError):
            await pool.ask(GET, 0.05)
        assert (await pool.ask(GET, 5)).body == b"mine"

    Served(late).run(scenario)


def test_data_that_nobody_asked_for_ends_the_connection():
    async def chatty(reader, writer, number) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + (OK.replace(b"{}", b"[]") if number == 1 else b""))
        await reader.read()

    served = Served(chatty)

    async def scenario(pool: CellPool) -> None:
        assert (await pool.ask(GET, 5)).body == b"{}"
        await asyncio.sleep(0.02)
        assert (await pool.ask(GET, 5)).body == b"{}"

    served.run(scenario)
    assert served.connections == 2


def test_nobody_listens():
    async def scenario() -> None:
        with pytest.raises(OSError):
            await CellPool("http://127.0.0.1:9").ask(GET, 5)

    asyncio.run(scenario())


def test_bodies_are_decoded_or_named_as_no_page():
    assert Answer(200, {}, b'{"a":1}').decoded(dict[str, int]) == {"a": 1}
    for raw in (b"<html>", b'{"a":"x"}', b""):
        with pytest.raises(Unavailable):
            Answer(200, {}, raw).decoded(dict[str, int])
