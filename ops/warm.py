"""Compiles the numba code once, after an install, so that no later start waits for it.

`python -m ops.warm`; a module that is not there, or has nothing to warm, is passed over.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

_MODULES = ("engine.keys", "engine.homing", "engine.runs", "engine.fanout", "cells.graph_kernels")


def warm() -> list[str]:
    """Import each module and call its `warm()` if it has one; the names of those."""
    warmed = []
    for name in _MODULES:
        if find_spec(name) is not None:
            prepare = getattr(importlib.import_module(name), "warm", None)
            if callable(prepare):
                prepare()
                warmed.append(name)
    return warmed


if __name__ == "__main__":
    warm()
