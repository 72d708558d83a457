"""`firecell up`: all processes of this machine, supervised, on one data folder."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from ops import VERSION, options
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
    raise typer.Exit(run_up(config, port, json_wanted))


def run_up(config: Path | None, port: int | None, json_wanted: bool) -> int:
    """Do it; the exit code. Precondition when another `up` has the folder, or the port is taken."""
    from ops.supervisor import ChildSpec, Supervisor
    from topics.lifecycle import Lifecycle
    from topics.runfiles import RunFile

    settings = options.settings_of(config, http__port=port)
    data = settings.data.folder
    lock = _hold(data)
    lifecycle = Lifecycle("up", "main", drain_s=_patience_s())
    run_file = RunFile(data, "up", "main")
    try:
        _check_port(settings.http.host, settings.http.port, data)
        run_file.write(url="", version=VERSION)
        shared = ("--config", str(settings.file)) if settings.file else ()
        gateway = ("gateway", *shared, "--port", str(settings.http.port))
        specs = [ChildSpec("gateway", "main", gateway)]
        specs += [ChildSpec("cell", name, ("cell", name, *shared)) for name in settings.cells]

        def on_ready(urls: dict[str, str]) -> None:
            run_file.write(url=urls.get("gateway", ""), version=VERSION)
            _say_ready(urls, list(settings.cells), json_wanted)

        supervisor = Supervisor(specs, data_folder=data, lifecycle=lifecycle, say=options.say)
        return asyncio.run(_run(supervisor, lifecycle, on_ready))
    finally:
        run_file.remove()
        lock.release()
