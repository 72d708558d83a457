"""The load client: answers in pieces, failures counted, connections that end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from bench.load import Client, Connection, Task, _Generator, for_each
from engine.errors import FirecellError, Unavailable

_BODY = b'{"posts":[{"seen":true},{"seen":false}]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_server(serve: Serve, use: Callable[[str], Awaitable[None]]) -> None:
    """Run `use(url)` beside a server on a free port."""

    serving: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def both() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            await use(f"http://127.0.0.1:{port}")
            await asyncio.gather(*(task for task in serving if task is not None))

    asyncio.run(both())


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.readline():
        while await reader.readline() != b"\r\n":
            pass
        writer.write(_ANSWER)
        await writer.drain()


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_an_answer_in_pieces_is_whole(size: int) -> None:
    answers: list[tuple[int, bytes]] = []
    connection = Connection(lambda status, body: answers.append((status, body)))
    for _ in range(2):
        for first in range(0, len(_ANSWER), size):
            connection.data_received(_ANSWER[first : first + size])
    assert answers == [(200, _BODY)] * 2


def test_an_answer_without_a_length_is_refused() -> None:
    connection = Connection(lambda status, body: None)
    with pytest.raises(FirecellError, match="Content-Length"):
        connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


def test_for_each_asks_for_every_item_once() -> None:
    asked: list[int] = []

    async def work(client: Client, item: int) -> None:
        asked.append(item)
        assert await client.get(f"/{item}") == (200, _BODY)

    with_server(answer_all, lambda url: for_each(url, range(50), work, 4))
    assert sorted(asked) == list(range(50))


def test_a_closed_connection_is_an_error_restart() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()

    async def use(url: str) -> None:
        client = Client(url)
        with pytest.raises(Unavailable, match="closed"):
            await client.get("/")
        client.close()

    with_server(hang_up, use)


def test_nobody_there_is_an_error() -> None:
    async def use() -> None:
        with pytest.raises(Unavailable, match="does not answer"):
            await Client("http://127.0.0.1:9").get("/")

    asyncio.run(use())


def test_a_load_counts_pages_and_posts() -> None:
    async def use(url: str) -> None:
        result = await _Generator(Task(url, ["/a", "/b"], 4, 0.3, 0.05)).run()
        assert result.requests > 100
        assert result.failures == 0
        assert result.posts_per_page == 2
        assert result.bytes_per_page == len(_BODY)
        assert 0 < result.latency_ms["p50"] <= result.latency_ms["p99"]

    with_server(answer_all, use)


def test_failures_are_counted_not_hidden() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()

    async def use(url: str) -> None:
        result = await _Generator(Task(url, ["/"], 2, 0.2, 0.05)).run()
        assert result.failures == result.requests > 0

    with_server(refuse, use)


def test_each_path_once_ends_by_itself() -> None:
    async def use(url: str) -> None:
        paths = [f"/{number}" for number in range(50)]
        result = await _Generator(Task(url, paths, 4, 15, warm_seconds=0, once=True)).run()
        assert (result.requests, result.failures) == (50, 0)

    with_server(answer_all, use)
