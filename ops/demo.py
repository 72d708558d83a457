"""`firecell demo`: becomes `python -m bench.demo`, which has its own options and its own --help."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

import typer

from ops.children import PARENT_VARIABLE, child_environment

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add the command, if the demo is there."""
    if find_spec("bench") is not None and find_spec("bench.demo") is not None:
        app.command("demo", context_settings=dict(_PASS_ON))(demo)


def demo(context: typer.Context) -> None:
    """Everything at once: firehose, cells, people posting, dashboards filling.

    \b
    Examples:
      firecell demo                                until Ctrl-C
      firecell demo --seconds 20 --headless        ends by itself, with a summary
    """
    become("bench.demo", context.args)


def become(module: str, arguments: list[str]) -> None:
    """Replace this process by `python -m MODULE ARGUMENTS`: signals then arrive there."""
    environment = child_environment(os.environ)  # for a source tree: it finds our packages
    environment.pop(PARENT_VARIABLE)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environment)
