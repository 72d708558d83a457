"""`bench fanout` and `bench reads` at a small size: the whole way, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SIZES = ("--readers", "3000", "--edges", "45000", "--authors", "300", "--largest", "1000")


def bench(name: str, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, the document on stdout, the talk on stderr) of `python -m bench.<name>`."""
    process = subprocess.run(
        [
            sys.executable, "-P", "-m", f"bench.{name}", *arguments, "--json",
            "--keep", str(folder / "keep"), "--results", str(folder / "results"),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip
    document = json.loads(process.stdout) if process.stdout else {}
    return process.returncode, document, process.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def fanned_out(folder: Path) -> dict[str, Any]:
    short = ("--seconds", "1", "--warm-posts", "1000", "--latency-seconds", "1")
    code, document, talk = bench("fanout", folder, *_SIZES, *short, "--sample", "200")
    assert code == 0, talk
    return document


@pytest.mark.slow
def test_fanout_measures_and_checks_itself(fanned_out: dict[str, Any], folder: Path) -> None:
    found = fanned_out
    assert found["seconds"] >= 1
    assert found["inbox_writes_per_second"] == pytest.approx(
        found["inbox_writes"] / found["seconds"], rel=0.01
    )
    assert found["posts_per_second"] > 0
    assert 100 < found["mean_fanout"] < 200  # 150 by the graph, and authors' own inboxes
    assert found["cpu_seconds"] > 0
    assert found["memory_bytes_max"] > 10_000_000
    assert found["machine"]["cores"] >= 1
    assert found["start"]["edges"] == 45_000
    judged = found["oracle"]
    assert judged["readers"] == judged["inbox_keys"]["readers"] == 200
    assert judged["posts"] > 10_000
    for kind in (judged, judged["inbox_keys"]):
        assert (kind["missing"], kind["extra"], kind["duplicates"]) == (0, 0, 0)
    assert found["publish_to_inbox_ms"]["posts_per_second"] == pytest.approx(
        found["posts_per_second"] / 2, rel=0.25
    )
    kept = json.loads((folder / "results" / "fanout-power-law-45000.json").read_text())
    assert kept == found


@pytest.mark.slow
def test_publish_to_inbox_is_measured(fanned_out: dict[str, Any]) -> None:
    latency = fanned_out["publish_to_inbox_ms"]
    assert 0 < latency["p50"] <= latency["p99"]
    assert latency["events"] > 0


@pytest.mark.slow
def test_a_second_run_uses_what_was_prepared(fanned_out: dict[str, Any], folder: Path) -> None:
    short = ("--posts", "500", "--warm-posts", "200", "--no-latency", "--name", "again")
    code, document, talk = bench("fanout", folder, *_SIZES, *short)
    assert code == 0, talk
    assert "prepared already" in talk
    assert document["posts"] == 500
    assert document["prepare"] == fanned_out["prepare"]
    assert document["oracle"]["missing"] == 0


@pytest.mark.slow
def test_reads_go_on_in_the_same_folder(fanned_out: dict[str, Any], folder: Path) -> None:
    code, document, talk = bench("reads", folder, *_SIZES, "--seconds", "0.3")
    assert code == 0, talk
    for when in ("idle", "beside_fan_out"):
        found = document[when]
        assert found["page_1_hot"]["pages_per_second"] > 0
        assert found["page_1_hot"]["posts_per_page"] > 1
        assert found["page_1_deep_one_connection"]["failures"] == 0
    cold = document["idle"]["page_1_cold"]
    assert cold["asked"] == cold["distinct"] > 0, "each reader once"
    assert document["merges"]["settled"]
    assert document["beside_fan_out"]["inbox_writes_per_second"] > 0


@pytest.mark.slow
def test_reads_refuse_another_workload(fanned_out: dict[str, Any], folder: Path) -> None:
    code, _, talk = bench("reads", folder, *_SIZES, "--seed", "2")
    assert code == 3
    assert "another workload" in talk


def test_a_graph_that_cannot_be_is_refused(tmp_path: Path) -> None:
    code, _, talk = bench("fanout", tmp_path, "--readers", "10", "--edges", "5")
    assert code == 2
    assert "edges" in talk
    assert "Traceback" not in talk
