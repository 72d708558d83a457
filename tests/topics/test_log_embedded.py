"""The embedded firehose: identity, rolls, retention, time, damage, and what other processes see."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest

from engine.errors import Corruption, Misconfigured, NotFound, RetentionPassed, TooLarge
from engine.limits import PARTITIONS_DEFAULT, RETENTION_MS_MIN, SEGMENTS_OPEN_MAX
from engine.ports import Record
from tests.topics.firehoses import START_MS, Clock, output_of, read_all, run_python, small_log
from topics.log_embedded import EmbeddedLog
from topics.segments import Segment

HOUR = 3_600_000
BIG = bytes(60_000)


def folders(path: Path) -> list[int]:
    return sorted(int(entry.name) for entry in (path / "segments").iterdir())


class TestIdentity:
    def test_another_number_of_partitions_is_refused_for_ever(self, tmp_path: Path) -> None:
        small_log(tmp_path, partitions=4).close()
        with pytest.raises(Misconfigured, match=r"4 partitions.*5.*can never change"):
            small_log(tmp_path, partitions=5)
        log = EmbeddedLog.open(tmp_path)
        assert log.partitions == 4
        log.close()

    def test_a_new_one_has_the_default_partitions_and_its_own_identity(
        self, tmp_path: Path
    ) -> None:
        logs = [EmbeddedLog.open(tmp_path / name) for name in "ab"]
        assert [log.partitions for log in logs] == [PARTITIONS_DEFAULT] * 2
        assert logs[0].identity != logs[1].identity
        for log in logs:
            log.close()

    def test_nothing_is_made_unless_asked(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="no firehose"):
            EmbeddedLog.open(tmp_path / "none", create=False)
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize("partitions", [0, 1025])
    def test_impossible_settings_are_refused(self, tmp_path: Path, partitions: int) -> None:
        with pytest.raises(Misconfigured):
            EmbeddedLog.open(tmp_path, partitions=partitions)
        with pytest.raises(Misconfigured):
            EmbeddedLog.open(tmp_path, retention_ms=RETENTION_MS_MIN - 1)

    def test_a_lost_identity_never_costs_events(self, tmp_path: Path) -> None:
        log = small_log(tmp_path)
        log.append([(0, b"precious")])
        log.close()
        (tmp_path / "firehose.json").rename(tmp_path / "backup")
        with pytest.raises(Corruption, match=r"restore"):
            small_log(tmp_path)
        (tmp_path / "backup").rename(tmp_path / "firehose.json")
        log = small_log(tmp_path)
        assert read_all(log, 0) == [b"precious"]
        log.close()

    def test_killed_while_being_made_is_made_anew_restart(self, tmp_path: Path) -> None:
        small_log(tmp_path, partitions=9).close()
        (tmp_path / "firehose.json").unlink()
        (tmp_path / "segments" / ".new-0-abc").mkdir()
        log = small_log(tmp_path, partitions=3)
        assert log.append([(2, b"x")])[0][0] == 0
        log.close()
        assert folders(tmp_path) == [0]

    def test_damaged_or_newer_identity_is_named(self, tmp_path: Path) -> None:
        small_log(tmp_path).close()
        path = tmp_path / "firehose.json"
        written = json.loads(path.read_text())
        path.write_text(json.dumps({**written, "format": 2}))
        with pytest.raises(Misconfigured, match="format 2"):
            small_log(tmp_path)
        for damage in ["{", "{}", json.dumps({**written, "identity": "?"})]:
            path.write_text(damage)
            with pytest.raises(Corruption, match="damaged"):
                small_log(tmp_path)

    def test_a_foreign_segment_is_refused(self, tmp_path: Path) -> None:
        for name in "ab":
            small_log(tmp_path / name).close()
        mine = tmp_path / "a" / "segments" / f"{0:016d}"
        shutil.rmtree(mine)
        shutil.copytree(tmp_path / "b" / "segments" / f"{0:016d}", mine)
        with pytest.raises(Corruption, match="another firehose"):
            small_log(tmp_path / "a")

    def test_a_missing_segment_is_refused(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock)
        for _ in range(3):
            log.append([(0, b"x")])
            clock.now_ms += HOUR
        log.append([(0, b"x")])
        log.close()
        shutil.rmtree(tmp_path / "segments" / f"{2:016d}")
        with pytest.raises(Corruption, match="lacks a segment"):
            small_log(tmp_path)


class TestRoll:
    def test_by_size_keeps_every_record_and_offset(self, tmp_path: Path) -> None:
        log = small_log(tmp_path)
        frames = [b"%04d" % n * 1_000 for n in range(1_000)]
        for start in range(0, 1_000, 50):
            log.append([(n % 4, frames[n]) for n in range(start, start + 50)])
        assert len(folders(tmp_path)) >= 5
        for partition in range(4):
            assert read_all(log, partition) == frames[partition::4]
        log.close()

    def test_by_time_even_with_few_writes(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock)
        for number in range(5):
            assert log.append([(1, b"x")]) == [(number, clock.now_ms)]
            clock.now_ms += HOUR
        assert folders(tmp_path) == [0, 1, 2, 3, 4]
        log.close()

    def test_an_empty_segment_never_rolls(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock)
        clock.now_ms += 10 * HOUR
        assert log.apply_retention(clock.now_ms) == 0
        log.append([(0, b"x")])
        assert folders(tmp_path) == [0]
        log.close()

    def test_a_batch_that_fits_no_segment_is_named_and_harms_nothing(self, tmp_path: Path) -> None:
        log = small_log(tmp_path)
        log.append([(0, b"before")])
        with pytest.raises(TooLarge, match="does not fit"):
            log.append([(0, BIG)] * 20)
        assert log.append([(0, b"after")])[0][0] == 1
        assert read_all(log, 0) == [b"before", b"after"]
        log.close()

    def test_killed_between_seal_and_next_segment_restart(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock)
        log.append([(0, b"a"), (3, b"b")])
        with log._table.pinned(0) as segment:
            assert segment is not None and segment.seal_if_old(clock.now_ms + HOUR, HOUR)
        (tmp_path / "segments" / ".new-unfinished").mkdir()
        assert log.end_offsets() == [1, 0, 0, 1]
        assert log.read(0, 1, 10, 10) == []
        log.close()
        log = small_log(tmp_path, clock=clock)
        assert [offset for offset, _ in log.append([(0, b"c"), (1, b"d")])] == [1, 0]
        assert read_all(log, 0) == [b"a", b"c"]
        assert folders(tmp_path) == [0, 1]
        log.close()

    def test_concurrent_writers_and_readers(self, tmp_path: Path) -> None:
        logs = [small_log(tmp_path) for _ in range(2)]
        acknowledged: list[tuple[int, bytes]] = []
        failures: list[BaseException] = []

        def write(writer: int) -> None:
            try:
                for number in range(60):
                    frame = b"%d:%d " % (writer, number) * 800
                    [(offset, _)] = logs[writer % 2].append([(0, frame)])
                    acknowledged.append((offset, frame))
            except BaseException as error:
                failures.append(error)

        def follow(log: EmbeddedLog, seen: list[bytes]) -> None:
            try:
                while len(seen) < 240:
                    for record in log.read(0, len(seen), 100, 10**6):
                        assert record.offset == len(seen)
                        seen.append(record.frame)
            except BaseException as error:
                failures.append(error)

        views: list[list[bytes]] = [[], []]
        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        threads += [threading.Thread(target=follow, args=(logs[n], views[n])) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures
        assert len(folders(tmp_path)) > 1
        assert [frame for _, frame in sorted(acknowledged)] == views[0] == views[1]
        for log in logs:
            log.close()

    def test_a_roll_right_after_an_empty_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reader sees the end; a record and a seal come; the reader finds a successor."""
        clock = Clock()
        reader, writer = small_log(tmp_path, clock=clock), small_log(tmp_path, clock=clock)
        writer.append([(0, b"a")])
        read, first_at = Segment.read, Segment.first_at

        def roll() -> None:
            monkeypatch.setattr(Segment, "read", read)
            monkeypatch.setattr(Segment, "first_at", first_at)
            writer.append([(0, b"b")])
            clock.now_ms += HOUR
            writer.append([(0, b"c")])

        def read_then_roll(segment: Segment, *arguments: int) -> list[Record]:
            found = read(segment, *arguments)
            roll()
            return found

        def look_up_then_roll(segment: Segment, *arguments: int) -> int:
            found = first_at(segment, *arguments)
            roll()
            return found

        monkeypatch.setattr(Segment, "read", read_then_roll)
        assert [record.frame for record in reader.read(0, 1, 10, 100)] == [b"b"]
        monkeypatch.setattr(Segment, "first_at", look_up_then_roll)
        assert reader.offsets_at(clock.now_ms + 1)[0] == 4  # not 3, the end that it saw
        assert reader.offsets_at(clock.now_ms)[0] == 4
        assert read_all(reader, 0) == [b"a", b"b", b"c", b"b", b"c"]
        reader.close()
        writer.close()

    def test_more_segments_than_are_kept_open(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock)
        count = SEGMENTS_OPEN_MAX + 5
        for number in range(count):
            log.append([(0, b"%d" % number)])
            clock.now_ms += HOUR
        assert read_all(log, 0) == [b"%d" % number for number in range(count)]
        assert read_all(log, 0, 3)[:1] == [b"3"]
        assert len(log._table._open) <= SEGMENTS_OPEN_MAX
        log.close()


class TestRetention:
    def hourly(self, path: Path, clock: Clock, hours: int) -> EmbeddedLog:
        log = small_log(path, clock=clock, retention_ms=3 * HOUR)
        for number in range(hours):
            log.append([(number % 2, b"%d" % number)] * 2)
            clock.now_ms += HOUR
        return log

    def test_drops_whole_segments_oldest_first_and_names_the_floor(self, tmp_path: Path) -> None:
        clock = Clock()
        log = self.hourly(tmp_path, clock, 8)
        disk = log.stats()["disk_bytes"]
        assert log.apply_retention(clock.now_ms) == 5
        assert log.apply_retention(clock.now_ms) == 0
        assert log.begin_offsets() == [6, 4, 0, 0]
        assert log.end_offsets() == [8, 8, 0, 0]
        assert read_all(log, 0) == [b"6", b"6"]
        assert log.stats()["disk_bytes"] < disk
        assert log.offsets_at(0) == [6, 4, 0, 0]
        kept = [log.read(partition, at, 1, 1) for partition, at in enumerate([6, 4, 0, 0])]
        assert log.oldest_ms() == [found[0].time_ms if found else -1 for found in kept]
        for offset in (0, 5):
            with pytest.raises(RetentionPassed) as caught:
                log.read(0, offset, 10, 100)
            assert caught.value.extra["floor"] == 6
        log.close()

    def test_a_quiet_log_is_emptied_too(self, tmp_path: Path) -> None:
        clock = Clock()
        log = self.hourly(tmp_path, clock, 1)
        assert log.apply_retention(clock.now_ms) == 0
        clock.now_ms += 3 * HOUR
        assert log.apply_retention(clock.now_ms) == 1
        assert log.begin_offsets() == log.end_offsets() == [2, 0, 0, 0]
        assert log.append([(0, b"x")])[0][0] == 2
        log.close()

    def test_killed_while_dropping_restart(self, tmp_path: Path) -> None:
        clock = Clock()
        log = self.hourly(tmp_path, clock, 6)
        oldest = tmp_path / "segments" / f"{0:016d}"
        oldest.rename(oldest.with_name(".new-dropped-0"))
        assert log.begin_offsets()[0] == 2
        assert log.apply_retention(clock.now_ms) == 2
        assert not list((tmp_path / "segments").glob(".new-*"))
        log.close()

    def test_another_process_notices_new_and_dropped_segments(self, tmp_path: Path) -> None:
        clock = Clock()
        log = self.hourly(tmp_path, clock, 1)
        follower = run_python(
            """if True:
            import sys
            from engine.errors import RetentionPassed
            from topics.log_embedded import EmbeddedLog
            log = EmbeddedLog.open(sys.argv[1], create=False)
            for line in sys.stdin:
                try:
                    found = log.read(0, int(line), 10, 1_000)
                    print(log.begin_offsets()[0], log.end_offsets()[0],
                          *[record.frame.decode() for record in found], flush=True)
                except RetentionPassed as error:
                    print("floor", error.extra["floor"], flush=True)
            """,
            tmp_path,
        )
        assert follower.stdin is not None and follower.stdout is not None

        def ask(offset: int) -> list[str]:
            follower.stdin.write(f"{offset}\n")
            follower.stdin.flush()
            return follower.stdout.readline().split()

        assert ask(0) == ["0", "2", "0", "0"]
        for number in range(1, 9):
            log.append([(0, b"n%d" % number)])
            clock.now_ms += HOUR
            assert ask(1 + number) == ["0", str(2 + number), f"n{number}"]
        assert log.apply_retention(clock.now_ms) == 6
        assert ask(0) == ["floor", "7"]
        assert ask(9) == ["7", "10", "n8"]
        output_of(follower)
        log.close()


class TestTime:
    def test_never_goes_back_with_the_clock_restart(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock)
        assert log.append([(0, b"x")])[0][1] == START_MS
        clock.now_ms -= 5_000
        assert log.append([(1, b"x")])[0][1] == START_MS
        log.close()
        log = small_log(tmp_path, clock=clock)
        assert log.append([(2, b"x")])[0][1] == START_MS
        assert log.last_ms() == START_MS
        clock.now_ms = START_MS + HOUR
        assert log.append([(0, b"x")])[0][1] == START_MS + HOUR
        clock.now_ms = 0
        assert log.append([(0, b"x")])[0][1] == START_MS + HOUR
        log.close()

    def test_look_up_over_segments_and_chunks(self, tmp_path: Path) -> None:
        clock = Clock()
        log = small_log(tmp_path, clock=clock, segment_ms=1_000)
        times: list[list[int]] = [[] for _ in range(4)]
        for number in range(300):
            clock.now_ms += (0, 1, 3, 40)[number % 4]
            partitions = [number % 3] * (1 + number % 5)
            log.append([(partition, b"x") for partition in partitions])
            for partition in partitions:
                times[partition].append(clock.now_ms)
        assert len(folders(tmp_path)) > 2
        for moment in range(START_MS - 1, clock.now_ms + 2):
            expected = [sum(time < moment for time in times[partition]) for partition in range(4)]
            assert log.offsets_at(moment) == expected
        log.close()
