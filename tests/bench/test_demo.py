"""`./run demo` without a terminal: it ends by itself, checks itself, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SMALL = ("--users", "200", "--authors", "40", "--follows", "2000", "--rate", "200")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.demo", "--headless", *_SMALL, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def living_on(folder: Path) -> list[int]:
    """Processes that were started on `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "cwd").startswith(str(folder)):
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_the_demo_ends_by_itself_with_a_verdict(tmp_path: Path) -> None:
    started = time.monotonic()
    process = start(tmp_path, "--seconds", "4", "--data", str(tmp_path / "demo"))
    output, talk = process.communicate(timeout=120)
    assert process.returncode == 0, talk
    assert time.monotonic() - started < 60
    assert "\ngaps 0\n" in output
    assert re.search(r"oracle: 200 readers, 0 missing, 0 extra, 0 duplicates", output), output
    assert re.search(r"[\d,]+ inbox writes/s", output)
    assert living_on(tmp_path) == []


@pytest.mark.slow
def test_ctrl_c_drains_and_checks(tmp_path: Path) -> None:
    process = start(tmp_path, "--json", "--data", str(tmp_path / "demo"))
    assert process.stderr is not None
    for line in process.stderr:
        if "begin to post" in line:
            break
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal would, to all of its group
    output, talk = process.communicate(timeout=120)
    assert process.returncode == 0, talk
    document = json.loads(output)
    assert document["ok"] is True
    assert document["posts"] > 0
    assert document["oracle"]["missing"] == document["oracle"]["extra"] == 0
    assert living_on(tmp_path) == []


@pytest.mark.slow
def test_killed_at_once_it_leaves_no_process_kill(tmp_path: Path) -> None:
    process = start(tmp_path, "--data", str(tmp_path / "demo"))
    assert process.stderr is not None
    for line in process.stderr:
        if "begin to post" in line:
            break
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while living_on(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living_on(tmp_path) == []
