"""Takes a stack down when its owner has gone: `python -m ops.stack_guard FOLDER PID TICKS`.

A test run that is killed must not leave six servers behind. The guard looks whether the owner
(process id and the time at which the kernel started it) lives; `Stack.down` ends the guard.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from engine.limits_stack import STACK_WATCH_S
from ops.stack_run import Stack
from topics.runfiles import start_ticks


def guard(folder: Path, pid: int, ticks: int) -> None:
    """Wait for the owner's end, then stop the stack."""
    while start_ticks(pid) == ticks:
        time.sleep(STACK_WATCH_S)
    Stack.existing(folder).down()


if __name__ == "__main__":
    guard(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
