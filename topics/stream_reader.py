"""Pages of the firehose for its consumers: read and encoded in few threads, shared at the tail.

A page is what lies behind one position of one partition, as lines. Consumers that stand at the same
place with the same filter get the same page: whoever asks first has it made, the others wait for
it or find it kept. A partition that can't be read is stepped over while others can. `Ends` is the
one watcher of the log's ends: it wakes all who wait.

`PageReader` and `Ends` belong to one event loop; the threads only read the log and encode.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from engine.errors import FirecellError, RetentionPassed, Unavailable
from engine.limits import (
    STREAM_AWAY_READ_S,
    STREAM_AWAY_S,
    STREAM_CACHE_BYTES,
    STREAM_FILTER_BYTES,
    STREAM_LOOK_REST,
    STREAM_LOOK_REST_S,
    STREAM_LOOK_S,
    STREAM_PAGE_BYTES,
    STREAM_PAGE_RECORDS,
    STREAM_READERS,
)
from engine.ports import Log, Record
from topics.filters import Filter
from topics.stream_json import lines_of

_log = logging.getLogger("firecell.stream")
_PAGE_BYTES_OVERHEAD = 500  # of the tuple, its key and its places
_NUMBER_BYTES = 36  # of an offset or author
_Key = tuple[Filter, int, int]


class Page(NamedTuple):
    """Lines of one partition from offset `first` on, up to but without `next`."""

    partition: int
    first: int
    next: int
    body: bytes
    offsets: Sequence[int]  # of the lines, ascending; filtered-out events have none


class Passed(NamedTuple):
    """A place that the retention has passed; `floor` is the oldest kept offset."""

    partition: int
    first: int
    floor: int


class Place(NamedTuple):
    """Where a consumer stands in one partition; it wants at most `most` records."""

    partition: int
    offset: int
    most: int


class PageReader:
    """Makes pages; see the module."""

    def __init__(self, log: Log) -> None:
        self._firehose = log
        self._threads = ThreadPoolExecutor(STREAM_READERS, thread_name_prefix="stream")
        self._kept: OrderedDict[_Key, Page] = OrderedDict()
        self._kept_bytes = 0  # of pages, and of their filters, each once
        self._filters: dict[Filter, tuple[Filter, int]] = {}  # of kept pages, and of how many
        self._being_made: dict[_Key, asyncio.Future[None]] = {}
        self._away: dict[int, float] = {}  # partition -> asked last until then
        self.pages_made = 0

    async def pages(self, places: Sequence[Place], wanted: Filter) -> list[Page | Passed]:
        """What comes next at some of the places, in their order, some STREAM_PAGE_BYTES in all;
        at least one unless nothing is there. Unavailable (naming the partitions) when none of them
        can be read; DiskFull, Corruption."""
        while True:
            found, missing, other = self._look_up(places, wanted)
            if found:
                return found
            if other is None:
                break
            await asyncio.wait({other})
        return await self._make(missing, wanted)

    def _look_up(
        self, places: Sequence[Place], wanted: Filter
    ) -> tuple[list[Page | Passed], list[Place], asyncio.Future[None] | None]:
        """(pages kept, places without one, somebody who makes one of those now)."""
        found: list[Page | Passed] = []
        missing: list[Place] = []
        other: asyncio.Future[None] | None = None
        size = 0
        for place in places:
            key = (wanted, place.partition, place.offset)
            page = self._kept.get(key)
            if page is not None and page.next - page.first <= place.most:
                self._kept.move_to_end(key)
                found.append(page)
                size += len(page.body)
                if size >= STREAM_PAGE_BYTES:
                    break
                continue
            missing.append(place)
            other = other or self._being_made.get(key)
        return found, missing, other

    async def _make(self, places: list[Place], wanted: Filter) -> list[Page | Passed]:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        keys = [(wanted, place.partition, place.offset) for place in places]
        self._being_made.update(dict.fromkeys(keys, done))
        try:
            made = await loop.run_in_executor(self._threads, self._read, places, wanted)
        finally:
            for key in keys:
                if self._being_made.get(key) is done:
                    del self._being_made[key]
            done.set_result(None)
        for page in made:
            if isinstance(page, Page):
                self._keep((wanted, page.partition, page.first), page)
        return made

    def _read(self, places: list[Place], wanted: Filter) -> list[Page | Passed]:
        """In a thread. What could not be read just now is asked last, and only if need be."""
        made: list[Page | Passed] = []
        failed: dict[int, Unavailable] = {}
        room = STREAM_PAGE_BYTES
        started = time.monotonic()
        away = {place for place in places if self._away.get(place.partition, 0.0) > started}
        for place in sorted(places, key=away.__contains__):
            late = bool(failed) and time.monotonic() - started > STREAM_AWAY_READ_S
            if room <= 0 or late or (made and place in away):
                break
            most = min(place.most, STREAM_PAGE_RECORDS)
            try:
                records = self._firehose.read(place.partition, place.offset, most, room)
            except RetentionPassed as error:
                floor = error.extra.get("floor")
                at = floor if isinstance(floor, int) else place.offset
                made.append(Passed(place.partition, place.offset, at))
                continue
            except Unavailable as error:
                failed[place.partition] = error
                self._away[place.partition] = time.monotonic() + STREAM_AWAY_S
                continue
            if not records:
                continue
            made.append(_page_of(place, records, wanted))
            self.pages_made += 1
            room -= sum(len(record.frame) for record in records)
        if failed and not made:
            raise _all_away(failed)
        return made

    def _keep(self, key: _Key, page: Page) -> None:
        self._drop(key)
        wanted, count = self._filters.get(key[0], (key[0], 0))
        self._filters[wanted] = (wanted, count + 1)
        self._kept[wanted, key[1], key[2]] = page  # equal filters are kept once
        self._kept_bytes += _page_bytes(page) + (0 if count else _filter_bytes(wanted))
        while self._kept_bytes > STREAM_CACHE_BYTES:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: _Key) -> None:
        page = self._kept.pop(key, None)
        if page is None:
            return
        wanted, count = self._filters.pop(key[0])
        self._kept_bytes -= _page_bytes(page) + (0 if count > 1 else _filter_bytes(wanted))
        if count > 1:
            self._filters[wanted] = (wanted, count - 1)

    def close(self) -> None:
        """Wait for reads under way."""
        self._threads.shutdown(wait=True)


def _page_of(place: Place, records: Sequence[Record], wanted: Filter) -> Page:
    lines, indexes = lines_of(records, wanted)
    first, behind = place.offset, place.offset + len(records)
    offsets: Sequence[int] = range(first, behind)
    if len(indexes) < len(records):
        offsets = [first + index for index in indexes]
    return Page(place.partition, first, behind, b"".join(lines), offsets)


def _all_away(failed: dict[int, Unavailable]) -> Unavailable:
    error = next(iter(failed.values()))
    names = ", ".join(map(str, sorted(failed)))
    noun = "partition" if len(failed) == 1 else "partitions"
    return Unavailable(f"{noun} {names} can't be read now: {error.message}", error.retry_after_s)


def _page_bytes(page: Page) -> int:
    """What a kept page weighs, without its filter."""
    numbers = 0 if isinstance(page.offsets, range) else len(page.offsets) * _NUMBER_BYTES
    return len(page.body) + sys.getsizeof(page.offsets) + numbers + _PAGE_BYTES_OVERHEAD


def _filter_bytes(wanted: Filter) -> int:
    """What a filter weighs: a thousand authors are 70 KB, more than most pages."""
    authors = wanted.authors
    return sys.getsizeof(authors) + len(authors) * _NUMBER_BYTES + STREAM_FILTER_BYTES


class Ends:
    """The ends of the log, looked at by one thread while anybody waits for them."""

    def __init__(self, log: Log) -> None:
        self._firehose = log
        self._waiting: set[asyncio.Event] = set()
        self._stop = threading.Event()
        self._nudged = threading.Event()
        self._thread: threading.Thread | None = None
        self.vector: list[int] = [0] * log.partitions

    def nudge(self) -> None:
        """Something was appended here: look now. From any thread."""
        self._nudged.set()

    async def look(self) -> list[int]:
        """The ends now."""
        found = await asyncio.to_thread(self._firehose.end_offsets)
        self._set(found)
        return found

    @contextmanager
    def waking(self, event: asyncio.Event) -> Iterator[None]:
        """`event` is set whenever the ends have moved, as long as the block lasts."""
        self._waiting.add(event)
        if self._thread is None:
            loop = asyncio.get_running_loop()
            self._stop, self._nudged = threading.Event(), threading.Event()
            arguments = (loop, self._stop, self._nudged)
            self._thread = threading.Thread(
                target=self._watch, args=arguments, name="ends", daemon=True
            )
            self._thread.start()
        try:
            yield
        finally:
            self._waiting.discard(event)
            if not self._waiting:
                self._stop.set()
                self._nudged.set()
                self._thread = None

    def _set(self, found: list[int]) -> None:
        """On the loop. Ends only grow; a look that began earlier may arrive later."""
        merged = list(map(max, self.vector, found))
        if merged != self.vector:
            self.vector = merged
            for event in self._waiting:
                event.set()

    def _watch(
        self, loop: asyncio.AbstractEventLoop, stop: threading.Event, nudged: threading.Event
    ) -> None:
        seen: list[int] = []
        trouble = ""
        while not stop.is_set():
            started = time.perf_counter()
            nudged.clear()  # before the look: what is appended after it nudges again
            failed = False
            try:
                found = self._firehose.end_offsets()
                trouble = ""
            except FirecellError as error:
                found, failed = seen, True
                if not trouble:
                    _log.warning("the ends of the firehose can't be read: %s", error.message)
                trouble = error.message
            moved = found != seen
            if moved:
                seen = found
                try:
                    loop.call_soon_threadsafe(self._set, found)
                except RuntimeError:  # the loop has closed
                    return
            # A failed look took the time-out of a broker that may be back now: no rest after it.
            took_s = 0.0 if failed else time.perf_counter() - started
            # Ends that move without end wake everybody every STREAM_LOOK_S, not at every commit.
            stop.wait(max(min(took_s, STREAM_LOOK_REST_S), STREAM_LOOK_S if moved else 0.0))
            nudged.wait(max(STREAM_LOOK_S, min(STREAM_LOOK_REST * took_s, STREAM_LOOK_REST_S)))
