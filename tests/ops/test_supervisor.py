"""The supervisor over fake children: restarts, refusals, one TERM each, and no orphan ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from topics.runfiles import find, running, start_ticks

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def supervise(data_folder: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(*children: str, **environment: str) -> subprocess.Popen[str]:
        script = str(Path(__file__).with_name("supervising.py"))
        process = subprocess.Popen(
            [sys.executable, "-P", script, str(data_folder), *children],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
    wait_for(lambda: not running(data_folder))


def wait_for(look: Callable[[], object], timeout_s: float = 15.0) -> object:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def ready(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    urls: dict[str, str] = json.loads(process.stdout.readline())
    return urls


def starts(data: Path, title: str) -> list[int]:
    return [int(line) for line in (data / f"{title}.starts").read_text().split()]


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=30)
    return process.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_then_drained_gateway_first(supervise: Start, data_folder: Path, number: int) -> None:
    process = supervise("gateway-main=plain", "cell-a=plain", "cell-b=plain")
    urls = ready(process)
    assert sorted(urls) == ["cell a", "cell b", "gateway"]
    assert all(url.startswith("http://127.0.0.1:") for url in urls.values())
    for entry in running(data_folder):
        assert os.getpgid(entry.pid) == entry.pid, "each has a process group of its own"
    process.send_signal(number)
    code, said = end(process)
    assert code == 0, said
    stops = (data_folder / "stops").read_text().split()
    assert stops[0] == "gateway-main"
    assert sorted(stops) == ["cell-a", "cell-b", "gateway-main"], "one TERM each"
    assert said.count("started as process") == 3


def test_a_killed_child_comes_back_kill(supervise: Start, data_folder: Path) -> None:
    process = supervise("gateway-main=plain", "cell-a=plain")
    ready(process)
    gateway, cell = starts(data_folder, "gateway-main"), starts(data_folder, "cell-a")
    os.kill(cell[0], signal.SIGKILL)
    wait_for(lambda: (now := find(data_folder, "cell", "a")) and now.pid != cell[0])
    assert starts(data_folder, "gateway-main") == gateway, "nobody else was touched"
    process.terminate()
    code, said = end(process)
    assert code == 0
    assert "cell a: ended with signal SIGKILL, again in 200 ms" in said


def test_children_die_with_their_parent_kill(supervise: Start, data_folder: Path) -> None:
    process = supervise("gateway-main=plain", "cell-a=deaf")
    wait_for(lambda: (data_folder / "cell-a.starts").exists())
    wait_for(lambda: find(data_folder, "gateway", "main"))
    children = starts(data_folder, "cell-a") + starts(data_folder, "gateway-main")
    process.kill()
    process.communicate()
    wait_for(lambda: all(start_ticks(pid) is None for pid in children), 5)


def test_one_that_refuses_is_left_alone_and_the_rest_serves(
    supervise: Start, data_folder: Path
) -> None:
    process = supervise("gateway-main=plain", "cell-a=refuse", "cell-b=refuse-once",
                        "cell-c=crash-once")  # fmt: skip
    urls = ready(process)
    assert sorted(urls) == ["cell b", "cell c", "gateway"]
    assert len(starts(data_folder, "cell-a")) == 3
    assert len(starts(data_folder, "cell-b")) == 2
    process.terminate()
    code, said = end(process)
    assert code == 0
    assert "cell a: refused to run 3 times, left alone" in said
    assert "firecell: the lock is held" in said, "the reason is told"
    assert "cell c: ended with exit code 1, again in 200 ms" in said


def test_when_all_refuse_it_ends_with_their_code(supervise: Start) -> None:
    code, said = end(supervise("gateway-main=refuse"))
    assert code == 3
    assert "left alone" in said


def test_a_second_term_takes_everything_down_at_once(supervise: Start, data_folder: Path) -> None:
    process = supervise("gateway-main=deaf")
    wait_for(lambda: (data_folder / "gateway-main.starts").exists())
    pid = starts(data_folder, "gateway-main")[0]
    time.sleep(0.3)
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    code, _ = end(process)
    assert code == 128 + signal.SIGTERM
    wait_for(lambda: start_ticks(pid) is None, 5)


def test_a_child_of_a_dead_parent_ends_itself() -> None:
    """The parent died before the child could ask to die with it."""
    script = "from ops.children import die_with_parent as d; d(); print('alive')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for parent, alive in ((os.getpid(), "alive\n"), (os.getppid(), "")):
        done = subprocess.run(
            [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False,
            env={**environment, "FIRECELL_PARENT_PID": str(parent)},
        )  # fmt: skip
        assert done.stdout == alive
