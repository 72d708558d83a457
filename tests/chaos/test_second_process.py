"""A second process with the same role and name is refused, and harms nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine import limits
from tests.chaos.up import ROOT, running

pytestmark = pytest.mark.slow


def test_a_second_cell_is_refused_and_the_first_keeps_its_run_file(tmp_path: Path) -> None:
    """Once it overwrote the run file of the first, and removed it on its way out."""
    config = tmp_path / "firecell.toml"
    config.write_text('[cells.c1]\nstore = "embedded:./data/c1"\n', encoding="utf-8")
    with running(tmp_path, config, 1) as up:
        before = up.run_file("cell", "c1")
        command = [sys.executable, "-m", "ops.main", "cell", "c1", "--config", str(config)]
        second = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limits.SUCCESSOR_WAIT_S + 20
        )
        assert second.returncode == 3
        assert f"process {before.pid} already runs as cell c1" in second.stderr
        assert up.run_file("cell", "c1") == before
        assert up.dashboard(1)["posts"] == []


def test_up_on_an_open_address_without_tokens_refuses(tmp_path: Path) -> None:
    config = tmp_path / "firecell.toml"
    config.write_text('[http]\nhost = "0.0.0.0"\nport = 0\n', encoding="utf-8")
    command = [sys.executable, "-m", "ops.main", "up", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "token" in done.stderr
    assert not (tmp_path / "data").exists()
