"""`firecell cell NAME`: one cell: it fans out, keeps and serves its range of users."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.options import Config, settings_of


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
    """
    from cells.process import run_cell
    from topics.jsonlog import setup_logging

    setup_logging("cell", name)
    settings = settings_of(config)
    raise typer.Exit(run_cell(settings, name, accept_gap=accept_gap))
