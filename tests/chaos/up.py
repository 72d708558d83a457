"""`firecell up` as tests use it: a process of its own, talked to over HTTP, killed by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from topics.runfiles import running as running_processes

ROOT = Path(__file__).resolve().parents[2]


class Up:
    """A running `firecell up` in `folder`."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self._output = (folder / "up.log").open("ab")
        command = [sys.executable, "-m", "ops.main", "up", "--config", str(config), "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=self._output, stderr=self._output, start_new_session=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},  # a crash in C tells where
        )  # fmt: skip
        self.client = httpx.Client(timeout=20, trust_env=False)
        self.url = ""

    def wait_ready(self, cells: int, timeout_s: float = 60) -> None:
        """Until the gateway and every cell are ready."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log()
            gateway = self.run_file("gateway")
            if gateway is not None:
                self.url = gateway.url
                with contextlib.suppress(httpx.HTTPError):
                    ready = self.client.get(f"{self.url}/readyz", params={"all": "1"})
                    if ready.status_code == 200 and len(self.pids("cell")) == cells:
                        return
            time.sleep(0.05)
        raise AssertionError("not ready:\n" + self.log())

    def run_file(self, role: str, name: str | None = None) -> Any:
        found = running_processes(self.folder / "data", role)
        return next((f for f in found if name in (None, f.name)), None)

    def pids(self, role: str) -> dict[str, int]:
        return {f.name: f.pid for f in running_processes(self.folder / "data", role)}

    def publish(self, event: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post(f"{self.url}/v1/events", json=event)
        assert answer.status_code == 201, answer.text
        published: dict[str, Any] = answer.json()
        return published

    def get(self, path: str, **parameters: str) -> httpx.Response:
        return self.client.get(f"{self.url}{path}", params=parameters)

    def dashboard(self, user: int, **parameters: str) -> dict[str, Any]:
        answer = self.get(f"/v1/users/{user}/dashboard", **parameters)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    def log(self) -> str:
        self._output.flush()
        return (self.folder / "up.log").read_text(errors="replace")[-4_000:]

    def stop(self, timeout_s: float = 40) -> int:
        """One TERM, as an operator would; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self.client.close()
        self._output.close()
        return code

    def kill_all(self) -> None:
        """kill -9 of the supervisor; its children die with it."""
        children = [*self.pids("gateway").values(), *self.pids("cell").values()]
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 10
        while any(alive(pid) for pid in children):
            assert time.monotonic() < deadline, "children outlived the supervisor"
            time.sleep(0.02)
        self.client.close()
        self._output.close()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in ("Z", "X")


@contextlib.contextmanager
def running(folder: Path, config: Path, cells: int) -> Iterator[Up]:
    """A ready `up`, stopped in the end."""
    up = Up(folder, config)
    try:
        up.wait_ready(cells)
        yield up
    finally:
        if up.process.poll() is None:
            assert up.stop() == 0, up.log()
