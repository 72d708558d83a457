"""The stream of one consumer: replay and live in one loop, since a consumer is a position.

Loop: notices -> what lies behind the consumer's places -> send -> taken. Nothing is read ahead of
what the connection takes: a slow consumer is parked at its position and costs one page. What
decides whether it is slow is its lag over a window, and how much of that was spent waiting for it.

Lives on one event loop; one `Delivery` per connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.errors import FirecellError, RetentionPassed, Unavailable
from engine.limits import (
    STREAM_HEARTBEAT_S,
    STREAM_PAGE_RECORDS,
    STREAM_SLOW_SHARE,
    STREAM_SLOW_WINDOW_S,
    STREAM_UNTIL_MARGIN_MS,
)
from topics.backoff import Backoff
from topics.filters import Filter
from topics.http_problem import problem_of
from topics.stream_format import Framing
from topics.stream_reader import Ends, Page, PageReader, Passed, Place
from topics.stream_since import StreamLog, gap

Send = Callable[[bytes], Awaitable[None]]


class Feed(Protocol):
    """Which places are a consumer's to read: all of them (`Loose`), or a group's member's."""

    session: str
    wake: asyncio.Event
    notices: list[dict[str, Any]]
    ended: FirecellError | None
    sending_since: float | None

    def places(self) -> dict[int, int]:
        """Partition -> next offset, of what may be given now."""

    def positions(self) -> dict[int, int]:
        """Partition -> next offset, of all that it has."""

    def give(self, page: Page, now: float) -> bool:
        """Whether `page` may be sent."""

    def took(self, pages: Sequence[Page], now: float) -> None:
        """The connection has taken what was sent."""

    def skip(self, partition: int, floor: int) -> None:
        """Go on at `floor`."""


class Loose:
    """A consumer without a group: every partition, kept by nobody but itself."""

    def __init__(self, session: str, vector: Mapping[int, int]) -> None:
        self.session = session
        self.wake = asyncio.Event()
        self.notices: list[dict[str, Any]] = []
        self.ended: FirecellError | None = None
        self.sending_since: float | None = None
        self._next = dict(vector)

    def places(self) -> dict[int, int]:
        """All of them."""
        return self._next

    def positions(self) -> dict[int, int]:
        """All of them."""
        return self._next

    def give(self, page: Page, now: float) -> bool:
        """Whether it comes next."""
        if self._next[page.partition] != page.first:
            return False
        self._next[page.partition] = page.next
        return True

    def took(self, pages: Sequence[Page], now: float) -> None:
        """Nothing to keep."""

    def skip(self, partition: int, floor: int) -> None:
        """Go on at `floor`."""
        self._next[partition] = max(self._next[partition], floor)


@dataclass
class Counts:
    """What the streams of a process did."""

    open: int = 0
    events: int = 0
    sent_bytes: int = 0
    slow: int = 0


@dataclass(frozen=True)
class Source:
    """What all streams of a process share."""

    log: StreamLog
    reader: PageReader
    ends: Ends
    counts: Counts
    now_ms: Callable[[], int]
    clock: Callable[[], float]
    draining: Callable[[], bool]


class Delivery:
    """One stream; see the module. `until_ms`: ends it by the clock."""

    def __init__(
        self,
        source: Source,
        feed: Feed,
        wanted: Filter,
        framing: Framing,
        *,
        until_ms: int | None,
        clamp: bool,
    ) -> None:
        self._source = source
        self._feed = feed
        self._filter = wanted
        self._framing = framing
        self._until_ms = until_ms
        self._clamp = clamp
        self._stops: list[int] | None = None  # by `until`: nothing from there on
        self._final = False  # the stops will not move any more
        self._turn = 0  # the partition that is asked first
        self._beat_at = 0.0
        self._window_at = 0.0
        self._window_lag = 0
        self._blocked_s = 0.0
        self._waits = Backoff()

    async def run(self, send: Send) -> None:
        """Send until the end: `until`, the process's drain, a lease that ended, an error."""
        source, feed = self._source, self._feed
        with source.ends.waking(feed.wake):
            await source.ends.look()
            self._beat_at = self._window_at = source.clock()
            self._window_lag = self._lag()
            await self._control(send, {"control": "hello"})
            while not source.draining() and feed.ended is None:
                feed.wake.clear()
                try:
                    if not await self._step(send):
                        await self._control(send, {"control": "end", "cause": "until"})
                        return
                except Unavailable:
                    await asyncio.sleep(self._waits.next_s())
                except FirecellError as error:
                    feed.ended = error
            if feed.ended is not None:
                problem = problem_of(feed.ended)
                await self._control(send, {"control": "error", "problem": problem})
            else:
                await self._control(send, {"control": "end", "cause": "draining"})

    async def _step(self, send: Send) -> bool:
        """One turn of the loop; whether there may be another one."""
        now = self._source.clock()
        for notice in _taken(self._feed.notices):
            await self._control(send, notice)
        if now - self._beat_at >= STREAM_HEARTBEAT_S:
            self._beat_at = now
            await self._control(send, {"control": "heartbeat"})
        await self._look_at_the_clock()
        places = self._places()
        if places:
            pages = await self._source.reader.pages(places, self._filter)
            self._waits.reset()
            await self._deliver(send, pages)
            await asyncio.sleep(0)  # pages that are kept, and a socket with room, never wait
        elif self._final and self._reached():
            return False
        else:
            await self._rest()
        return True

    async def _look_at_the_clock(self) -> None:
        """Behind `until` nothing is given; its offsets are final once no append can be under way
        that took its time before."""
        now_ms = self._source.now_ms()
        if self._until_ms is None or self._final or now_ms < self._until_ms:
            return
        self._stops = await asyncio.to_thread(self._source.log.offsets_at, self._until_ms)
        self._final = now_ms >= self._until_ms + STREAM_UNTIL_MARGIN_MS
        await self._source.ends.look()

    def _places(self) -> list[Place]:
        """Where there is something, beginning with the partition whose turn it is."""
        ends, stops = self._source.ends.vector, self._stops
        places = []
        for partition, offset in self._feed.places().items():
            limit = ends[partition] if stops is None else min(ends[partition], stops[partition])
            if offset < limit:
                most = STREAM_PAGE_RECORDS if stops is None else limit - offset
                places.append(Place(partition, offset, most))
        places.sort(key=lambda place: (place.partition < self._turn, place.partition))
        return places

    def _reached(self) -> bool:
        stops = self._stops or []
        return all(offset >= stops[p] for p, offset in self._feed.positions().items())

    async def _deliver(self, send: Send, pages: Sequence[Page | Passed]) -> None:
        feed, source = self._feed, self._source
        now = source.clock()
        given: list[Page] = []
        content: list[bytes] = []
        for page in pages:
            if isinstance(page, Passed):
                self._pass_over(page)
            elif feed.give(page, now):
                given.append(page)
                content.append(self._framing.page(page, feed.positions()))
                source.counts.events += len(page.offsets)
                self._turn = page.partition + 1
        blob = b"".join(content)
        if blob:
            await self._send(send, blob)
        feed.took(given, source.clock())
        if blob:
            await self._judge(send)

    def _pass_over(self, page: Passed) -> None:
        """The retention has overtaken a parked consumer: an error, or a gap that is told (I9)."""
        if self._feed.places().get(page.partition) != page.first:
            return
        if not self._clamp:
            raise RetentionPassed(
                f"partition {page.partition}: the retention has passed this stream's place"
                f" {page.first}; the oldest kept is {page.floor}. Connect with clamp=true to go on"
                " behind the gap",
                floor=f"{page.partition}:{page.floor}",
            )
        self._feed.skip(page.partition, page.floor)
        lost = gap(page.partition, page.first, page.floor)
        self._feed.notices.append({"control": "gap", "gaps": [lost]})

    async def _send(self, send: Send, blob: bytes) -> None:
        started = self._feed.sending_since = self._source.clock()
        try:
            await send(blob)
        finally:
            self._feed.sending_since = None
        self._blocked_s += self._source.clock() - started
        self._source.counts.sent_bytes += len(blob)

    async def _control(self, send: Send, record: Mapping[str, Any]) -> None:
        positions = self._feed.positions()
        whole = {
            **record,
            "session": self._feed.session,
            "positions": {str(p): offset for p, offset in sorted(positions.items())},
        }
        await self._send(send, self._framing.control(whole, positions))

    async def _judge(self, send: Send) -> None:
        """Slow: most of a window was spent waiting for it, and its lag did not shrink."""
        now = self._source.clock()
        passed_s = now - self._window_at
        if passed_s < STREAM_SLOW_WINDOW_S:
            return
        lag = self._lag()
        slow = self._blocked_s > STREAM_SLOW_SHARE * passed_s and lag >= max(self._window_lag, 1)
        self._window_at, self._window_lag, self._blocked_s = now, lag, 0.0
        if slow:
            self._source.counts.slow += 1
            await self._control(send, {"control": "slow", "lag": lag})

    def _lag(self) -> int:
        ends = self._source.ends.vector
        return sum(max(ends[p] - offset, 0) for p, offset in self._feed.positions().items())

    async def _rest(self) -> None:
        """Until something has changed, or it is time for a heartbeat or for the end."""
        waits = [self._beat_at + STREAM_HEARTBEAT_S - self._source.clock()]
        if self._until_ms is not None and not self._final:
            now_ms = self._source.now_ms()
            due_ms = self._until_ms + (STREAM_UNTIL_MARGIN_MS if now_ms >= self._until_ms else 0)
            waits.append((due_ms - now_ms) / 1_000)
        timer = asyncio.get_running_loop().call_later(max(min(waits), 0), self._feed.wake.set)
        try:
            await self._feed.wake.wait()
        finally:
            timer.cancel()


def _taken(notices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = notices[:]
    notices.clear()
    return found
