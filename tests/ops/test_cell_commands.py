"""snapshot, replay, rebuild, verify, quarantine as a person types them: plans, exit codes, JSON.

With no cell running, and beside a real one; every command is a process of its own.
"""

from __future__ import annotations

import json
import shutil
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

from bench.churn import churn
from cells.cell import open_cell
from cells.settings import load_settings
from cells.store_embedded import EmbeddedStore
from tests.conftest import ROOT
from tests.worlds import World
from topics.runfiles import find

_WAIT_S = 60


class Shell:
    """Types commands for one configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = str(folder / "firecell.toml")

    def type(self, *words: str, code: int = 0) -> Any:
        """The JSON that a command prints; of an error, that on stderr."""
        command = [sys.executable, "-m", "ops.main", *words, "--config", self.config, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
        assert done.returncode == code, done.stderr.decode()
        text = done.stdout.decode() or done.stderr.decode().splitlines()[-1]
        return json.loads(text)

    @contextmanager
    def cell(self) -> Iterator[subprocess.Popen[bytes]]:
        """`firecell cell c1`, ready."""
        command = [sys.executable, "-m", "ops.main", "cell", "c1", "--config", self.config]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + _WAIT_S
            while not self.ready():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(_WAIT_S)

    def ready(self) -> bool:
        running = find(self.folder / "data", "cell", "c1")
        try:
            return running is not None and httpx.get(f"{running.url}/readyz").is_success
        except httpx.HTTPError:
            return False


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    world = World(tmp_path)
    world.append(churn(11, count=400, users=30))
    world.log.append([(0, b"no event at all")])
    world.close()
    return Shell(tmp_path)


def test_commands_beside_a_running_cell_and_a_rebuild_after_its_loss(shell: Shell) -> None:
    with shell.cell():
        good = shell.type("verify", "--digest", "--from-firehose")
        assert good["ok"] and good["keys"] > 100
        planned = shell.type("replay", "--from", "earliest")
        assert planned["state"] == "planned" and planned["plan"]["events"] > 300
        assert shell.type("replay", "list") == {"replays": []}
        done = shell.type("replay", "--from", "earliest", "--execute")
        assert done["state"] == "done"
        assert done["result"]["events_done"] == planned["plan"]["events"]
        assert shell.type("snapshot", "create")["state"] == "planned"
        assert shell.type("snapshot", "list") == {"snapshots": []}
        made = shell.type("snapshot", "create", "--name", "mine", "--execute")["result"]
        assert made["name"] == "mine" and made["positions"] == good["positions"]
        assert shell.type("verify", "--digest")["digest"] == good["digest"]
        assert shell.type("rebuild", "--execute", code=3)["error"] == "Precondition"
        assert shell.type("snapshot", "restore", "mine", "--execute", code=3)
        records = shell.type("quarantine", "list")["records"]
        shell.type("quarantine", "retry", records[0]["position"], "--execute", code=1)
        assert not list((shell.folder / "data/snapshots/c1").glob(".checkpoint-*"))
    shutil.rmtree(shell.folder / "data" / "c1" / "store")
    assert shell.type("rebuild")["snapshot"]["snapshot"] == "mine"
    assert shell.type("rebuild", "--execute")["executed"]
    again = shell.type("verify", "--digest", "--from-firehose")
    assert again["ok"] and again["digest"] == good["digest"]


def test_commands_without_a_running_cell(shell: Shell) -> None:
    assert shell.type("verify", code=4)["error"] == "NotFound"
    with shell.cell():
        pass
    good = shell.type("verify", "--digest")
    assert good["ok"] and shell.type("verify", "--sample", "5")["readers"] == 5
    _damage(shell.folder)
    bad = shell.type("verify", code=1)
    assert not bad["ok"] and bad["found"]["missing"] and bad["found"]["outbox missing"]
    assert shell.type("replay", "--from", "earliest", "--execute")["state"] == "done"
    assert shell.type("verify", "--digest")["digest"] == good["digest"]
    assert shell.type("replay", code=2)["error"] == "BadInput"
    assert shell.type("replay", "stop", "5", code=4)["error"] == "NotFound"
    assert shell.type("snapshot", "restore", "none", code=4)["error"] == "NotFound"


def _damage(folder: Path) -> None:
    """Take every third inbox key and every fifth outbox entry away."""
    cell = open_cell(load_settings(folder / "firecell.toml", environment={}), "c1")
    store = cell.store
    assert isinstance(store, EmbeddedStore)
    for table, every in (("inbox", 3), ("outbox", 5)):
        for key in list(store._tables[table].keys())[::every]:
            store._tables[table].delete(key)
    cell.close()
