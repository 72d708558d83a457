"""Passing a request on to another process whose answer may be a stream that never ends.

The gateway's way to its cells (topics/http_client.py) takes whole answers; this one hands the body
on as it comes, and reads no faster than the client takes: at most STREAM_RELAY_BYTES are held. One
connection per request; what breaks on the way breaks the client's connection too, so that a cut
stream never looks like one that has ended. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import httptools
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import Unavailable
from engine.limits import PROXY_TIMEOUT_S, STREAM_RELAY_BYTES
from topics.http import Call
from topics.http_body import JSON_TYPE, header
from topics.http_client import Request
from topics.http_streaming import abort_of, until_gone

_PASSED_ON = ("content-type", "content-encoding", "cache-control", "retry-after", "allow")
_CARRIED = ("authorization", "accept", "accept-encoding", "content-type", "last-event-id")
_HTTP_PORT = 80


def carried(call: Call) -> dict[str, str]:
    """The headers of a request that the other process has to see."""
    found = {}
    for name in _CARRIED:
        value = header(call.headers, name.encode())
        if value is not None:
            found[name] = value.decode("latin-1")
    return found


def query_of(call: Call) -> str:
    """`?a=1&b=2`, or nothing."""
    return f"?{urlencode(call.query)}" if call.query else ""


class _Answer:
    """What the parser finds."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.begun = self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self.begun = True

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """The end."""
        self.whole = True

    def taken(self) -> bytes:
        """The body so far that nobody has taken."""
        found, self.body = b"".join(self.body), []
        return found


class Relayed(Response):
    """The other process's answer, as it comes."""

    def __init__(
        self, answer: _Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        status = answer.parser.get_status_code()
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        headers.setdefault("content-type", JSON_TYPE)
        super().__init__(status_code=status, headers=headers)
        del self.headers["content-length"]  # of the empty body that it was made with
        self._answer = answer
        self._reader = reader
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        head = {"type": "http.response.start", "status": self.status_code}
        await send({**head, "headers": self.raw_headers})
        gone = asyncio.create_task(until_gone(receive))
        work = asyncio.create_task(self._pass_on(send))
        try:
            await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and not gone.done() and not work.result():
                abort_of(scope)()
                await asyncio.wait({gone}, timeout=1)
        finally:
            self._writer.transport.abort()
            for task in (gone, work):
                task.cancel()
            await asyncio.gather(gone, work, return_exceptions=True)

    def drop(self) -> None:
        """Nobody wants it."""
        self._writer.transport.abort()

    async def _pass_on(self, send: Send) -> bool:
        """Whether the answer came to its end."""
        while True:
            body = self._answer.taken()
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
            if self._answer.whole:
                await send({"type": "http.response.body", "body": b""})
                return True
            if not await _feed(self._answer, self._reader):
                return False


async def _feed(answer: _Answer, reader: asyncio.StreamReader) -> bool:
    """Read some more; False at the end of the connection or of sense."""
    try:
        data = await reader.read(STREAM_RELAY_BYTES // 2)
        answer.parser.feed_data(data)
    except (OSError, httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return bool(data)


async def relay(
    url: str, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
) -> Relayed:
    """Ask `url` and give the answer on. Unavailable when it can't be reached or says nothing."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _HTTP_PORT
    request = Request(method, target, {**headers, "connection": "close"}, body)
    answer = _Answer()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(PROXY_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port, limit=STREAM_RELAY_BYTES)
            writer.write(request.encoded(parts.netloc))
            while not answer.begun:
                if not await _feed(answer, reader):
                    break
    except (OSError, TimeoutError):
        answer.begun = False
    except asyncio.CancelledError:
        if writer is not None:
            writer.transport.abort()
        raise
    if not answer.begun or writer is None:
        if writer is not None:
            writer.transport.abort()
        raise Unavailable(f"{url} does not answer: try again")
    return Relayed(answer, reader, writer)
