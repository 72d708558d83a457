"""`firecell config show|check`: which settings are in force, and where each comes from."""

from __future__ import annotations

import typer

from ops.options import Config, Json, emit, settings_of

_app = typer.Typer(no_args_is_help=True, help="Settings: which are in force, and why.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_app, name="config")


@_app.command()
def show(config: Config = None, json_wanted: Json = False) -> None:
    """Show every setting, its value and where the value comes from.

    TOML < environment FIRECELL_SECTION__KEY < flags.

    \b
    Examples:
      firecell config show
      FIRECELL_HTTP__PORT=0 firecell config show --json
    """
    settings = settings_of(config)
    if json_wanted:
        emit({name: origin._asdict() for name, origin in settings.origins.items()})
        return
    width = max(map(len, settings.origins))
    for name, origin in settings.origins.items():
        typer.echo(f"{name:<{width}}  {origin.value!s:<28}  {origin.source}")


@_app.command()
def check(config: Config = None, json_wanted: Json = False) -> None:
    """Check the settings: exit 0, or 2 with a sentence that names what is wrong.

    \b
    Examples:
      firecell config check --config prod.toml
    """
    settings = settings_of(config)
    file = str(settings.file) if settings.file else None
    if json_wanted:
        emit({"file": file, "cells": sorted(settings.cells)})
    else:
        typer.echo(f"{file or 'the defaults'}: good, cells {', '.join(sorted(settings.cells))}")
