"""Passing a request on to another process whose answer may be a stream that never ends.

The gateway's way to its cells (topics/http_client.py) takes whole answers; this one hands the body
on as it comes, and reads no faster than the client takes: at most STREAM_RELAY_BYTES are held. One
connection per request; what breaks on the way breaks the client's connection too, so that a cut
stream never looks like one that has ended. A stream ends with this process's drain, behind a whole
record: so it comes here plain, and is compressed here. The other process is told that nobody asks
any more, and closes behind its last bytes, which are passed on.

A group's stream counts as taken where its groups are coordinated, so that process is told what has
arrived: each time the client's connection has taken everything, how many bytes that were
(topics/stream_passage.py), in chunks of a request body without an end. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import httptools
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import Unavailable
from engine.limits import PROXY_TIMEOUT_S, STREAM_RELAY_BYTES
from topics.http import Call
from topics.http_body import JSON_TYPE, NDJSON_TYPE, header
from topics.http_client import Request
from topics.http_routes import SSE_TYPE
from topics.http_streaming import abort_of, park, until_gone
from topics.stream_format import Gzip, gzip_of
from topics.stream_passage import passed_line

_PASSED_ON = ("content-type", "cache-control", "retry-after", "allow", "vary")
_CARRIED = ("authorization", "accept", "content-type", "last-event-id")
_RECORD_ENDS = {NDJSON_TYPE: b"\n", SSE_TYPE: b"\n\n"}  # of answers without an end
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
        self.broken = False  # the connection, or the sense of what came

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


_Begun = tuple[_Answer, asyncio.StreamReader, asyncio.StreamWriter]  # an answer whose head is here


class Relayed(Response):
    """The other process's answer, as it comes from `url`. `left` is called at its end."""

    def __init__(
        self,
        answer: _Answer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gzip: Gzip | None,
        left: Callable[[Relayed], None],
        reporting: bool,
        url: str,
    ) -> None:
        self.url = url
        status = answer.parser.get_status_code()
        headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        kind = headers.setdefault("content-type", JSON_TYPE).partition(";")[0]
        self._record_end = _RECORD_ENDS.get(kind, b"")
        self._tail = b""  # the last bytes that were passed on
        self._gzip = gzip if self._record_end else None
        if self._gzip is not None:
            headers["content-encoding"] = "gzip"
        super().__init__(status_code=status, headers=headers)
        del self.headers["content-length"]  # of the empty body that it was made with
        self._answer = answer
        self._reader = reader
        self._writer = writer
        self._left = left
        self._reporting = reporting and bool(self._record_end)
        self._arrived = 0  # bytes that the client's connection has taken
        self._ending = asyncio.Event()
        self._cut = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        tasks: list[asyncio.Task[Any]] = []
        if self._record_end:
            park(scope)
        try:
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            gone = asyncio.create_task(until_gone(receive))
            work = asyncio.create_task(self._pass_on(send, gone))
            tasks = [gone, work, asyncio.create_task(self._cut.wait())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done() and not (work.done() and work.result()):
                abort_of(scope)()
                await asyncio.wait({gone}, timeout=1)
        finally:
            self.drop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def drop(self) -> None:
        """Nobody wants it, or wants more of it."""
        self._writer.transport.abort()
        self._left(self)

    def end(self) -> None:
        """End an answer without an end, behind the last whole record of what is on its way."""
        if self._record_end and not self._ending.is_set():
            self._ending.set()
            if not self._writer.is_closing():
                self._writer.write_eof()

    def cut(self) -> None:
        """End it now, wherever it is."""
        self._cut.set()

    @property
    def endless(self) -> bool:
        """Whether it is a stream."""
        return bool(self._record_end)

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._ending.is_set()

    async def _pass_on(self, send: Send, gone: asyncio.Task[None]) -> bool:
        """Whether the answer came to its end, or in a drain to that of its last whole record."""
        ending: asyncio.Future[Any] = asyncio.ensure_future(self._ending.wait())
        feeding: asyncio.Future[Any] | None = None
        held = b""  # in a drain: of a record that has not ended
        closed = False
        try:
            while True:
                body, held = held + self._answer.taken(), b""
                if ending.done() and not self._answer.whole:
                    body, held = self._whole_records(body)
                if body:
                    self._tail = (self._tail + body)[-max(len(self._record_end), 1) :]
                    piece = self._gzip.add(body) if self._gzip is not None else body
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    if self._reporting:
                        await self._report(send, gone, len(body))
                if self._answer.whole or (closed and self._between()):
                    rest = self._gzip.end() if self._gzip is not None else b""
                    await send({"type": "http.response.body", "body": rest})
                    return True
                if closed:
                    return False
                feeding = feeding or asyncio.ensure_future(_feed(self._answer, self._reader))
                among = {feeding} if ending.done() else {feeding, ending}
                await asyncio.wait(among, return_when=asyncio.FIRST_COMPLETED)
                if feeding.done():
                    closed = not feeding.result()
                    if closed and (self._answer.broken or not ending.done()):
                        return False
                    feeding = None
        finally:
            ending.cancel()
            if feeding is not None:
                feeding.cancel()

    async def _report(self, send: Send, gone: asyncio.Task[None], size: int) -> None:
        """Wait until the client's connection has taken what was sent, `size` bytes more of the
        stream, and say so. To a client that has gone the server sends nothing, and waits for
        nothing."""
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await asyncio.sleep(0)  # a connection that was lost just now is `gone` after this turn
        self._arrived += size
        if not (gone.done() or self._ending.is_set() or self._writer.is_closing()):
            line = passed_line(self._arrived)
            self._writer.write(b"%x\r\n%b\r\n" % (len(line), line))

    def _between(self) -> bool:
        """Whether no record has begun and not ended of what was passed on."""
        return self._tail in (b"", self._record_end)

    def _whole_records(self, body: bytes) -> tuple[bytes, bytes]:
        """(`body` up to the last end of a record, what is behind it); all of it when it is too
        much to hold."""
        if len(body) > STREAM_RELAY_BYTES:
            return body, b""
        found = (self._tail + body).rfind(self._record_end)
        at = max(found + len(self._record_end) - len(self._tail), 0) if found >= 0 else 0
        return body[:at], body[at:]


class Relays:
    """The answers of other processes that this one passes on."""

    def __init__(self) -> None:
        self._open: set[Relayed] = set()
        self._asking: dict[asyncio.Future[_Begun], str] = {}  # no head yet -> who is asked
        self._ending = False

    async def relay(
        self,
        url: str,
        call: Call,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        reporting: bool = False,
    ) -> Relayed:
        """Ask `url` for `target` and give the answer on; `reporting`: say there how much of a
        stream has arrived (then there is no `body`). Unavailable when it can't be reached or says
        nothing."""
        more = {"transfer-encoding": "chunked"} if reporting else {}
        request = Request(
            call.route.method,
            target + query_of(call),
            {**headers, **carried(call), **more, "connection": "close"},
            body,
        )
        answer, reader, writer = await self._begun(url, request)
        gzip = gzip_of(call.headers)
        found = Relayed(answer, reader, writer, gzip, self._open.discard, reporting, url)
        self._open.add(found)
        if self._ending:
            found.end()
        return found

    async def _begun(self, url: str, request: Request) -> _Begun:
        """The head of the answer; Unavailable when `url` is left meanwhile."""
        asking = asyncio.ensure_future(_asked(url, request))
        self._asking[asking] = url
        try:
            return await asking
        except asyncio.CancelledError:
            if asking in self._asking:
                raise
            raise Unavailable(f"{url} is not to be asked any more: try again") from None
        finally:
            self._asking.pop(asking, None)

    def end_all(self) -> None:
        """The process ends: so do streams."""
        self._ending = True
        for relayed in self._open:
            relayed.end()

    def cut_all(self) -> None:
        """Those that were told to end and have not yet."""
        for relayed in list(self._open):
            if relayed.ending:
                relayed.cut()

    def leave(self, url: str) -> None:
        """Cut the endless answers of one that is not to be listened to any more, and what it has
        not begun to answer."""
        for asking in [asking for asking, asked in self._asking.items() if asked == url]:
            del self._asking[asking]
            asking.cancel()
        for relayed in list(self._open):
            if relayed.url == url and relayed.endless:
                relayed.cut()


async def _feed(answer: _Answer, reader: asyncio.StreamReader) -> bool:
    """Read some more; False at the end of the connection or of sense."""
    try:
        data = await reader.read(STREAM_RELAY_BYTES // 2)
        answer.parser.feed_data(data)
    except (OSError, httptools.HttpParserError, httptools.HttpParserUpgrade):
        answer.broken = True
        return False
    return bool(data)


async def _asked(url: str, request: Request) -> _Begun:
    """The head of an answer, and where the rest comes from."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _HTTP_PORT
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
    return answer, reader, writer
