"""`firecell status`: processes, cells, positions, lag, gaps."""

from __future__ import annotations

import os
from typing import Any

import typer

from ops.options import Config, Json, Url, emit, printable, say, settings_of

_PLACES = ("applied", "durable", "end")


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
    _show_firehose(document.get("firehose") or {})
    for cell in document.get("cells") or []:
        _show_cell(cell)
    for missing in document.get("missing") or []:
        say(f"cell {missing.get('cell')} does not answer: {missing.get('cause')}")


def _show_firehose(firehose: dict[str, Any]) -> None:
    """Events that are kept, over all partitions; --json has each partition's."""
    begin, end = total(firehose.get("begin")), total(firehose.get("end"))
    typer.echo(
        f"{'firehose':<16} {end - begin:,} events kept of {end:,},"
        f" {firehose.get('partitions')} partitions, {firehose.get('identity')}"
    )


def _show_cell(cell: dict[str, Any]) -> None:
    """One cell: a line of state and lag, a line of positions, a line per gap."""
    title = f"cell {cell.get('name')}"
    state = "ready" if cell.get("ready") else f"not ready: {cell.get('reason')}"
    trouble = f", trouble: {cell['trouble']}" if cell.get("trouble") else ""
    lag = f"{cell.get('lag_events', 0):,} events, {cell.get('lag_seconds') or 0:.1f} s behind"
    typer.echo(f"{title:<16} {state}{trouble}, {lag}")
    places = ", ".join(f"{name} {total(cell.get(name)):,}" for name in _PLACES)
    rates = cell.get("rates") or {}
    speed = ", ".join(f"{name.replace('_', ' ')} {rate:,.0f}" for name, rate in rates.items())
    typer.echo(f"{'':<16} {places}; {speed}")
    for gap in cell.get("gaps") or []:
        typer.echo(f"{'':<16} gap: {printable(' '.join(f'{k} {v}' for k, v in gap.items()))}")
    if "days_until_disk_full" in cell:
        typer.echo(f"{'':<16} {cell['days_until_disk_full']} days until the disk is full")


def total(vector: Any) -> int:
    """The sum of a vector of positions; 0 for none."""
    return sum(vector.values()) if isinstance(vector, dict) else 0
