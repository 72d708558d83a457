"""A reader's dashboard as it fills: server-sent events, one per post that becomes visible.

A stream walks the pages above its cursor whenever its cell has applied a batch, page by page: each
is asked for as every other page is (off the loop where it waits for a network), and sent before the
next one. Behind a page the cursor moves up to it, but not above `settled` of the walk's first page;
what was told above the cursor is left out. One ticker looks for all of a process's streams, and
only some of them ask at once. Each event's `id:` is such a cursor: `Last-Event-ID` goes on there,
and may repeat the posts of the last seconds. Posts that become visible far below (a follow brings
older ones) are not told: the next walk has them.

Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, Protocol

import msgspec

from engine.errors import FirecellError, Unavailable
from engine.limits import (
    DASHBOARD_STREAM_ASKING_MAX,
    DASHBOARD_STREAM_LOOK_S,
    DASHBOARD_STREAM_SEEN_MAX,
    PAGE_POSTS_MAX,
    RETRY_FIRST_MS,
    RETRY_MS_MAX,
    STREAM_HEARTBEAT_S,
)
from topics.http_body import Headers, header
from topics.http_problem import log_failure, problem_bytes
from topics.http_query import cursor
from topics.http_routes import SSE_TYPE
from topics.http_streaming import StreamResponse, Write
from topics.stream_format import gzip_of

_HEARTBEAT = b'event: control\ndata: {"control":"heartbeat"}\n\n'
_Ask = Callable[[Callable[[], bytes]], Awaitable[bytes]]


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


class _News(NamedTuple):
    """What a page has that was not told: the posts oldest first, as JSON."""

    keys: list[tuple[int, str]]
    posts: list[bytes]


_page = msgspec.json.Decoder(_Page)
_post = msgspec.json.Decoder(_Post)


class Ticker:
    """What the streams of a process share: it wakes them when their cell has applied something, or
    is ending. `ask` gives a page, off the loop where it has to be."""

    def __init__(self, version: Callable[[], int], ending: Callable[[], bool], ask: _Ask) -> None:
        self._version = version
        self.ending = ending
        self._ask = ask
        self._asking = asyncio.Semaphore(DASHBOARD_STREAM_ASKING_MAX)
        self._waiting: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    async def page(self, call: Callable[[], bytes]) -> bytes:
        """What `call` gives, when it is this stream's turn. The loop has one between two pages."""
        async with self._asking:
            found = await self._ask(call)
        await asyncio.sleep(0)
        return found

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
    """One reader's stream; `begin` first, then `run`."""

    def __init__(self, pages: Dashboards, reader: int, ticker: Ticker) -> None:
        self._pages = pages
        self._reader = reader
        self._ticker = ticker
        self._told: dict[tuple[int, str], None] = {}  # posts above the cursor, in order
        self._cursor = ""
        self._above = ""  # where a walk begins: the cursor, or what was told and is forgotten
        self._beat_at = 0.0
        self._retry_ms = RETRY_FIRST_MS

    async def begin(self, since: str | None) -> None:
        """`since`: a cursor to go on at; None begins with what comes now. BadInput for what is no
        cursor, WrongCell, Unavailable."""
        ask = partial(self._pages.dashboard, self._reader, limit=1, newer=since)
        first = _page.decode(await self._ticker.page(ask))
        self._cursor = self._above = since or first.settled
        if since is None:
            async for _ in self._walk():  # what is there already is not news
                pass

    async def run(self, write: Write) -> None:
        """Until the process ends, the client leaves, or the reader is not at home here any more."""
        wake = asyncio.Event()
        self._ticker.add(wake)
        try:
            hello = f'event: control\nid: {self._cursor}\ndata: {{"control":"hello"}}\n\n'
            await self._write(write, hello.encode())
            while not self._ticker.ending():
                wake.clear()
                try:
                    async for content in self._walk():
                        await self._write(write, content)
                    self._retry_ms, rest_s = RETRY_FIRST_MS, STREAM_HEARTBEAT_S
                except Unavailable:  # the walk goes on where it was
                    rest_s = self._retry_ms / 1_000
                    self._retry_ms = min(2 * self._retry_ms, RETRY_MS_MAX)
                if time.monotonic() - self._beat_at >= STREAM_HEARTBEAT_S:
                    await self._write(write, _HEARTBEAT)
                await _rest(wake, rest_s)
        except FirecellError as error:
            if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
                log_failure(error, "dashboard_stream")
            said = b'{"control":"error","problem":%b}' % problem_bytes(error)
            await write(b"event: control\ndata: %b\n\n" % said)
        finally:
            self._ticker.remove(wake)

    async def _write(self, write: Write, content: bytes) -> None:
        if content:
            self._beat_at = time.monotonic()
            await write(content)

    async def _walk(self) -> AsyncIterator[bytes]:
        """Events of the posts above the cursor that were not told yet, oldest first, a page at a
        time; the cursor moves behind each page. Ends early when the process does."""
        place: str | None = self._above
        settled = ""
        while place is not None and not self._ticker.ending():
            ask = partial(self._pages.dashboard, self._reader, limit=PAGE_POSTS_MAX, newer=place)
            page = _page.decode(await self._ticker.page(ask))
            settled = settled or page.settled
            place = page.next
            news = self._news(page)
            head = f"id: {self._cursor}\ndata: ".encode()
            yield b"".join(head + post + b"\n\n" for post in news.posts)
            self._told |= dict.fromkeys(news.keys)
            if place is not None and _id_of(place) < _id_of(settled):
                self._move(place)
            else:
                self._move(settled)

    def _news(self, page: _Page) -> _News:
        found = _News([], [])
        for post in reversed(page.posts):
            about = _post.decode(post)
            key = (int(about.id), about.author)
            if key not in self._told:
                found.keys.append(key)
                found.posts.append(bytes(post))
        return found

    def _move(self, place: str) -> None:
        """The cursor up to `place`; of what was told, what lies above it is remembered."""
        if _id_of(place) > _id_of(self._cursor):
            self._cursor = place
            if _id_of(place) > _id_of(self._above):
                self._above = place
            floor = _id_of(place)
            self._told = {key: None for key in self._told if key[0] >= floor}
        while len(self._told) > DASHBOARD_STREAM_SEEN_MAX:
            key = next(iter(self._told))
            del self._told[key]
            if key[0] > _id_of(self._above):  # or it would be told again by every walk
                self._above = f"v1-{key[0]}-{key[1]}"


async def _rest(wake: asyncio.Event, timeout_s: float) -> None:
    """Until it is set, or for so long."""
    timer = asyncio.get_running_loop().call_later(timeout_s, wake.set)
    try:
        await wake.wait()
    finally:
        timer.cancel()


def _id_of(place: str) -> int:
    """The post id of a cursor `v1-<id>-<author>`."""
    return int(place.split("-")[1])


async def stream_response(
    pages: Dashboards, reader: int, query: Mapping[str, str], headers: Headers, ticker: Ticker
) -> StreamResponse:
    """The answer to GET /v1/users/{id}/dashboard/stream. BadInput for a bad cursor, WrongCell."""
    last = header(headers, b"last-event-id")
    since = cursor({"Last-Event-ID": last.decode("latin-1")}, "Last-Event-ID") if last else None
    stream = DashboardStream(pages, reader, ticker)
    await stream.begin(since or cursor(query, "newer"))
    return StreamResponse(stream.run, lambda clean: None, SSE_TYPE, gzip_of(headers))
