"""Where a stream begins, when the retention is at work meanwhile."""

from __future__ import annotations

import pytest

from engine.errors import RetentionPassed
from tests.topics.memory_log import DAY_MS, START_MS, MemoryLog
from topics.stream_since import Start, place


class DropsMeanwhile(MemoryLog):
    """The retention passes a segment of partition 0 just behind a look-up."""

    def offsets_at(self, time_ms: int) -> list[int]:
        found = super().offsets_at(time_ms)
        self.drop(0, 3)
        return found


def filled() -> DropsMeanwhile:
    log = DropsMeanwhile(partitions=2)
    for number in range(5):
        log.now_ms = START_MS + number * 1_000
        log.say(0, f"post {number}")
    log.now_ms = START_MS + 8 * DAY_MS
    return log


def test_what_is_dropped_behind_the_look_up_is_a_gap() -> None:
    """The floor was read before the look-up, so what had gone in between was skipped silently."""
    log = filled()
    with pytest.raises(RetentionPassed):
        place(log, Start(time_ms=START_MS + 1_000), log.now_ms, clamp=False)
    log = filled()
    placed = place(log, Start(time_ms=START_MS + 1_000), log.now_ms, clamp=True)
    assert placed.vector == {0: 3, 1: 0}
    assert [(found["partition"], found["to_offset"]) for found in placed.gaps] == [(0, 3)]
