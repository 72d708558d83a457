"""Shared pages: what they weigh, and partitions that can't be read."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from engine.errors import Unavailable
from engine.limits import FILTER_AUTHORS_MAX
from engine.ports import Record
from tests.topics.memory_log import MemoryLog
from topics.filters import ALL, Filter
from topics.stream_reader import Ends, Page, PageReader, Place

CACHE_BYTES = 1_000_000


class PartlyAway(MemoryLog):
    """A log of which some partitions can't be read."""

    def __init__(self) -> None:
        super().__init__()
        self.away: set[int] = set()
        self.tried: list[int] = []

    def read(self, partition: int, offset: int, records_max: int, bytes_max: int) -> list[Record]:
        """As the port says."""
        self.tried.append(partition)
        if partition in self.away:
            raise Unavailable(f"no leader of {partition}", retry_after_s=3)
        return super().read(partition, offset, records_max, bytes_max)


def filter_of(number: int) -> Filter:
    """One as a request brings it: with objects of its own."""
    first = 2**40 + number * FILTER_AUTHORS_MAX
    return Filter(authors=frozenset(range(first, first + FILTER_AUTHORS_MAX)))


def weight_of(reader: PageReader) -> int:
    """Bytes of what a reader keeps, each object counted once."""
    found = {}
    for (wanted, _, _), page in reader._kept.items():
        found[id(wanted.authors)] = sys.getsizeof(wanted.authors) + sum(
            map(sys.getsizeof, wanted.authors)
        )
        found[id(page)] = sys.getsizeof(page.body) + sys.getsizeof(page.offsets)
    return sum(found.values())


def test_filters_count_into_the_weight_of_kept_pages(monkeypatch: pytest.MonkeyPatch):
    """A page without a line weighed nothing, however long the list of authors it was kept by."""
    monkeypatch.setattr("topics.stream_reader.STREAM_CACHE_BYTES", CACHE_BYTES)
    log = MemoryLog()
    log.say(0, *["x"] * 10)

    async def scenario() -> None:
        reader = PageReader(log)
        for number in range(100):
            await reader.pages([Place(0, 0, 1_000)], filter_of(number))
        assert weight_of(reader) <= CACHE_BYTES
        assert len(reader._kept) >= 10
        made = reader.pages_made
        await reader.pages([Place(0, 0, 1_000)], filter_of(99))
        assert reader.pages_made == made  # the same page, by an equal filter
        reader.close()

    asyncio.run(scenario())


def test_equal_filters_weigh_once_and_go_with_their_last_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.stream_reader.STREAM_CACHE_BYTES", CACHE_BYTES)
    log = MemoryLog()
    log.say(0, *["x"] * 100)

    async def scenario() -> None:
        reader = PageReader(log)
        for offset in range(50):
            await reader.pages([Place(0, offset, 1_000)], filter_of(1))
        assert len(reader._kept) == 50
        assert len({id(wanted) for wanted, _, _ in reader._kept}) == 1
        for key in list(reader._kept):
            reader._drop(key)
        assert reader._kept_bytes == 0
        assert not reader._filters
        reader.close()

    asyncio.run(scenario())


def test_offsets_of_filtered_pages_count_as_well():
    log = MemoryLog()
    log.say(1, *["x"] * 1_000)
    log.append([(1, b"no event")])

    async def scenario() -> None:
        reader = PageReader(log)
        wanted = Filter(authors=frozenset([1]))
        (page,) = await reader.pages([Place(1, 0, 2_000)], wanted)
        assert isinstance(page, Page)
        assert reader._kept_bytes >= len(page.body) + sys.getsizeof(page.offsets)
        reader.close()

    asyncio.run(scenario())


def partitions_of(reader: PageReader, log: PartlyAway) -> list[int]:
    """Of the pages from the beginning of all partitions."""
    places = [Place(partition, 0, 1_000) for partition in range(log.partitions)]
    found = asyncio.run(reader.pages(places, ALL))
    return [page.partition for page in found]


def test_a_first_partition_that_is_away_is_stepped_over():
    log = PartlyAway()
    for partition in range(4):
        log.say(partition, "x")
    log.away = {0, 2}
    reader = PageReader(log)
    assert partitions_of(reader, log) == [1, 3]
    reader.close()


def test_what_was_away_is_asked_last_then_again_in_its_turn(monkeypatch: pytest.MonkeyPatch):
    log = PartlyAway()
    log.say(0, "x")
    log.say(1, "x")
    log.away = {0}
    reader = PageReader(log)
    assert partitions_of(reader, log) == [1]
    reader._kept.clear()
    log.tried.clear()
    assert partitions_of(reader, log) == [1]
    assert 0 not in log.tried  # its time-out is not paid for every page of the others
    log.away = set()
    reader._kept.clear()
    reader._away[0] = 0.0
    assert partitions_of(reader, log) == [0, 1]
    reader.close()


def test_when_no_partition_can_be_read_they_are_named():
    log = PartlyAway()
    for partition in (0, 1, 3):
        log.say(partition, "x")
    log.away = {0, 1, 3}
    reader = PageReader(log)
    with pytest.raises(Unavailable, match=r"partitions 0, 1, 3 can't be read now: no leader") as e:
        partitions_of(reader, log)
    assert e.value.retry_after_s == 3
    reader.close()


def test_a_log_that_is_away_is_not_asked_for_every_partition(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.stream_reader.STREAM_AWAY_READ_S", -1.0)
    log = PartlyAway()
    log.away = {0, 1, 2, 3}
    reader = PageReader(log)
    with pytest.raises(Unavailable):
        partitions_of(reader, log)
    assert log.tried == [0]
    reader.close()


def test_what_this_process_appends_goes_out_without_waiting_for_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
):
    """The next look was up to 5 ms away, and ten times longer when looks were slow."""
    monkeypatch.setattr("topics.stream_reader.STREAM_LOOK_S", 0.5)
    monkeypatch.setattr("topics.stream_reader.STREAM_LOOK_REST", 10**6)
    monkeypatch.setattr("topics.stream_reader.STREAM_LOOK_REST_S", 1_000.0)
    log = MemoryLog()

    async def said(ends: Ends, wake: asyncio.Event) -> float:
        wake.clear()
        log.say(0, "x")
        started = time.monotonic()
        ends.nudge()
        async with asyncio.timeout(10):
            await wake.wait()
        assert ends.vector == log.end_offsets()
        return time.monotonic() - started

    async def scenario() -> list[float]:
        ends, wake = Ends(log), asyncio.Event()
        with ends.waking(wake):
            await asyncio.sleep(1)  # the watcher has looked, and rests for long
            return [await said(ends, wake) for _ in range(3)]

    first, *then = asyncio.run(scenario())
    assert first < 0.3
    assert all(0.3 < later < 2 for later in then)  # wakes are not more frequent than looks were


class SlowEnds(MemoryLog):
    """A log whose second look at the ends takes `took_s`, and fails if it is to."""

    def __init__(self, took_s: float, *, fails: bool) -> None:
        super().__init__()
        self.took_s = took_s
        self.fails = fails
        self.looks: list[tuple[float, float]] = []  # began, ended

    def end_offsets(self) -> list[int]:
        """As the port says."""
        began = time.monotonic()
        second = len(self.looks) == 1
        if second:
            time.sleep(self.took_s)
        self.looks.append((began, time.monotonic()))
        if second and self.fails:
            raise Unavailable("no broker")
        return super().end_offsets()


def rest_after(log: SlowEnds) -> float:
    """Seconds between the slow look and the next."""

    async def scenario() -> None:
        ends, wake = Ends(log), asyncio.Event()
        with ends.waking(wake):
            async with asyncio.timeout(10):
                while len(log.looks) < 3:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())
    return log.looks[2][0] - log.looks[1][1]


def test_a_look_that_hung_and_failed_is_followed_by_the_next_at_once():
    """After a broker's absence, with looks of 10 s until the time-out, streams slept for 110 s."""
    assert rest_after(SlowEnds(0.5, fails=True)) < 0.4  # it was 5.5


def test_the_rest_after_a_slow_look_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.stream_reader.STREAM_LOOK_REST_S", 0.2)
    rest_s = rest_after(SlowEnds(0.4, fails=False))
    assert 0.2 <= rest_s < 1.5  # it was 4; and a slow log is not asked all the time
