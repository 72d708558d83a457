"""How a stream is written: NDJSON or server-sent events, plain or gzip. Pure but for the gzip's own
state; one per stream.

An SSE event's `id:` is the whole next-vector behind it, so a browser's EventSource goes on where it
was; NDJSON has each event's own `position`, and the vectors in control records.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from engine.errors import BadInput
from engine.limits import STREAM_GZIP_LEVEL
from topics.http_body import NDJSON_TYPE, Headers, header
from topics.http_routes import SSE_TYPE
from topics.stream_reader import Page
from topics.stream_since import vector_text

_encode = msgspec.json.Encoder().encode
_GZIP_WINDOW = 31  # zlib's number for the gzip format


class Framing(Protocol):
    """Writes pages and control records."""

    media_type: str

    def page(self, page: Page, behind: Mapping[int, int]) -> bytes:
        """A page's lines; `behind`: next offsets of all partitions behind the page."""

    def control(self, record: Mapping[str, Any], positions: Mapping[int, int]) -> bytes:
        """A control record."""


class Ndjson:
    """One JSON object a line."""

    media_type = NDJSON_TYPE

    def page(self, page: Page, behind: Mapping[int, int]) -> bytes:
        """The lines as they are."""
        return page.body

    def control(self, record: Mapping[str, Any], positions: Mapping[int, int]) -> bytes:
        """One line."""
        return _encode(record) + b"\n"


class ServerSent:
    """Events with the next-vector as `id:`; control records are events named `control`."""

    media_type = SSE_TYPE

    def page(self, page: Page, behind: Mapping[int, int]) -> bytes:
        """`id:` and `data:` of each line."""
        if not page.offsets:
            return b""
        place = {**behind, page.partition: -1}
        before, _, after = vector_text(place).partition(f"{page.partition}:-1")
        head = f"id: {before}{page.partition}:".encode()
        middle = f"{after}\ndata: ".encode()
        following = [offset + 1 for offset in page.offsets]
        following[-1] = page.next  # what was filtered out behind the last line counts as well
        lines = page.body.split(b"\n")
        return b"".join(
            b"%b%d%b%b\n\n" % (head, offset, middle, line)
            for offset, line in zip(following, lines, strict=False)
        )

    def control(self, record: Mapping[str, Any], positions: Mapping[int, int]) -> bytes:
        """`event: control`."""
        vector = vector_text(positions).encode()
        return b"event: control\nid: %b\ndata: %b\n\n" % (vector, _encode(record))


def framing_of(wanted: str | None, headers: Headers) -> Framing:
    """By `format`, else by the Accept header; NDJSON when neither says."""
    if wanted is None:
        accept = header(headers, b"accept") or b""
        wanted = "sse" if SSE_TYPE.encode() in accept else "ndjson"
    if wanted not in ("ndjson", "sse"):
        raise BadInput(f"format: {wanted[:20]!r} is neither ndjson nor sse", "format")
    return ServerSent() if wanted == "sse" else Ndjson()


class Gzip:
    """One stream's compressor: what went in comes out at once."""

    def __init__(self) -> None:
        self._state = zlib.compressobj(STREAM_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def add(self, content: bytes) -> bytes:
        """`content`, compressed, up to a byte's end."""
        return self._state.compress(content) + self._state.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """The rest."""
        return self._state.flush(zlib.Z_FINISH)


def gzip_of(headers: Headers) -> Gzip | None:
    """A compressor when the client takes gzip."""
    accepted = (header(headers, b"accept-encoding") or b"").lower()
    for item in accepted.split(b","):
        name, _, weight = item.partition(b";")
        if name.strip() == b"gzip" and weight.replace(b" ", b"") not in (b"q=0", b"q=0.0"):
            return Gzip()
    return None
