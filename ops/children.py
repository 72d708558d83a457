"""Dying with the parent: what a child of the supervisor does before anything else.

Linux sends a process PR_SET_PDEATHSIG when the thread that made it ends, however it ends. The
child asks for it itself (nothing runs between fork and exec), and then looks whether its parent
is still the one that it was told of, since that one may have died before. Main thread only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

PARENT_VARIABLE = "FIRECELL_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child of this process: it will die with us, and finds our packages."""
    root = str(Path(__file__).resolve().parent.parent)
    path = environment.get("PYTHONPATH", "")
    if root not in path.split(os.pathsep):
        path = os.pathsep.join(filter(None, [root, path]))
    return {**environment, PARENT_VARIABLE: str(os.getpid()), "PYTHONPATH": path}


def child_command(*arguments: str) -> tuple[str, ...]:
    """`firecell ARGUMENTS` with this interpreter; -P: never a package of the working folder."""
    return (sys.executable, "-P", "-m", "ops.main", *arguments)


def die_with_parent() -> None:
    """When a supervisor started this process: end when it ends, at once and for sure.

    Does nothing otherwise. The variable is taken out, so that grandchildren don't look for it.
    """
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent.isdigit():
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(1)
