"""Node leases and ids: ascending over restarts, kills and clocks; one node, one process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from engine.errors import BadInput, Corruption, Misconfigured, Precondition, Unavailable
from engine.ids import id_ms
from engine.limits import BATCH_EVENTS_MAX, ID_CLOCK_BACK_MS_MAX, ID_RESERVE_MS
from tests.topics.firehoses import START_MS, Clock, run_python
from topics import nodes
from topics.nodes import IdSource


def node_of(post: int) -> int:
    return (post >> 12) & 1023


class TestIds:
    def test_ascending_within_and_over_milliseconds(self, tmp_path: Path) -> None:
        ids = IdSource(tmp_path)
        taken = [post for count in (1, 5_000, 0, 3, 9_000) for post in ids.take(count)]
        assert len(taken) == 14_004
        assert taken == sorted(set(taken))
        assert {node_of(post) for post in taken} == {0}
        ids.close()

    def test_ten_thousand_a_second(self, tmp_path: Path) -> None:
        ids = IdSource(tmp_path)
        started = time.monotonic()
        for _ in range(2_000):
            ids.take(10)
        assert 20_000 / (time.monotonic() - started) > 10_000
        ids.close()

    def test_threads_share_without_repeating(self, tmp_path: Path) -> None:
        ids = IdSource(tmp_path)
        taken: list[list[int]] = []
        threads = [
            threading.Thread(target=lambda: taken.append([ids.take(1)[0] for _ in range(500)]))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({post for posts in taken for post in posts}) == 2_000
        assert all(posts == sorted(posts) for posts in taken)
        ids.close()

    def test_bounds(self, tmp_path: Path) -> None:
        ids = IdSource(tmp_path)
        for count in (-1, BATCH_EVENTS_MAX + 1):
            with pytest.raises(BadInput):
                ids.take(count)
        ids.close()
        ids.close()
        with pytest.raises(Precondition):
            ids.take(1)

    def test_a_clean_close_is_exact_restart(self, tmp_path: Path) -> None:
        clock = Clock()
        ids = IdSource(tmp_path, clock=clock)
        before = ids.take(3)
        ids.close()
        clock.now_ms += 1  # far less than what was reserved
        ids = IdSource(tmp_path, clock=clock)
        after = ids.take(3)
        assert before + after == sorted(set(before + after))
        assert id_ms(after[0]) == START_MS + 1
        ids.close()

    def test_an_unused_source_forgets_nothing_restart(self, tmp_path: Path) -> None:
        clock = Clock()
        for _ in range(3):
            IdSource(tmp_path, clock=clock).close()
        ids = IdSource(tmp_path, clock=clock)
        ids.take(1)
        ids.close()
        IdSource(tmp_path, clock=clock).close()
        assert (tmp_path / "nodes" / "0000").read_bytes() == b"%020d\n" % START_MS

    def test_after_a_kill_the_reserved_time_is_not_used_again_restart(self, tmp_path: Path) -> None:
        process = run_python(
            """if True:
            import os, signal, sys
            from topics.nodes import IdSource
            ids = IdSource(sys.argv[1])
            print(ids.take(4_000)[-1], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            tmp_path,
        )
        last = int(process.communicate(timeout=10)[0])
        assert process.returncode == -9
        reserved = int((tmp_path / "nodes" / "0000").read_bytes())
        assert reserved >= id_ms(last) + ID_RESERVE_MS - 5
        ids = IdSource(tmp_path)
        first = ids.take(1)[0]
        assert first > last and id_ms(first) > reserved
        ids.close()

    def test_what_is_used_was_remembered_before_powerloss(self, tmp_path: Path) -> None:
        clock = Clock()
        ids = IdSource(tmp_path, clock=clock)
        for _ in range(2_500):
            clock.now_ms += 1
            [post] = ids.take(1)
            assert int((tmp_path / "nodes" / "0000").read_bytes()) >= id_ms(post)
        ids.close()


class TestClock:
    def test_a_little_back_is_waited_for(self, tmp_path: Path) -> None:
        clock = Clock()
        ids = IdSource(tmp_path, clock=clock)
        before = ids.take(1)
        clock.now_ms -= 40

        def tick() -> None:
            for _ in range(45):
                time.sleep(0.001)
                clock.now_ms += 1

        ticking = threading.Thread(target=tick)
        ticking.start()
        after = ids.take(2)
        ticking.join()
        assert before + after == sorted(set(before + after))
        ids.close()

    def test_far_back_is_refused_until_it_caught_up_restart(self, tmp_path: Path) -> None:
        clock = Clock()
        ids = IdSource(tmp_path, clock=clock)
        before = ids.take(1)
        clock.now_ms -= ID_CLOCK_BACK_MS_MAX + 1
        with pytest.raises(Unavailable, match="clock"):
            ids.take(1)
        ids.close()
        ids = IdSource(tmp_path, clock=clock)
        with pytest.raises(Unavailable, match="clock"):
            ids.take(1)
        clock.now_ms += 2 * ID_CLOCK_BACK_MS_MAX
        assert ids.take(1) > before
        ids.close()

    def test_a_clock_that_stands_still_is_refused_in_the_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nodes, "ID_WAIT_S_MAX", 0.05)
        ids = IdSource(tmp_path, clock=Clock())
        assert len(ids.take(4_096)) == 4_096
        with pytest.raises(Unavailable, match="stands"):
            ids.take(1)
        ids.close()


class TestLease:
    def test_the_lowest_free_node(self, tmp_path: Path) -> None:
        sources = [IdSource(tmp_path) for _ in range(3)]
        assert [source.node for source in sources] == [0, 1, 2]
        assert {node_of(source.take(1)[0]) for source in sources} == {0, 1, 2}
        sources[1].close()
        again = IdSource(tmp_path)
        assert again.node == 1
        for source in [sources[0], sources[2], again]:
            source.close()

    def test_a_configured_node_waits_for_its_predecessor(self, tmp_path: Path) -> None:
        first = IdSource(tmp_path, 7)
        with pytest.raises(Precondition, match=r"node 7 is in use.*of its own"):
            IdSource(tmp_path, 7, wait_s=0.05)
        threading.Timer(0.1, first.close).start()
        second = IdSource(tmp_path, 7)
        assert second.node == node_of(second.take(1)[0]) == 7
        second.close()

    def test_between_processes_restart(self, tmp_path: Path) -> None:
        other = run_python(
            """if True:
            import sys
            from topics.nodes import IdSource
            ids = IdSource(sys.argv[1])
            print(ids.node, ids.take(1)[0], flush=True)
            sys.stdin.read()
            """,
            tmp_path,
        )
        assert other.stdout is not None
        node, post = map(int, other.stdout.readline().split())
        mine = IdSource(tmp_path)
        assert (node, mine.node) == (0, 1)
        other.kill()
        other.communicate()
        successor = IdSource(tmp_path)
        assert successor.node == 0
        assert successor.take(1)[0] > post
        mine.close()
        successor.close()

    def test_wrong_numbers_and_damage_are_named(self, tmp_path: Path) -> None:
        for node in (-1, 1024):
            with pytest.raises(Misconfigured):
                IdSource(tmp_path, node)
        (tmp_path / "nodes").mkdir(exist_ok=True)
        (tmp_path / "nodes" / "0000").write_bytes(b"soon\n")
        for _ in range(2):
            with pytest.raises(Corruption, match="20 digits"):
                IdSource(tmp_path)
        assert IdSource(tmp_path, 1).node == 1

    def test_a_forked_child_makes_none(self, tmp_path: Path) -> None:
        ids = IdSource(tmp_path)
        ids._process = os.getpid() + 1
        with pytest.raises(Precondition):
            ids.take(1)
