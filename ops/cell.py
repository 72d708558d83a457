"""`firecell cell NAME`: one cell: it fans out, keeps and serves its range of users."""

from __future__ import annotations

import os
from typing import Annotated, NoReturn

import typer

from cells.settings import Settings
from engine.errors import Misconfigured, Precondition
from engine.limits import CELL_WORKERS_MAX
from ops.members import Members
from ops.options import Config, settings_of
from topics.kafka_client import library
from topics.urls import EmbeddedPlace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("cell")(cell)


def cell(
    name: Annotated[str, typer.Argument(help="A cell of the configuration, such as c1.")],
    config: Config = None,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap",
            help="Go on although the firehose no longer has what this cell misses; it is recorded.",
        ),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            max=CELL_WORKERS_MAX,
            help="Processes that fan out; more than one needs kafka:// and hbase://.",
        ),
    ] = 1,
    member: Annotated[
        bool, typer.Option("--member", hidden=True, help="A further worker, without HTTP.")
    ] = False,
    json_wanted: Annotated[
        bool, typer.Option("--json", help="Errors as JSON; the log is JSON lines anyway.")
    ] = False,
) -> None:
    """Run one cell alone: it fans out, keeps and serves its range of users.

    `firecell up` runs it for you; use this where each process has a supervisor of its own.

    \b
    Examples:
      firecell cell c1
      firecell cell east --config firecell.toml
      firecell cell c1 --workers 2
    """
    from cells.process import run_cell
    from topics.jsonlog import setup_logging

    setup_logging("cell", name)
    settings = settings_of(config)
    if member:
        _run_member(settings, name)
    if workers == 1:
        raise typer.Exit(run_cell(settings, name, accept_gap=accept_gap))
    own = settings.cell(name)
    if isinstance(own.place, EmbeddedPlace):
        raise Precondition(
            f"cell {name} has an embedded store: one process owns it, fans out and reads. For more"
            " cores make more cells, or use store = hbase://"
        )
    if isinstance(settings.firehose.place, EmbeddedPlace):
        raise Misconfigured("--workers needs [firehose] url = kafka://: its groups share the work")
    members = Members(name, workers - 1, settings.file)
    members.start()
    try:
        code = run_cell(settings, name, accept_gap=accept_gap)
    finally:
        members.stop()
    raise typer.Exit(code)


def _run_member(settings: Settings, name: str) -> NoReturn:
    """What `FIRECELL_CELL=NAME faust -A cells.app worker` does."""
    command = library("faust.cli.faust").cli
    os.environ["FIRECELL_CELL"] = name
    if settings.file is not None:
        os.environ["FIRECELL_CONFIG"] = str(settings.file)
    command(["-A", "cells.app", "worker", "--without-web"], standalone_mode=True)
    raise typer.Exit(0)
