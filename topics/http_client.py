"""A lean HTTP/1.1 client for the gateway's way to its cells: a bounded keep-alive pool per cell.

Own code for its speed only: httpx takes 0.8 to 1.8 ms of CPU for a page of 4 KB (1 to 64 requests
at once), this 0.03 ms, with the same llhttp parser as the server's. It speaks only to our own
servers: whole answers with a length or chunks; no redirects, proxies, TLS. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httptools
import msgspec

from engine.errors import Unavailable
from engine.limits import PROXY_ANSWER_BYTES_MAX, PROXY_CONNECTIONS_PER_CELL_MAX

_HTTP_PORT = 80


class Answer(NamedTuple):
    """A whole answer. `headers`: lower-case names, the last of each."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def decoded(self, kind: Any) -> Any:
        """The JSON body as `kind`; Unavailable when it is something else."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.DecodeError:
            raise Unavailable("a cell answered with something that is no page of ours") from None


class Request(NamedTuple):
    """What is asked: `target` is path and query, percent-encoded."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    def encoded(self, host: str) -> bytes:
        """The bytes on the wire."""
        lines = [f"{self.method} {self.target} HTTP/1.1", f"host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + self.body


class _Connection(asyncio.Protocol):
    """One connection with at most one request on it."""

    def __init__(self) -> None:
        self.usable = True
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Answer] | None = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection ended before the answer")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("no HTTP answer, or one that is too large")

    async def exchange(self, request: bytes) -> Answer:
        """Send, and wait for the whole answer. ConnectionError when there is none."""
        if self._transport is None or not self.usable:
            raise ConnectionResetError("the connection has ended")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """No more requests."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def _fail(self, cause: str) -> None:
        self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionResetError(cause))

    # --- what the parser calls ---

    def on_message_begin(self) -> None:
        """An answer begins."""
        self._headers, self._body, self._size = {}, [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """A piece of the body; what is raised here stops the parser."""
        self._size += len(body)
        if self._size > PROXY_ANSWER_BYTES_MAX:
            raise Unavailable("a cell's answer is larger than any page of ours")
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._waiter is None or self._waiter.done():
            self.close()  # nobody asked
            return
        if not self._parser.should_keep_alive():
            self.close()
        status = self._parser.get_status_code()
        self._waiter.set_result(Answer(status, self._headers, b"".join(self._body)))


class CellPool:
    """The connections to one address. What is asked may be asked twice: a kept connection that
    ends just then is replaced by a new one."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or _HTTP_PORT
        self._name = parts.netloc
        self._idle: list[_Connection] = []
        self._closed = False
        self._places = asyncio.Semaphore(PROXY_CONNECTIONS_PER_CELL_MAX)

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """The answer, whatever its status. TimeoutError, OSError when there is none."""
        raw = request.encoded(self._name)
        async with asyncio.timeout(timeout_s), self._places:
            while self._idle:
                connection = self._idle.pop()
                if connection.usable:
                    try:
                        return await self._exchange(connection, raw)
                    except ConnectionError:
                        continue
            return await self._exchange(await self._connect(), raw)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection

    async def _exchange(self, connection: _Connection, raw: bytes) -> Answer:
        try:
            answer = await connection.exchange(raw)
        except BaseException:
            connection.close()  # its answer may still come: never for another request
            raise
        if self._closed:
            connection.close()
        elif connection.usable:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """End the kept connections; those in use end with their answers."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
