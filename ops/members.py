"""More worker processes of one cell: `firecell cell NAME --workers N`, on stores that many may use.

Each is a plain Faust worker in the cell's group. They are started by one thread that lives as long
as they do (they die with the thread that made them, ops/children.py), are started again with
backoff, and get one TERM at the end.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from pathlib import Path

from engine.limits import DRAIN_GRACE_S, DRAIN_S, RESTART_FIRST_MS, RESTART_MS_MAX
from ops.children import child_command, child_environment

_log = logging.getLogger("firecell.members")


class Members:
    """Keeps `count` workers of cell `name` running between `start` and `stop`."""

    def __init__(self, name: str, count: int, config: Path | None) -> None:
        shared = ("--config", str(config)) if config else ()
        self._command = child_command("cell", name, "--member", *shared)
        self._running: list[subprocess.Popen[bytes] | None] = [None] * count
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="members", daemon=True)

    def start(self) -> None:
        """Start them all."""
        self._thread.start()

    def stop(self) -> None:
        """TERM, wait for the drain, then KILL."""
        self._stopping.set()
        self._thread.join(DRAIN_S + 2 * DRAIN_GRACE_S)

    def _keep(self) -> None:
        wait_ms = RESTART_FIRST_MS
        while not self._stopping.is_set():
            started = False
            for place, process in enumerate(self._running):
                if process is not None and process.poll() is None:
                    continue
                if process is not None:
                    _log.warning("a worker ended with %s and is started again", process.returncode)
                    started = True
                self._running[place] = subprocess.Popen(
                    self._command, env=child_environment(os.environ), start_new_session=True
                )
            wait_ms = min(wait_ms * 2, RESTART_MS_MAX) if started else RESTART_FIRST_MS
            self._stopping.wait(wait_ms / 1_000)
        self._end()

    def _end(self) -> None:
        living = [process for process in self._running if process is not None]
        for process in living:
            process.terminate()
        for process in living:
            try:
                process.wait(DRAIN_S + DRAIN_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
