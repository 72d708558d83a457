"""`firecell up`: all processes of this machine, supervised, on one data folder."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.options import Config, Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up")(up)


def up(
    config: Config = None,
    port: Annotated[
        int | None, typer.Option(help="Where the gateway listens; 0 takes a free port.")
    ] = None,
    json_wanted: Json = False,
) -> None:
    """Run everything on this machine: the gateway and one process per cell.

    Children that die are restarted; Ctrl-C or TERM drains all of them and exits 0.

    \b
    Examples:
      firecell up                      one cell, in ./data, on port 8080
      firecell up --port 0 --json      a free port; prints {"url": ..., "cells": {...}} when ready
      firecell up --config prod.toml   the cells of a configuration
    """
    from ops.up_run import run_up

    raise typer.Exit(run_up(config, port, json_wanted))
