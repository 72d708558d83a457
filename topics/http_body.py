"""Request bodies within bounds: bytes while they stream in, seconds, content type and encoding.

One `Body` belongs to one request and lives on the event loop. Nothing is read before it is asked
for, and what is refused is not read to its end (I12).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Receive

from engine.errors import BadInput, TooLarge, Unavailable
from engine.limits import HTTP_BODIES_BYTES_MAX, HTTP_BODY_WAIT_S, HTTP_LINGER_S
from topics.http_problem import refused

JSON_TYPE = "application/json"
NDJSON_TYPE = "application/x-ndjson"
Headers = Sequence[tuple[bytes, bytes]]


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first header called `name` (lower case)."""
    for key, value in headers:
        if key == name:
            return value
    return None


class BodyBudget:
    """What the bodies of all requests of a process may hold at once."""

    def __init__(self, bytes_max: int = HTTP_BODIES_BYTES_MAX) -> None:
        self._left = bytes_max

    def take(self, count: int) -> None:
        """Unavailable when there is no room for `count` bytes."""
        if count > self._left:
            raise Unavailable("too many request bodies at once: send this one again")
        self._left -= count

    def give_back(self, count: int) -> None:
        """`count` bytes are no longer held."""
        self._left += count


class Body:
    """One request's body. `unread`: the client has something to send that was not received."""

    def __init__(self, headers: Headers, receive: Receive, budget: BodyBudget) -> None:
        self._budget = budget
        self._held = 0
        length = header(headers, b"content-length")
        self._declared = int(length) if length is not None and length.isdigit() else None
        chunked = header(headers, b"transfer-encoding") is not None
        self.unread = chunked or bool(self._declared)
        self._headers = headers
        self._receive = receive

    def content_type(self, allowed: Sequence[str]) -> str:
        """The media type, one of `allowed`; 415 for others and for compressed bodies."""
        encoding = (header(self._headers, b"content-encoding") or b"identity").strip().lower()
        if encoding != b"identity":
            raise refused(415, "content-encoding is not supported: send the body as it is")
        text = (header(self._headers, b"content-type") or b"").decode("latin-1").lower()
        media, _, parameters = text.partition(";")
        if media.strip() not in allowed:
            raise refused(415, f"content-type must be {' or '.join(allowed)}", "content-type")
        charset = parameters.strip().replace('"', "")
        if charset.startswith("charset=") and charset[8:] not in ("utf-8", "utf8", "us-ascii"):
            raise refused(415, "the charset must be utf-8", "content-type")
        return media.strip()

    async def read(self, bytes_max: int) -> bytes:
        """The whole body. TooLarge past `bytes_max`, 408 when it takes too long."""
        if self._declared is not None and self._declared > bytes_max:
            raise TooLarge(f"a body of {self._declared} bytes; at most {bytes_max}")
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(HTTP_BODY_WAIT_S):
                while self.unread:
                    chunk = await self._next()
                    if self._held + len(chunk) > bytes_max:
                        raise TooLarge(f"a body of more than {bytes_max} bytes")
                    self._budget.take(len(chunk))
                    self._held += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise refused(
                408, f"the body did not come within {HTTP_BODY_WAIT_S} s: send it again"
            ) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self) -> None:
        """Give the budget back: the request is over."""
        self._budget.give_back(self._held)
        self._held = 0

    async def linger(self) -> None:
        """Throw away what is still being sent, for a short time: a connection that is closed over
        unread bytes is reset, and the client never sees why it was refused."""
        try:
            async with asyncio.timeout(HTTP_LINGER_S):
                while self.unread:
                    await self._next()
        except (TimeoutError, BadInput):
            return

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.unread = False
            raise BadInput("the client left before its body was whole")
        self.unread = bool(message.get("more_body", False))
        chunk: bytes = message.get("body", b"")
        return chunk


def split_lines(body: bytes, lines_max: int) -> list[bytes]:
    """The lines of an NDJSON body; a line end at the very end opens no further line.

    TooLarge for more than `lines_max`; nothing of such a batch is kept.
    """
    count = body.count(b"\n") + (1 if body and not body.endswith(b"\n") else 0)
    if count > lines_max:
        raise TooLarge(f"a batch of {count} lines; at most {lines_max}: send several")
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def require_line(line: bytes) -> bytes:
    """`line` unless it is blank: every line has a result, so a blank one is an error."""
    if not line.strip():
        raise BadInput("an empty line: every line must be one event")
    return line
