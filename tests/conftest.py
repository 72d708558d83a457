"""Fixtures for all tests: free ports, a data folder, reproducible hypothesis, no process left."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# The same examples on every run and machine; speed differs, so no deadline.
settings.register_profile(
    "firecell",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("firecell")

_GOING_S = 2.0  # a child that a test has just killed may take this long to be gone


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What of the real parts was left out, in one line: reasons begin with what is needed."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    needs = Counter(r.removeprefix("Skipped: ") for r in reasons if "needs " in r)
    if needs:
        told = "; ".join(f"{count} tests: {reason}" for reason, count in sorted(needs.items()))
        terminalreporter.write_line(f"without the real parts: {told}")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that names a loopback port which nobody listens on just now."""

    def take() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            number: int = probe.getsockname()[1]
            return number

    return take


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """An empty data folder, as `[data] folder` names it."""
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No FIRECELL_ variable of the person who runs the tests may decide them."""
    for name in list(os.environ):
        if name.startswith("FIRECELL_") and name != "FIRECELL_CI_MARK":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """A test that leaves a child process behind fails, and the child is ended."""
    yield
    if not _has_children():
        return
    deadline = time.monotonic() + _GOING_S
    left = _children()
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = _children()
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    if left:
        pytest.fail(f"child processes left behind: {left}")


def _has_children() -> bool:
    """Whether this process has any child, running or waiting to be collected."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children() -> dict[int, str]:
    """Living children of this process: id -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" or int(fields[1]) != os.getpid():
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "resource_tracker" not in command:  # multiprocessing's own, ends with us
                found[int(folder.name)] = command
    return found
