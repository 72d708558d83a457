"""README's table of figures: made of result files, whatever they hold, and of nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import figures, report
from bench.figures import BEGIN, END, NOTHING
from engine.errors import Misconfigured

FANOUT: dict[str, Any] = {
    "inbox_writes_per_second": 2_345_678.9,
    "posts_per_second": 11_700.0,
    "seconds": 61.2,
    "mean_fanout": 200.4,
    "cpu_seconds": 100.0,
    "memory_bytes_max": 2**30,
    "bytes_per_inbox_write": 52.38,
    "compaction_bytes": 2**21,
    "slowest_10_seconds_writes_per_second": 2_100_000.0,
    "step_seconds": {"plan": 6.12, "outside": 3.06},
    "gil_share": 0.25,
    "publish_to_inbox_ms": {"p50": 41.0, "p99": 160.0, "posts_per_second": 5_850.0},
    "start": {"seconds": 1.5, "edges": 20_000_000, "memory_bytes_per_edge": 17.25},
    "prepare": {"edges_per_second": 80_460.4},
    "oracle": {"readers": 1_000, "missing": 0, "extra": 0, "duplicates": 2},
    "command": "python -m bench.fanout --graph ../elsewhere/follows.txt.gz --seconds 60",
}
KIND = {"pages_per_second": 12_345.6, "ms": {"p50": 0.61, "p99": 2.345}}
READS: dict[str, Any] = {
    "connections": 16,
    "idle": {
        "page_1_hot": KIND,
        "page_1_hot_one_connection": {**KIND, "ms": {"p50": 0.1, "p99": 0.2}},
        "page_300_deep": KIND,
    },
    "beside_fan_out": {
        "page_20_deep": KIND,
        "inbox_writes_per_second": 1e6,
        "lag_events_at_end": 3,
    },
    "command": "python -m bench.reads",
}


def test_without_results_nothing_was_measured(tmp_path: Path) -> None:
    assert figures.render(tmp_path) == figures.render(tmp_path / "absent") == NOTHING


def test_fan_out_has_its_figures_its_command_and_its_machine(tmp_path: Path) -> None:
    report.write_result("fanout-power-law", FANOUT, tmp_path)
    text = figures.render(tmp_path)
    for row in (
        "```text\n./run firecell bench fanout --graph follows.txt.gz --seconds 60\n```",
        "| inbox writes/s, sustained for 61 s, durable | **2,345,679** (11,700 posts/s, 200 fo",
        "| publish to inbox at 5,850 posts/s | p50 41 ms, p99 160 ms |",
        "| where the time goes | plan 10%, outside 5% |",
        "| start with 20,000,000 follows | 1.5 s; 17.2 bytes of memory a follow, all included |",
        "| oracle: whole dashboards of 1,000 readers | 0 missing, 0 extra, 2 twice |",
    ):
        assert row in text, row
    assert "cores of" in text and "Python 3." in text
    assert "elsewhere" not in text, "folders of the machine that measured are nobody's business"


def test_what_was_not_measured_has_no_row(tmp_path: Path) -> None:
    short = {k: v for k, v in FANOUT.items() if k not in ("publish_to_inbox_ms", "oracle", "start")}
    slowest = "slowest_10_seconds_writes_per_second"
    nothing = {"p50": 0.0, "p99": 0.0, "posts_per_second": 1.0, "events": 0}
    short = {**short, slowest: None, "publish_to_inbox_ms": nothing}
    report.write_result("fanout-short", short, tmp_path)
    text = figures.render(tmp_path)
    assert "publish to inbox" not in text and "oracle" not in text and "slowest" not in text


def test_pulled_authors_have_their_saving_and_the_cost_of_their_pages(tmp_path: Path) -> None:
    pages = {"pulled_authors": 9, "5": {"p50": 0.4, "p99": 0.7, "pulled_authors_mean": 5.0}}
    saved = {"inbox_writes_saved": 1_234, "inbox_writes_saved_share": 0.995}
    report.write_result("fanout-pulled", {**FANOUT, **saved, "pulled_pages": pages}, tmp_path)
    text = figures.render(tmp_path)
    assert "| inbox writes saved by pulling | 1,234 (99.5%) |" in text
    assert "| a page of readers with 5 pulled authors | p50 0.4 ms, p99 0.7 ms |" in text


def test_reads_have_a_row_per_kind_of_page(tmp_path: Path) -> None:
    report.write_result("reads", READS, tmp_path)
    text = figures.render(tmp_path)
    for row in (
        "| page 1, any reader, asked for before | 12,346 pages/s over 16 connections"
        " (p99 2.35 ms); one at a time p50 0.10 ms, p99 0.20 ms |",
        "| page 300, longest inboxes | 12,346 pages/s over 16 connections (p99 2.35 ms) |",
        "| page 20, longest inboxes, beside fan-out |",
        "| inbox writes/s meanwhile | 1,000,000 |",
    ):
        assert row in text, row
    assert "lag_events" not in text


def test_other_results_are_named_not_left_out(tmp_path: Path) -> None:
    report.write_result("import", {"command": "x"}, tmp_path)
    assert "| all figures | `bench/results/import.json` |" in figures.render(tmp_path)


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"name": "x", "machine": {}})):
        (tmp_path / "odd.json").write_text(text)
        with pytest.raises(Misconfigured, match=r"odd\.json"):
            figures.render(tmp_path)


def test_the_block_is_filled_and_the_rest_stays() -> None:
    text = f"before\n{BEGIN}\nold\nolder\n{END}\nafter\n"
    filled = figures.fill(text, "new \\1")
    assert filled == f"before\n{BEGIN}\nnew \\1\n{END}\nafter\n"
    assert figures.fill(filled, "new \\1") == filled
    for broken in ("no block", text + text):
        with pytest.raises(Misconfigured):
            figures.fill(broken, "new")


def test_the_command_writes_or_only_checks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    arguments = ["--results", str(tmp_path), "--readme", str(readme)]
    assert figures.main([*arguments, "--check"]) == 1
    assert figures.main(arguments) == 0
    assert NOTHING in readme.read_text()
    assert figures.main([*arguments, "--check"]) == 0
    readme.write_text("no block")
    assert figures.main(arguments) == Misconfigured.exit_code
