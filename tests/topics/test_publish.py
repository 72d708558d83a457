"""Publishing: ids, refusals, a result per event, the group commit, its bounds and failures."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from engine import codec
from engine.errors import BadInput, DiskFull, FirecellError, TooLarge, Unavailable, Unprocessable
from engine.events import BLOCK, FOLLOW, LIKE, Delete, Edit, Event, Post, Reaction, Relation
from engine.homing import partition_of
from engine.ids import id_at, id_ms
from engine.limits import (
    BATCH_BYTES_MAX,
    GROUP_COMMIT_ENTRIES_MAX,
    ID_AHEAD_MS_MAX,
    PUBLISH_QUEUE_BYTES_MAX,
    PUBLISH_QUEUE_ENTRIES_MAX,
    SETTLE_MARGIN_MS,
    U64_MAX,
)
from tests.topics.firehoses import START_MS, Clock, read_all, small_log
from topics import publish
from topics.log_embedded import EmbeddedLog
from topics.nodes import IdSource
from topics.publish import NO_ID, Published, Publisher

AUTHOR = 7


class SlowLog:
    """A log whose appends wait at a gate and may be told to fail; remembers its groups."""

    identity, partitions = "slow", 4

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.groups: list[list[tuple[int, bytes]]] = []
        self.failures: list[Exception] = []

    def append(self, entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
        self.entered.release()
        assert self.gate.wait(10)
        if self.failures:
            raise self.failures.pop(0)
        self.groups.append(list(entries))
        return [(n, START_MS) for n in range(len(entries))]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedLog]:
    opened = small_log(tmp_path / "firehose", clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def ids(tmp_path: Path, clock: Clock) -> Iterator[IdSource]:
    source = IdSource(tmp_path, clock=clock)
    yield source
    source.close()


@pytest.fixture
def publisher(log: EmbeddedLog, ids: IdSource, clock: Clock) -> Iterator[Publisher]:
    opened = Publisher(log, ids, clock)
    yield opened
    opened.close()


@pytest.fixture
def slow(ids: IdSource, clock: Clock) -> Iterator[tuple[SlowLog, Publisher]]:
    slow_log = SlowLog()
    opened = Publisher(slow_log, ids, clock)  # type: ignore[arg-type]
    yield slow_log, opened
    slow_log.gate.set()
    opened.close()


def good(result: Published | FirecellError) -> Published:
    assert isinstance(result, Published)
    return result


def occupy(slow_log: SlowLog, publisher: Publisher) -> Future[list[Published | FirecellError]]:
    """Let the commit thread hang in an append, so that what comes next gathers."""
    slow_log.gate.clear()
    future = publisher.submit([Delete(AUTHOR, 1)])
    assert slow_log.entered.acquire(timeout=10)
    return future


def test_who_wants_to_know_is_told_of_each_append_before_its_answer(clock: Clock) -> None:
    slow_log = SlowLog()
    told: list[int] = []
    opened = Publisher(slow_log, None, clock, lambda: told.append(1))  # type: ignore[arg-type]
    assert isinstance(opened.publish_many([Delete(AUTHOR, 1)])[0], Published)
    assert told == [1]
    slow_log.failures.append(Unavailable("the log is away"))
    assert not isinstance(opened.publish_many([Delete(AUTHOR, 1)])[0], Published)
    assert told == [1]
    opened.close()


class TestResults:
    def test_every_kind_lies_where_it_says(self, publisher: Publisher, log: EmbeddedLog) -> None:
        events: list[Event] = [
            Post(AUTHOR, NO_ID, text="hello", mentions=(9,)),
            Post(AUTHOR, id_at(START_MS) + 5, at_ms=123),
            Edit(AUTHOR, 5, 0, "better"),
            Delete(AUTHOR, 5),
            Relation(FOLLOW, 1, AUTHOR, 77),
            Relation(BLOCK, AUTHOR, 1),
            Reaction(LIKE, 1, AUTHOR, 5),
        ]
        results = [good(result) for result in publisher.publish_many(events)]
        assert [r.offset for r in results] == list(range(7))
        assert {r.partition for r in results} == {partition_of(AUTHOR, log.partitions)}
        assert {r.time_ms for r in results} == {START_MS}
        assert [r.at_ms for r in results] == [START_MS, 123, *[START_MS] * 2, 77, *[START_MS] * 2]
        assert results[0].id is not None and id_ms(results[0].id) == START_MS
        assert [r.id for r in results[1:]] == [id_at(START_MS) + 5, *[None] * 5]
        stored = [codec.decode(frame) for frame in read_all(log, results[0].partition)]
        assert stored[0] == Post(AUTHOR, results[0].id, text="hello", mentions=(9,))
        assert stored[1:] == events[1:]

    def test_bad_ones_are_named_and_good_ones_kept(
        self, publisher: Publisher, log: EmbeddedLog
    ) -> None:
        ahead = id_at(START_MS + ID_AHEAD_MS_MAX + 1)
        results = publisher.publish_many(
            [
                Post(AUTHOR, ahead),
                Post(AUTHOR, NO_ID, text="x" * 70_000),
                Post(AUTHOR, -2),
                Post(AUTHOR, NO_ID, text="\ud800"),
                Delete(U64_MAX + 1, 1),
                Relation(FOLLOW, -1, AUTHOR),
                Edit(AUTHOR, None, 0, "x"),  # type: ignore[arg-type]
                Post(AUTHOR, ahead - 1),
            ]
        )
        expected = [Unprocessable, TooLarge, *[BadInput] * 5, Published]
        assert [type(result) for result in results] == expected
        assert good(results[-1]).offset == 0
        assert sum(log.end_offsets()) == 1

    def test_nothing_and_only_bad_ones(self, publisher: Publisher, log: EmbeddedLog) -> None:
        assert publisher.publish_many([]) == []
        assert isinstance(publisher.publish_many([Delete(-1, 1)])[0], BadInput)
        assert sum(log.end_offsets()) == 0

    def test_ids_ascend_in_the_order_of_the_events(self, publisher: Publisher) -> None:
        results = publisher.publish_many([Post(AUTHOR, NO_ID) for _ in range(500)])
        posts = [good(result).id or 0 for result in results]
        assert posts == sorted(set(posts))

    def test_without_a_source_of_ids_posts_bring_their_own(
        self, log: EmbeddedLog, clock: Clock
    ) -> None:
        publisher = Publisher(log, None, clock)
        results = publisher.publish_many([Post(AUTHOR, NO_ID), Post(AUTHOR, 5), Delete(AUTHOR, 5)])
        assert [type(result) for result in results] == [BadInput, Published, Published]
        publisher.close()

    def test_a_source_that_refuses_costs_only_posts_without_id(
        self, publisher: Publisher, ids: IdSource
    ) -> None:
        ids.close()
        results = publisher.publish_many([Post(AUTHOR, 1), Post(AUTHOR, NO_ID)])
        assert isinstance(results[0], Published) and isinstance(results[1], FirecellError)

    def test_from_an_event_loop(self, publisher: Publisher) -> None:
        async def both() -> list[list[Published | FirecellError]]:
            posts = [publisher.publish_many_async([Post(n, NO_ID)]) for n in range(50)]
            return await asyncio.gather(*posts)

        results = asyncio.run(both())
        assert len({(good(r).partition, good(r).offset) for [r] in results}) == 50


class TestGroupCommit:
    def test_what_waits_shares_a_commit(self, slow: tuple[SlowLog, Publisher]) -> None:
        slow_log, publisher = slow
        first = occupy(slow_log, publisher)
        futures = [publisher.submit([Delete(AUTHOR, n), Delete(n, 2)]) for n in range(40)]
        assert publisher.queued()[0] == 80
        slow_log.gate.set()
        assert good(first.result(10)[0]).offset == 0
        offsets = [good(r).offset for future in futures for r in future.result(10)]
        assert offsets == list(range(80))
        assert [len(group) for group in slow_log.groups] == [1, 80]
        assert publisher.queued() == (0, 0)

    def test_groups_are_bounded(self, slow: tuple[SlowLog, Publisher]) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        delete = Delete(AUTHOR, 1)
        futures = [publisher.submit([delete] * (GROUP_COMMIT_ENTRIES_MAX // 2)) for _ in range(3)]
        big = Edit(AUTHOR, 1, 0, "x" * 60_000)
        count = BATCH_BYTES_MAX // 60_020 - 1  # beside them not even the small ones fit
        futures += [publisher.submit([big] * count) for _ in range(2)]
        slow_log.gate.set()
        for future in futures:
            future.result(10)
        half = GROUP_COMMIT_ENTRIES_MAX // 2
        assert [len(group) for group in slow_log.groups] == [1, 2 * half, half, count, count]

    def test_the_queue_is_bounded_by_entries(self, slow: tuple[SlowLog, Publisher]) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        batch = [Delete(AUTHOR, 1)] * (PUBLISH_QUEUE_ENTRIES_MAX // 4)
        for _ in range(4):
            publisher.submit(batch)
        with pytest.raises(Unavailable, match="wait for the log") as caught:
            publisher.submit([Delete(AUTHOR, 1)])
        assert caught.value.retry_after_s >= 1

    def test_the_queue_is_bounded_by_bytes(self, slow: tuple[SlowLog, Publisher]) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        batch = [Edit(AUTHOR, 1, 0, "x" * 65_000)] * 100
        with pytest.raises(Unavailable):
            for _ in range(1 + PUBLISH_QUEUE_BYTES_MAX // (65_000 * 100)):
                publisher.submit(batch)
        assert publisher.queued()[1] <= PUBLISH_QUEUE_BYTES_MAX

    def test_too_much_at_once(self, publisher: Publisher) -> None:
        with pytest.raises(TooLarge):
            publisher.submit([Delete(AUTHOR, 1)] * (GROUP_COMMIT_ENTRIES_MAX + 1))
        with pytest.raises(TooLarge):
            publisher.submit([Edit(AUTHOR, 1, 0, "x" * 65_000)] * 130)

    def test_a_cancelled_request_is_taken_back(self, slow: tuple[SlowLog, Publisher]) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        cancelled, kept = publisher.submit([Delete(1, 1)]), publisher.submit([Delete(2, 1)])
        assert cancelled.cancel()
        slow_log.gate.set()
        assert good(kept.result(10)[0]).offset == 0
        assert [len(group) for group in slow_log.groups] == [1, 1]

    def test_concurrent_publishers_fuzz(self, publisher: Publisher, log: EmbeddedLog) -> None:
        placed: list[tuple[tuple[int, int], Event]] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for number in range(30):
                events = [
                    Edit(rng.randrange(50), seed, 0, f"{seed}.{number}.{n}")
                    for n in range(rng.choice([1, 1, 5, 60]))
                ]
                for event, result in zip(events, publisher.publish_many(events), strict=True):
                    placed.append(((good(result).partition, good(result).offset), event))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        stored = {
            (partition, offset): codec.decode(frame)
            for partition in range(log.partitions)
            for offset, frame in enumerate(read_all(log, partition))
        }
        assert stored == dict(placed) and len(stored) == len(placed)


class TestFailures:
    def test_everybody_in_the_group_hears_of_it_and_later_ones_are_tried(
        self, slow: tuple[SlowLog, Publisher]
    ) -> None:
        slow_log, publisher = slow
        first = occupy(slow_log, publisher)
        futures = [publisher.submit([Delete(1, 1), Delete(-1, 1)]) for _ in range(3)]
        slow_log.failures = [Unavailable("hiccup"), DiskFull("full")]
        slow_log.gate.set()
        assert isinstance(first.result(10)[0], Unavailable)
        for future in futures:
            assert [type(result) for result in future.result(10)] == [DiskFull, BadInput]
        assert isinstance(publisher.publish_many([Delete(1, 1)])[0], Published)

    def test_a_surprise_reaches_the_caller_and_ends_nothing(
        self, slow: tuple[SlowLog, Publisher]
    ) -> None:
        slow_log, publisher = slow
        slow_log.failures = [ZeroDivisionError("surprise")]
        with pytest.raises(ZeroDivisionError):
            publisher.publish_many([Delete(1, 1)])
        assert isinstance(publisher.publish_many([Delete(1, 1)])[0], Published)

    def test_own_ids_that_waited_too_long_are_made_anew(
        self, slow: tuple[SlowLog, Publisher], clock: Clock
    ) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        brought = id_at(START_MS) + 3
        events = [Post(AUTHOR, NO_ID, text="mine"), Post(AUTHOR, brought), Delete(AUTHOR, 1)]
        future = publisher.submit(events)
        clock.now_ms += SETTLE_MARGIN_MS + 1
        slow_log.gate.set()
        results = [good(result) for result in future.result(10)]
        assert id_ms(results[0].id or 0) == clock.now_ms
        assert [result.id for result in results[1:]] == [brought, None]
        frames = [frame for _, frame in slow_log.groups[1]]
        assert codec.decode(frames[0]) == Post(AUTHOR, results[0].id or 0, text="mine")

    def test_own_ids_that_waited_a_little_stay(
        self, slow: tuple[SlowLog, Publisher], clock: Clock
    ) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        future = publisher.submit([Post(AUTHOR, NO_ID)])
        clock.now_ms += SETTLE_MARGIN_MS
        slow_log.gate.set()
        assert id_ms(good(future.result(10)[0]).id or 0) == START_MS

    def test_stale_ids_without_new_ones_refuse_only_their_posts(
        self, slow: tuple[SlowLog, Publisher], clock: Clock, ids: IdSource
    ) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        future = publisher.submit([Post(AUTHOR, NO_ID), Delete(AUTHOR, 1)])
        clock.now_ms += SETTLE_MARGIN_MS + 1
        ids.close()
        slow_log.gate.set()
        assert [isinstance(r, Published) for r in future.result(10)] == [False, True]


class TestClose:
    def test_what_waits_is_appended_first(self, slow: tuple[SlowLog, Publisher]) -> None:
        slow_log, publisher = slow
        occupy(slow_log, publisher)
        futures = [publisher.submit([Delete(1, 1)]) for _ in range(10)]
        closing = threading.Thread(target=publisher.close)
        closing.start()
        slow_log.gate.set()
        closing.join(10)
        assert all(isinstance(future.result(0)[0], Published) for future in futures)
        publisher.close()
        with pytest.raises(Unavailable, match="closing"):
            publisher.submit([Delete(1, 1)])

    def test_a_log_that_hangs_is_not_waited_for_for_ever(
        self, slow: tuple[SlowLog, Publisher], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow_log, publisher = slow
        monkeypatch.setattr(publish, "DRAIN_S", 0.05)
        occupy(slow_log, publisher)
        waiting = publisher.submit([Delete(1, 1)])
        publisher.close()
        with pytest.raises(Unavailable):
            waiting.result(0)
