"""`firecell status`: processes, cells, positions, lag, gaps."""

from __future__ import annotations

import os
from typing import Any

import typer

from ops.options import Config, Json, Url, emit, settings_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("status")(status)


def status(config: Config = None, url: Url = None, json_wanted: Json = False) -> None:
    """Show what runs and how it does: cells, positions, lag, gaps, rates.

    \b
    Examples:
      firecell status
      firecell status --json
    """
    from dataclasses import asdict

    from ops.client import connect
    from topics.runfiles import running

    document: dict[str, Any] = {}
    if not (url or os.environ.get("FIRECELL_URL")):
        document["processes"] = [asdict(p) for p in running(settings_of(config).data.folder)]
    with connect(config, url) as client:
        document.update(client.get("/v1/admin/status"))
    if json_wanted:
        emit(document)
        return
    for process in document.pop("processes", []):
        title = f"{process['role']} {process['name']}"
        since = f"process {process['pid']}, since {process['started']}"
        typer.echo(f"{title:<16} {process['url']:<28} {since}")
    _show(document, 0)


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)


def _show(value: Any, depth: int) -> None:
    """A document as indented lines: scalars as `name  value`, short lists on one line."""
    blank = "  " * depth
    items = value.items() if isinstance(value, dict) else ((str(n), v) for n, v in enumerate(value))
    for name, member in items:
        if isinstance(member, dict) and member and all(key.isdigit() for key in member):
            member = [f"{key}:{scalar}" for key, scalar in member.items()]
        nested = isinstance(member, dict) or (isinstance(member, list) and any(map(_holds, member)))
        if nested and member:
            typer.echo(f"{blank}{name}")
            _show(member, depth + 1)
        elif isinstance(member, list):
            typer.echo(f"{blank}{name}  {' '.join(str(m) for m in member) or '-'}")
        else:
            typer.echo(f"{blank}{name}  {member}")
