"""`firecell init`: a commented firecell.toml."""

from __future__ import annotations

from pathlib import Path

import typer

from engine.errors import Precondition
from ops.options import Config, Json, emit


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(config: Config = None, json_wanted: Json = False) -> None:
    """Write a commented firecell.toml whose values are the defaults. Never overwrites one.

    \b
    Examples:
      firecell init
      firecell init --config east/firecell.toml
    """
    from cells.settings import DEFAULT_FILE
    from cells.settings_schema import init_text

    file = (config or Path(DEFAULT_FILE)).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(init_text())
    except FileExistsError:
        raise Precondition(f"{file} is there already; edit it, or name another") from None
    if json_wanted:
        emit({"file": str(file)})
    else:
        typer.echo(str(file))
