"""Histograms, result files and tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import report
from bench.report import Histogram
from engine.errors import BadInput


@pytest.mark.parametrize("percent", [0.01, 1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_never_too_low_and_at_most_a_bucket_too_high(percent: float) -> None:
    values = np.sort(np.exp(np.random.default_rng(1).normal(2.0, 2.0, 20_000)))
    histogram = Histogram()
    histogram.record_many(values)
    exact = values[int(np.ceil(len(values) * percent / 100)) - 1]
    assert exact <= histogram.percentile(percent) * (1 + 1e-12) <= exact * 1.0222


def test_one_by_one_and_many_count_alike() -> None:
    values = [0.0, 0.0005, 0.001, 0.5, 1.0, 3.0, 1_000.0, 5e9]
    single, many, weighted = Histogram(), Histogram(), Histogram()
    for value in values:
        single.record(value)
    many.record_many(values)
    many.record_many([])
    assert single.summary() == many.summary()
    weighted.record(2.0, times=3)
    assert (weighted.count, weighted.mean, weighted.maximum) == (3, 2.0, 2.0)


def test_merged_is_as_if_recorded_in_one() -> None:
    values = np.arange(1, 1_001, dtype=np.float64)
    whole, first, second = Histogram(), Histogram(), Histogram()
    whole.record_many(values)
    first.record_many(values[:100])
    second.record_many(values[100:])
    first.merge(second)
    assert first.summary() == whole.summary()
    assert first.summary()["count"] == 1_000
    assert first.mean == 500.5


def test_extremes_of_a_histogram() -> None:
    nothing = Histogram()
    assert nothing.summary((50,)) == {"count": 0, "mean": 0.0, "p50": 0.0, "max": 0.0}
    beyond = Histogram()
    beyond.record(1e12)
    assert beyond.percentile(50) == beyond.maximum == 1e12
    tiny = Histogram()
    tiny.record(0.0)
    assert tiny.percentile(99) == 0.0


def test_a_result_is_written_whole_with_its_machine(tmp_path: Path) -> None:
    path = report.write_result("fanout", {"posts_per_second": 7}, tmp_path / "results")
    assert path == tmp_path / "results" / "fanout.json"
    document = report.read_result("fanout", tmp_path / "results")
    assert document == json.loads(path.read_text())
    assert (document["name"], document["posts_per_second"]) == ("fanout", 7)
    assert document["machine"]["cores"] > 0
    assert document["measured_at"].endswith("Z")
    report.write_result("fanout", {"posts_per_second": 8}, tmp_path / "results")
    assert report.read_result("fanout", tmp_path / "results")["posts_per_second"] == 8
    assert [found.name for found in path.parent.iterdir()] == ["fanout.json"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", "UP", ".hidden", "a" * 101])
def test_a_result_s_name_is_a_plain_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="result name"):
        report.write_result(name, {}, tmp_path)


def test_a_result_s_command_names_no_folder_of_the_machine(tmp_path: Path) -> None:
    command = "python -m bench.x --stack /a/b/stack --url kafka://127.0.0.1:1/t"
    report.write_result("x", {"command": command}, tmp_path)
    wanted = "python -m bench.x --stack stack --url kafka://127.0.0.1:1/t"
    assert report.read_result("x", tmp_path)["command"] == wanted


def test_the_table_shows_nested_members_and_groups_thousands() -> None:
    out = io.StringIO()
    document = {"writes": 1_234_567, "rate": 45_678.9, "ms": {"p50": 1.2345}, "ok": True, "a": None}
    report.show("Fan-out", document, Console(file=out, width=80))
    shown = out.getvalue()
    for expected in ("Fan-out", "1,234,567", "45,679", "ms.p50", "1.23", "true", "-"):
        assert expected in shown
