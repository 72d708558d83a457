"""A cell's process with a stand-in for the cell: listening, ready, drained, failed, exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from topics.runfiles import find

ROOT = Path(__file__).resolve().parents[2]
_WAIT_S = 30
_CELL = """
import sys, types
from pathlib import Path
from engine.errors import Corruption, Precondition
from tests.topics.http_fakes import FakeJobs, FakePages, FakeRunner

folder = Path(sys.argv[1])


class Runner(FakeRunner):
    failure = None
    def start(self): self.ready = False
    @property
    def ready(self):
        if (folder / "fail").exists():
            self.failure = Corruption("a key contradicts itself")
        return (folder / "caught-up").exists()
    @ready.setter
    def ready(self, value): pass
    def not_ready_reason(self): return "" if self.ready else "catching up"


class Cell:
    def __init__(self, name):
        self.name, self.reader, self.runner = name, FakePages(name), Runner()
    def close(self, deadline_s):
        (folder / "closed").touch()
        return not (folder / "hangs").exists()


def open_cell(settings, name, *, accept_gap=False):
    if (folder / "locked").exists():
        raise Precondition("the store is in use")
    return Cell(name)


class Maintenance(FakeJobs):
    def __init__(self, cell, settings): pass
    def start(self): pass
    def close(self): pass


sys.modules["cells.cell"] = module = types.ModuleType("cells.cell")
module.Cell, module.open_cell = Cell, open_cell
sys.modules["cells.maintenance"] = beside = types.ModuleType("cells.maintenance")
beside.Maintenance = Maintenance
from cells.process import run_cell
from cells.settings import load_settings
sys.exit(run_cell(load_settings(folder=folder, environment={}), "c1"))
"""


@contextmanager
def cell(folder: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A cell process, killed at the end unless it ended by itself."""
    process = subprocess.Popen([sys.executable, "-c", _CELL, str(folder)], cwd=ROOT)
    try:
        eventually(lambda: process.poll() is not None or find(folder / "data", "cell", "c1"))
        running = find(folder / "data", "cell", "c1")
        url = "http://127.0.0.1:9" if running is None else running.url
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
            yield client, process
    finally:
        process.kill()
        process.wait(10)


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_cell_listens_catches_up_serves_and_drains(tmp_path: Path):
    with cell(tmp_path) as (client, process):
        assert client.get("/healthz").is_success
        eventually(lambda: "catching up" in client.get("/readyz").text)
        assert client.get("/v1/users/2/dashboard").status_code == 503
        (tmp_path / "caught-up").touch()
        eventually(lambda: client.get("/readyz").is_success)
        assert client.get("/v1/users/2/dashboard").json()["cell"] == "c1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert (tmp_path / "closed").exists()
    assert find(tmp_path / "data", "cell", "c1") is None


@pytest.mark.parametrize(("fault", "code"), [("locked", 3), ("fail", 3)])
def test_a_cell_that_cannot_go_on_ends_with_the_errors_code(tmp_path: Path, fault: str, code: int):
    (tmp_path / fault).touch()
    with cell(tmp_path) as (_, process):
        assert process.wait(10) == code
    assert (tmp_path / "closed").exists() == (fault == "fail")


def test_a_fan_out_that_does_not_end_is_an_error(tmp_path: Path):
    (tmp_path / "hangs").touch()
    (tmp_path / "caught-up").touch()
    with cell(tmp_path) as (client, process):
        eventually(lambda: client.get("/readyz").is_success)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
