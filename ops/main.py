"""The way in: `python -m ops.main`, and `firecell` after an install. Main thread only.

It looks that the packages are ours before it imports any of them: `engine`, `topics`, `cells` and
`ops` are generic names, and another project's may stand in front.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from ops.children import die_with_parent

_PACKAGES = ("engine", "topics", "cells", "ops")
_MISCONFIGURED = 2  # the exit code of engine.errors.Misconfigured, which may not be ours to import


def foreign_package() -> str:
    """What is wrong when our packages come from several folders, naming both; else ""."""
    ours = Path(__file__).resolve().parent.parent
    for name in _PACKAGES:
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        folder = Path(places[0]).resolve().parent if places else None
        if folder != ours:
            return (
                f"the package {name!r} comes from {folder}, but 'ops' from {ours}: give Firecell"
                " an environment of its own, or take the other folder off PYTHONPATH"
            )
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    die_with_parent()
    problem = foreign_package()
    if problem:
        sys.stderr.write(f"firecell: {problem}\n")
        return _MISCONFIGURED
    from ops.app import run_command

    return run_command(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
