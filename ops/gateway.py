"""`firecell gateway`: the process that takes events in and passes reads on to cells."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.options import Config, settings_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gateway")(gateway)


def gateway(
    config: Config = None,
    port: Annotated[int | None, typer.Option(help="Where it listens; 0: a free port.")] = None,
    json_wanted: Annotated[
        bool, typer.Option("--json", help="Errors as JSON; the log is JSON lines anyway.")
    ] = False,
) -> None:
    """Run the gateway alone: publishing, ids, and reads passed on to the cells.

    `firecell up` runs it for you; use this where each process has a supervisor of its own.

    \b
    Examples:
      firecell gateway --config firecell.toml
      firecell gateway --port 0
    """
    from cells.gateway import run_gateway
    from topics.jsonlog import setup_logging

    setup_logging("gateway", "main")
    settings = settings_of(config, http__port=port)
    raise typer.Exit(run_gateway(settings, port=settings.http.port))
