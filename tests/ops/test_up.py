"""`firecell up` for real: ready, one at a time per data folder, and everything gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engine.errors import Precondition
from ops import up_run
from tests.conftest import ROOT
from topics.locks import FileLock
from topics.runfiles import RunFile, find, running

Firecell = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def firecell(tmp_path: Path) -> Iterator[Firecell]:
    """Start a command of the command line in `tmp_path`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "ops.main", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_up_serves_and_leaves_nothing(firecell: Firecell, tmp_path: Path) -> None:
    (tmp_path / "firecell.toml").write_text("[cells.a]\n[cells.b]\n[firehose]\npartitions = 4\n")
    up = firecell("up", "--port", "0", "--json")
    assert up.stdout is not None
    ready = json.loads(up.stdout.readline())
    assert sorted(ready["cells"]) == ["a", "b"]
    answer = httpx.get(ready["url"] + "/readyz", params={"all": "1"}, trust_env=False)
    assert answer.status_code == 200
    processes = running(tmp_path / "data")
    assert {(one.role, one.name) for one in processes} == {
        ("up", "main"), ("gateway", "main"), ("cell", "a"), ("cell", "b"),
    }  # fmt: skip
    code, _, said = done(firecell("up", "--port", "0"))
    assert code == 3
    assert f"process {up.pid}" in said
    assert done(firecell("follow", "1", "7"))[0] == 0
    code, post, _ = done(firecell("post", "7", "hello"))
    assert code == 0
    _wait_for(lambda: post.strip() in done(firecell("dashboard", "1"))[1])
    assert done(firecell("status", "--json"))[0] == 0
    up.send_signal(signal.SIGTERM)
    code, _, said = done(up)
    assert code == 0, said
    assert running(tmp_path / "data") == []
    assert not [one for one in processes if Path(f"/proc/{one.pid}").exists()]


def _wait_for(look: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_taken_port_is_named_before_anything_starts(firecell: Firecell, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, said = done(firecell("up", "--port", str(port)))
    assert code == 3
    assert f"127.0.0.1:{port}" in said and "--port" in said
    assert not (tmp_path / "data" / "logs").exists()


def test_a_successor_waits_for_one_that_drains(data_folder: Path) -> None:
    held = up_run._hold(data_folder)
    predecessor = RunFile(data_folder, "up", "main")
    predecessor.write(url="", version="1")
    started = time.monotonic()
    with pytest.raises(Precondition, match=f"process {os.getpid()}"):
        up_run._hold(data_folder)
    assert time.monotonic() - started < 1, "one that runs is not waited for"
    predecessor.write(url="", version="1", draining=True)
    threading.Timer(0.3, held.release).start()
    with up_run._hold(data_folder):
        assert FileLock.attempt(data_folder / "run" / "up.lock") is None
        assert time.monotonic() - started > 0.2
    predecessor.remove()
    assert find(data_folder, "up", "main") is None


def test_a_wrong_setting_is_said_at_once(firecell: Firecell, tmp_path: Path) -> None:
    (tmp_path / "firecell.toml").write_text('[firehose]\nurl = "redis://127.0.0.1:9092/firehose"\n')
    code, _, said = done(firecell("up"))
    assert code == 2
    assert "is no such URL" in said
    assert "Traceback" not in said
