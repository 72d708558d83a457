"""`firecell replay`: a span of the firehose applied again, beside live work; `list` and `stop`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from engine.errors import BadInput
from ops.cell_jobs import CellName, CellUrl, Execute, follow, reach
from ops.options import Config, Json, emit, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    replays = typer.Typer(invoke_without_command=True)
    replays.callback()(replay)
    replays.command("list")(list_replays)
    replays.command("stop")(stop_replay)
    app.add_typer(replays, name="replay")


def replay(
    context: typer.Context,
    cell: CellName = None,
    since: Annotated[
        str | None,
        typer.Option("--from", metavar="T", help="A time, 2h (ago), earliest, or 0:12,1:7."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="T", help="The same; else what is applied.")
    ] = None,
    execute: Execute = False,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Apply a span of the firehose again to one cell, beside its live work.

    Changes no answer: it heals what was damaged. The live position does not move. A replay takes a
    share of the time that live work leaves, goes on after a restart of the cell, and goes on when
    this command is interrupted, which only watches it.

    \b
    Examples:
      firecell replay --cell c1 --from 2h
      firecell replay --cell c1 --from earliest --execute
      firecell replay list --cell c1
      firecell replay stop --cell c1 1790000000000
    """
    if context.invoked_subcommand is not None:
        return
    if since is None:
        raise BadInput("--from: say from where: a time, 2h, earliest, or 0:12,1:7", "from")
    with reach(config, url, cell) as jobs:
        job = jobs.ask(kind="replay", since=since, until=until, execute=execute)
        if execute:
            say(f"replay {job['id']} runs in the cell; Ctrl-C only ends watching it")
            job = follow(jobs, job, _progress)
    if json_wanted:
        emit(job)
        return
    _show_plan(job["plan"]) if not execute else _show_done(job)


def _progress(progress: Mapping[str, Any]) -> str:
    left = progress.get("seconds_left")
    time_left = "" if left is None else f", {left:,.0f} s left"
    return f"{progress['events_done']:,} of {progress['events']:,} events{time_left}"


def _show_plan(plan: Mapping[str, Any]) -> None:
    for partition, span in plan["partitions"].items():
        if span["events"]:
            typer.echo(
                f"partition {partition:>4}   {span['from']:>12,} to {span['to']:>12,}"
                f"   {span['events']:>12,} events   oldest kept {span['floor']:,}"
            )
    seconds = plan["estimated_seconds"]
    typer.echo(f"{plan['events']:,} events" + (f", some {seconds:,} s" if seconds else ""))
    say("nothing was done: add --execute")


def _show_done(job: Mapping[str, Any]) -> None:
    result = job["result"]
    typer.echo(
        f"replay {job['id']} is {job['state']}: {result['events_done']:,} events,"
        f" {result['keys']:,} inbox keys written, {result['mended']:,} follows mended"
    )
    if result["skipped"]:
        say(f"{result['skipped']:,} events fell below the retention meanwhile: not replayed")


def list_replays(
    cell: CellName = None, config: Config = None, url: CellUrl = None, json_wanted: Json = False
) -> None:
    """Show the replays of a cell: running ones and those of old.

    \b
    Examples:
      firecell replay list --cell c1
      firecell replay list --json
    """
    with reach(config, url, cell) as jobs:
        known = [job for job in jobs.jobs() if job["kind"] == "replay"]
    if json_wanted:
        emit({"replays": [job["result"] for job in known]})
        return
    for job in known:
        error = f", {job['error']}" if job["error"] else ""
        created = job["result"]["created_at"]
        typer.echo(f"{job['id']}  {created}  {job['state']:<8} {_progress(job['progress'])}{error}")
    if not known:
        say("no replays")


def stop_replay(
    replay_id: Annotated[str, typer.Argument(metavar="ID", help="As `replay list` shows it.")],
    cell: CellName = None,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Stop a replay where it is.

    \b
    Examples:
      firecell replay stop --cell c1 1790000000000
    """
    with reach(config, url, cell) as jobs:
        job = jobs.stop(replay_id)
    emit(job["result"]) if json_wanted else say(f"replay {replay_id} is stopped")
