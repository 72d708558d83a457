"""A reader's dashboard as it fills: server-sent events, one per post that becomes visible.

A stream asks for the pages above its cursor, `settled` of the page before, whenever its cell has
applied a batch, and leaves out what it has told already; one ticker looks for all of a process's
streams. Each event's `id:` is such a cursor: `Last-Event-ID` goes on there, and may repeat the
posts of the last seconds. Posts that become visible far below (a follow brings older ones) are not
told: the next walk has them.

Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec

from engine.errors import Unavailable
from engine.limits import (
    DASHBOARD_STREAM_LOOK_S,
    DASHBOARD_STREAM_SEEN_MAX,
    PAGE_POSTS_MAX,
    RETRY_MS_MAX,
    STREAM_HEARTBEAT_S,
)
from topics.http_body import Headers, header
from topics.http_query import cursor
from topics.http_routes import SSE_TYPE
from topics.http_streaming import StreamResponse, Write
from topics.stream_format import gzip_of

Ask = Callable[[Callable[[], bytes]], Awaitable[bytes]]
"""Gives a page: in a thread where that waits for a network."""
_HEARTBEAT = b'event: control\ndata: {"control":"heartbeat"}\n\n'


class Dashboards(Protocol):
    """What is needed of `cells.reader.Reader`."""

    def dashboard(
        self, reader: int, *, limit: int, cursor: str | None = None, newer: str | None = None
    ) -> bytes:
        """A DashboardPage."""


class _Page(msgspec.Struct):
    posts: list[msgspec.Raw]
    next: str | None
    settled: str


class _Post(msgspec.Struct):
    id: str
    author: str


_page = msgspec.json.Decoder(_Page)
_post = msgspec.json.Decoder(_Post)


class Ticker:
    """Wakes the streams of a process when its cell has applied something, or is ending."""

    def __init__(self, version: Callable[[], int], ending: Callable[[], bool]) -> None:
        self._version = version
        self.ending = ending
        self._waiting: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, event: asyncio.Event) -> None:
        """Wake this one, too."""
        self._waiting.add(event)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tick())

    def remove(self, event: asyncio.Event) -> None:
        """No more."""
        self._waiting.discard(event)

    async def _tick(self) -> None:
        seen = -1
        while self._waiting:
            version = self._version()
            if version != seen or self.ending():
                seen = version
                for event in self._waiting:
                    event.set()
            await asyncio.sleep(DASHBOARD_STREAM_LOOK_S)


class DashboardStream:
    """One reader's stream. `since`: a cursor to go on at; None begins with what comes now."""

    def __init__(
        self, pages: Dashboards, reader: int, since: str | None, ticker: Ticker, ask: Ask
    ) -> None:
        """`begin` it before it runs."""
        self._pages = pages
        self._reader = reader
        self._ticker = ticker
        self._ask = ask
        self._told: dict[tuple[int, str], None] = {}  # posts above the cursor, in order
        self._since = since
        self._cursor = since or ""

    async def begin(self) -> None:
        """Look at the first page. BadInput for a bad cursor, WrongCell, Unavailable."""
        first = partial(self._pages.dashboard, self._reader, limit=1, newer=self._since)
        page = _page.decode(await self._ask(first))
        if self._since is None:
            self._cursor = page.settled
            await self._new()  # what is there already is not news

    async def run(self, write: Write) -> None:
        """Until the process ends, or the client leaves."""
        wake = asyncio.Event()
        self._ticker.add(wake)
        try:
            hello = f'event: control\nid: {self._cursor}\ndata: {{"control":"hello"}}\n\n'
            await write(hello.encode())
            beat_at = time.monotonic()
            while not self._ticker.ending():
                wake.clear()
                look_s = STREAM_HEARTBEAT_S
                try:
                    content = await self._new()
                except Unavailable:  # its store is away: the stream waits, as the cell does
                    content, look_s = b"", RETRY_MS_MAX / 1_000
                if not content and time.monotonic() - beat_at >= STREAM_HEARTBEAT_S:
                    content = _HEARTBEAT
                if content:
                    beat_at = time.monotonic()
                    await write(content)
                timer = asyncio.get_running_loop().call_later(look_s, wake.set)
                try:
                    await wake.wait()
                finally:
                    timer.cancel()
        finally:
            self._ticker.remove(wake)

    async def _new(self) -> bytes:
        """Events of the posts above the cursor that were not told yet, oldest first; the cursor
        moves to what is settled now."""
        found: list[tuple[tuple[int, str], bytes]] = []
        place: str | None = self._cursor
        settled = ""
        while place is not None:
            above = partial(
                self._pages.dashboard, self._reader, limit=PAGE_POSTS_MAX, newer=place
            )
            page = _page.decode(await self._ask(above))
            settled = settled or page.settled
            for post in reversed(page.posts):
                about = _post.decode(post)
                key = (int(about.id), about.author)
                if key not in self._told:
                    found.append((key, bytes(post)))
            place = page.next
        head = f"id: {self._cursor}\ndata: ".encode()
        content = b"".join(head + post + b"\n\n" for _, post in found)
        self._told |= dict.fromkeys(key for key, _ in found)
        if _id_of(settled) > _id_of(self._cursor):
            self._cursor = settled
            floor = _id_of(settled)
            self._told = {key: None for key in self._told if key[0] >= floor}
        while len(self._told) > DASHBOARD_STREAM_SEEN_MAX:
            del self._told[next(iter(self._told))]
        return content


def _id_of(place: str) -> int:
    """The post id of a cursor `v1-<id>-<author>`."""
    return int(place.split("-")[1])


async def stream_response(
    pages: Dashboards,
    reader: int,
    query: Mapping[str, str],
    headers: Headers,
    ticker: Ticker,
    ask: Ask,
) -> StreamResponse:
    """The answer to GET /v1/users/{id}/dashboard/stream. BadInput for a bad cursor, WrongCell,
    Unavailable."""
    last = header(headers, b"last-event-id")
    since = cursor({"Last-Event-ID": last.decode("latin-1")}, "Last-Event-ID") if last else None
    stream = DashboardStream(pages, reader, since or cursor(query, "newer"), ticker, ask)
    await stream.begin()
    return StreamResponse(stream.run, lambda clean: None, SSE_TYPE, gzip_of(headers))
