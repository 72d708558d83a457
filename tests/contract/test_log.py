"""The contract of the port `Log`: every backend passes the same tests.

A backend is a fixture parameter that opens the same log again and again; add one and its name to
BACKENDS to hold it to the contract.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import BadInput, FirecellError, TooLarge, Unavailable
from engine.limits import EVENT_BYTES_MAX, GROUP_COMMIT_ENTRIES_MAX, READ_RECORDS_MAX
from engine.ports import Log, Record
from tests import kafka_broker
from topics.log_embedded import EmbeddedLog
from topics.log_kafka import KafkaLog

PARTITIONS = 5
BACKENDS = ["embedded", pytest.param("kafka", marks=pytest.mark.real)]
Opens = Callable[[], Log]


@pytest.fixture(params=BACKENDS)
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    opened: list[Log] = []

    def embedded() -> Log:
        opened.append(EmbeddedLog.open(tmp_path / "firehose", partitions=PARTITIONS))
        return opened[-1]

    if request.param == "kafka":
        place = kafka_broker.new_place()

    def kafka() -> Log:
        opened.append(KafkaLog.open(place, partitions=PARTITIONS))
        return opened[-1]

    yield {"embedded": embedded, "kafka": kafka}[request.param]
    for log in opened:
        log.close()


@pytest.fixture
def log(opens: Opens) -> Log:
    return opens()


def fill(log: Log, appends: int, seed: int) -> list[list[Record]]:
    """Append random batches; the records per partition as they must be read."""
    rng = random.Random(seed)
    model: list[list[Record]] = [[] for _ in range(PARTITIONS)]
    for _ in range(appends):
        entries = [
            (rng.randrange(PARTITIONS), rng.randbytes(rng.choice([1, 30, 200, 3_000])))
            for _ in range(rng.choice([1, 2, 7, 40, 700]))
        ]
        for (partition, frame), (offset, time_ms) in zip(entries, log.append(entries), strict=True):
            assert offset == len(model[partition])
            model[partition].append(Record(partition, offset, time_ms, frame))
    return model


class TestAppend:
    def test_offsets_are_contiguous_per_partition_from_zero(self, log: Log) -> None:
        first = log.append([(1, b"a"), (3, b"b"), (1, b"c")])
        second = log.append([(3, b"d"), (1, b"e")])
        assert [offset for offset, _ in first + second] == [0, 0, 1, 1, 2]
        assert log.end_offsets() == [0, 3, 0, 2, 0]
        assert log.begin_offsets() == [0] * PARTITIONS

    def test_times_never_go_back(self, log: Log) -> None:
        times = [log.append([(n % PARTITIONS, b"x")])[0][1] for n in range(50)]
        assert times == sorted(times)

    def test_nothing_appends_nothing(self, log: Log) -> None:
        assert log.append([]) == []
        assert log.end_offsets() == [0] * PARTITIONS

    def test_a_bad_entry_refuses_the_whole_batch(self, log: Log) -> None:
        log.append([(0, b"kept")])
        for bad in [(PARTITIONS, b"x"), (-1, b"x")]:
            with pytest.raises(BadInput):
                log.append([(0, b"lost"), (1, b"lost"), bad])
        with pytest.raises(TooLarge):
            log.append([(0, b"lost"), (1, bytes(EVENT_BYTES_MAX + 1))])
        with pytest.raises(TooLarge):
            log.append([(0, b"")] * (GROUP_COMMIT_ENTRIES_MAX + 1))
        assert log.end_offsets() == [1, 0, 0, 0, 0]
        assert log.append([(0, b"next")])[0][0] == 1

    def test_frames_of_every_length_come_back(self, log: Log) -> None:
        frames = [b"", b"x", bytes(2_030), bytes(4_096), b"y" * EVENT_BYTES_MAX]
        log.append([(2, frame) for frame in frames])
        read: list[bytes] = []
        while records := log.read(2, len(read), 100, EVENT_BYTES_MAX):
            read += [record.frame for record in records]
        assert read == frames


class TestRead:
    def test_bounds_fuzz(self, log: Log) -> None:
        model = fill(log, 25, seed=1)
        rng = random.Random(2)
        for _ in range(400):
            partition = rng.randrange(PARTITIONS)
            rows = model[partition]
            offset = rng.randrange(len(rows) + 3)
            records_max = rng.choice([1, 2, 10, 255, 256, 257, 5_000])
            bytes_max = rng.choice([1, 100, 5_000, 70_000, 4_000_000])
            found = log.read(partition, offset, records_max, bytes_max)
            assert found == rows[offset : offset + len(found)]
            assert len(found) <= records_max
            assert len(found) == 1 or sum(len(r.frame) for r in found) <= bytes_max
            assert bool(found) == (offset < len(rows))

    def test_a_read_is_full_when_there_is_enough(self, log: Log) -> None:
        for _ in range(10):
            log.append([(0, b"12345")] * 100)
        assert len(log.read(0, 50, 600, 1_000_000)) == 600
        assert len(log.read(0, 50, 600, 50)) == 10

    def test_records_max_is_bounded_by_the_limits(self, log: Log) -> None:
        log.append([(0, b"x")] * (READ_RECORDS_MAX + 10))
        assert len(log.read(0, 0, 10**9, 10**9)) <= READ_RECORDS_MAX

    def test_senseless_reads_are_refused(self, log: Log) -> None:
        for arguments in [(0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0), (PARTITIONS, 0, 1, 1)]:
            with pytest.raises(BadInput):
                log.read(*arguments)

    def test_records_are_tuples_with_names(self, log: Log) -> None:
        [(offset, time_ms)] = log.append([(4, b"frame")])
        [record] = log.read(4, 0, 10, 1_000)
        assert type(record) is Record
        assert record == Record(partition=4, offset=offset, time_ms=time_ms, frame=b"frame")


class TestTime:
    def test_offsets_at_are_the_first_at_or_after_a_time(self, log: Log) -> None:
        model = fill(log, 30, seed=3)
        times = sorted({record.time_ms for rows in model for record in rows})
        for time_ms in [0, *times, *(t + 1 for t in times), times[-1] + 10**6]:
            expected = [sum(record.time_ms < time_ms for record in rows) for rows in model]
            assert log.offsets_at(time_ms) == expected

    def test_the_oldest_are_the_first_records_times(self, log: Log) -> None:
        first = [(2, b"first"), (4, b"first")]
        placed = log.append(first)
        log.append(first)
        assert log.oldest_ms() == [-1, -1, placed[0][1], -1, placed[1][1]]

    def test_an_empty_partition_begins_and_ends_at_zero(self, log: Log) -> None:
        nothing = [0] * PARTITIONS
        assert log.offsets_at(0) == log.offsets_at(2**62) == nothing
        assert log.oldest_ms() == [-1] * PARTITIONS


class TestGroups:
    def test_positions_are_kept_per_group_and_partition(self, log: Log) -> None:
        assert log.committed("g") == {} and log.groups() == []
        log.commit("g", {0: 5, 3: 2**40})
        log.commit("g.h", {1: 1})
        log.commit("g", {3: 7})
        log.commit("a", {})
        assert log.committed("g") == {0: 5, 3: 7}
        assert log.committed("g.h") == {1: 1}
        assert log.committed("g.") == {}
        assert log.groups() == ["g", "g.h"]

    def test_what_a_fence_raises_prevents_the_commit(self, log: Log) -> None:
        asked = []

        def refuse() -> None:
            asked.append(log.committed("g"))
            raise Unavailable("not any more")

        log.commit("g", {0: 5}, lambda: asked.append({}))
        with pytest.raises(Unavailable, match="not any more"):
            log.commit("g", {0: 9}, refuse)
        assert asked[0] == {} and asked[-1] == {0: 5}  # more than once where a look comes first
        assert log.committed("g") == {0: 5}

    def test_a_commit_may_go_back(self, log: Log) -> None:
        log.commit("cell.c1", {0: 9})
        log.commit("cell.c1", {0: 4})
        assert log.committed("cell.c1") == {0: 4}

    @pytest.mark.parametrize("group", ["", "A", "a b", "x" * 65, "ä", "a/b", "a\0b", "a\n"])
    def test_bad_names_are_refused(self, log: Log, group: str) -> None:
        with pytest.raises(BadInput):
            log.commit(group, {0: 1})
        with pytest.raises(BadInput):
            log.committed(group)

    def test_a_bad_position_refuses_the_whole_commit(self, log: Log) -> None:
        for bad in [{PARTITIONS: 1}, {-1: 1}, {1: -1}, {1: 2**64}]:
            with pytest.raises(BadInput):
                log.commit("g", {0: 1, **bad})
        assert log.committed("g") == {}


class TestLife:
    def test_everything_is_there_after_a_restart(self, opens: Opens) -> None:
        log = opens()
        identity, model = log.identity, fill(log, 10, seed=4)
        log.commit("g", {2: 3})
        ends = log.end_offsets()
        log.close()
        again = opens()
        assert (again.identity, again.partitions) == (identity, PARTITIONS)
        assert again.end_offsets() == ends
        assert again.committed("g") == {2: 3}
        for partition, rows in enumerate(model):
            assert again.read(partition, 0, 50, 10**6) == rows[: min(len(rows), 50)]
        assert again.append([(2, b"next")])[0][0] == ends[2]

    def test_two_opens_see_each_other_at_once(self, opens: Opens) -> None:
        one, two = opens(), opens()
        for number in range(20):
            writer, reader = (one, two) if number % 2 else (two, one)
            assert writer.append([(1, b"%d" % number)])[0][0] == number
            assert reader.end_offsets()[1] == number + 1
            assert reader.read(1, number, 1, 100)[0].frame == b"%d" % number
        one.close()
        assert two.append([(1, b"alone")])[0][0] == 20

    def test_close_is_idempotent_and_final(self, log: Log) -> None:
        log.close()
        log.close()
        for call in [
            lambda: log.append([(0, b"x")]),
            lambda: log.read(0, 0, 1, 1),
            lambda: log.end_offsets(),
            lambda: log.committed("g"),
        ]:
            with pytest.raises(FirecellError):
                call()

    def test_retention_keeps_what_is_young(self, log: Log) -> None:
        [(_, time_ms)] = log.append([(0, b"young")])
        assert log.apply_retention(time_ms) == 0
        assert log.read(0, 0, 1, 100)[0].frame == b"young"
