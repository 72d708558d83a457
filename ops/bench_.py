"""`firecell bench NAME`: becomes `python -m bench.NAME`. (`bench` is the package that it runs.)"""

from __future__ import annotations

from importlib.util import find_spec

import typer

from engine.errors import NotFound
from ops.demo import become

NAMES = ("fanout", "reads", "stream", "replay", "bulk", "compare")
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def register(app: typer.Typer) -> None:
    """Add a command for each benchmark that is there."""
    group = typer.Typer(no_args_is_help=True, help="Benchmarks: each has --help and --json.")
    there = [name for name in NAMES if find_spec("bench") and find_spec(f"bench.{name}")]
    for name in there:
        group.command(name, context_settings=dict(_PASS_ON), help=f"Run bench/{name}.py.")(_run)
    if there:
        app.add_typer(group, name="bench")


def _run(context: typer.Context) -> None:
    name = context.info_name or ""
    if name not in NAMES:
        raise NotFound(f"no benchmark {name!r}; there are: {', '.join(NAMES)}")
    become(f"bench.{name}", context.args)
