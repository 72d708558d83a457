"""Rates and shares from a cell's numbers before and after."""

from __future__ import annotations

from bench.measured import Measured, figures, slowest


def test_slowest_finds_a_slow_stretch() -> None:
    looks = [(float(second), 100.0 * second) for second in range(1, 21)]
    looks += [(float(second), 2_000.0 + 10.0 * (second - 20)) for second in range(21, 31)]
    looks += [(float(second), 2_100.0 + 100.0 * (second - 30)) for second in range(31, 41)]
    assert slowest(looks, 10.0) == 10.0
    assert slowest(looks[:20], 10.0) == 100.0


def test_slowest_of_a_short_span_is_unknown() -> None:
    assert slowest([(1.0, 5.0), (9.0, 50.0)], 10.0) is None
    assert slowest([], 10.0) is None


def test_figures_are_differences_over_the_time() -> None:
    before = {
        "inbox_keys_total": 1_000, "posts_total": 10, "batches_total": 2,
        "step_plan_seconds_total": 1.0, "step_rows_seconds_total": 0.5,
        "step_inbox_seconds_total": 2.0,
        "store_compaction_bytes": 100,
    }  # fmt: skip
    after = {
        "inbox_keys_total": 21_000, "posts_total": 110, "batches_total": 7,
        "step_plan_seconds_total": 2.0, "step_rows_seconds_total": 1.5,
        "step_inbox_seconds_total": 6.0,
        "store_compaction_bytes": 700,
    }  # fmt: skip
    found = figures(Measured(before, after, 10.0, 12.5, 480_000, 0))
    assert found["inbox_writes_per_second"] == 2_000
    assert found["posts_per_second"] == 10
    assert found["mean_fanout"] == 200
    assert found["bytes_per_inbox_write"] == 24
    assert found["gil_share"] == 0.2
    assert found["compaction_bytes"] == 600
    assert found["step_seconds"] == {"plan": 1.0, "rows": 1.0, "inbox": 4.0, "outside": 4.0}
    assert found["cpu_seconds"] == 12.5
