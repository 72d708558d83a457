"""`firecell quarantine list|show|retry|drop`: records that a cell could not read or refused."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engine.errors import Unavailable
from ops.cell_jobs import CellName, CellUrl, Execute, Jobs, follow, reach
from ops.options import Config, Json, emit, printable, say

_Places = Annotated[
    list[str], typer.Argument(metavar="POSITION...", help="As `quarantine list` shows them.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    records = typer.Typer(help="Records that a cell could not read or refused.")
    records.command("list")(list_records)
    records.command("show")(show)
    records.command("retry")(retry)
    records.command("drop")(drop)
    app.add_typer(records, name="quarantine", no_args_is_help=True)


def list_records(
    cell: CellName = None, config: Config = None, url: CellUrl = None, json_wanted: Json = False
) -> None:
    """Show the bad records that a cell has kept: each is a gap of one event.

    \b
    Examples:
      firecell quarantine list --cell c1
    """
    with reach(config, url, cell) as jobs:
        _tell(jobs.ask(kind="quarantine", action="list")["result"], json_wanted)


def show(
    positions: _Places,
    cell: CellName = None,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Show bad records with their bytes, and what this version reads them as.

    \b
    Examples:
      firecell quarantine show --cell c1 3:118
    """
    with reach(config, url, cell) as jobs:
        found = jobs.ask(kind="quarantine", action="show", positions=positions)["result"]
    _tell(found, json_wanted)
    if not json_wanted:
        for record in found["records"]:
            typer.echo(record["frame"])


def retry(
    positions: _Places,
    cell: CellName = None,
    execute: Execute = False,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Apply bad records after a fix, as if they had been good: what came after is put right too.

    \b
    Examples:
      firecell quarantine retry --cell c1 3:118
      firecell quarantine retry --cell c1 3:118 --execute
    """
    _change("retry", positions, cell, execute, config, url, json_wanted)


def drop(
    positions: _Places,
    cell: CellName = None,
    execute: Execute = False,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Give bad records up: their bytes go, the gap of each stays.

    \b
    Examples:
      firecell quarantine drop --cell c1 3:118 --execute
    """
    _change("drop", positions, cell, execute, config, url, json_wanted)


def _change(
    action: str,
    positions: list[str],
    cell: str | None,
    execute: bool,
    config: Any,
    url: str | None,
    json_wanted: bool,
) -> None:
    asked = {"kind": "quarantine", "action": action, "positions": positions, "execute": execute}
    with reach(config, url, cell) as jobs:
        job = jobs.ask(**asked)
        if job["state"] == "running":
            job = _wait(jobs, job)
    if not execute:
        _tell(job["plan"], json_wanted)
        say("nothing was done: add --execute")
    elif json_wanted:
        emit(job)
    else:
        done = "applied" if action == "retry" else "dropped"
        say(f"{len(positions)} records are {done}")


def _wait(jobs: Jobs, job: dict[str, Any]) -> dict[str, Any]:
    """Until the replays of a retry are done."""
    ended = [
        follow(jobs, jobs.job(replay["id"]), lambda p: f"{p['events_done']:,} of {p['events']:,}")
        for replay in job["result"]["replays"]
    ]
    if any(each["state"] != "done" for each in ended):
        raise Unavailable("a retry was stopped before its end: type it again")
    return {**job, "state": "done", "result": {"replays": [each["result"] for each in ended]}}


def _tell(found: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        emit(found)
        return
    for record in found["records"]:
        reads_as = record["reads_as"] or f"unreadable: {record['problem']}"
        typer.echo(
            f"{record['position']:<14} {record['appended_at']}  {record['bytes']:>6} bytes"
            f"  {printable(record['cause'])}  (now: {printable(reads_as)})"
        )
    if not found["records"]:
        say("nothing is quarantined")
