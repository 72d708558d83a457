"""`firecell rewind`: a group's checkpoints moved: a plan first, then with --execute the act.

The words are those of Kafka's own tool. The gateway plans and acts, so nobody can join meanwhile.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from engine.errors import BadInput, NotFound
from engine.limits import REWIND_BODY_BYTES_MAX
from ops.options import Config, Json, Url, emit, say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rewind")(rewind)


def rewind(
    group: Annotated[str, typer.Option(help="The group; it must have no living members.")],
    to_datetime: Annotated[
        str | None, typer.Option(metavar="T", help="To the first event at this time.")
    ] = None,
    by_duration: Annotated[
        str | None, typer.Option(metavar="D", help="To this long ago: 90s, 15m, 2h, 7d.")
    ] = None,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="To the oldest kept.")] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="To the end.")] = False,
    to_offset: Annotated[int | None, typer.Option(help="To this offset, with --partition.")] = None,
    shift_by: Annotated[int | None, typer.Option(help="By so many events; negative: back.")] = None,
    from_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="To the positions that --export wrote.")
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Only this partition; may be given several times.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the plan's positions; alone, the present ones."),
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Do it.")] = False,
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Rewind a consumer group. Prints the plan and does nothing without --execute.

    Targets that are older than the retention, or past the end, are clamped, and the plan says so.
    A cell goes back by a replay beside its live work, not by this.

    \b
    Examples:
      firecell rewind --group mailer --by-duration 2h
      firecell rewind --group mailer --to-datetime 2026-01-31T12:00:00Z --execute
      firecell rewind --group mailer --shift-by -100 --partition 3 --execute
      firecell rewind --group mailer --export place.json
      firecell rewind --group mailer --from-file place.json --execute
    """
    from ops.client import connect

    asked: dict[str, Any] = {
        "to_datetime": to_datetime, "by_duration": by_duration, "to_offset": to_offset,
        "shift_by": shift_by, "to_earliest": to_earliest or None, "to_latest": to_latest or None,
        "partitions": partition or None,
    }  # fmt: skip
    asked = {name: value for name, value in asked.items() if value is not None}
    if from_file is not None:
        asked["positions"] = _read(from_file, group)
    elif not asked.keys() - {"partitions"} and export is not None and not execute:
        asked["shift_by"] = 0
    asked["execute"] = execute
    with connect(config, url) as client:
        plan = client.post(f"/v1/admin/groups/{quote(group, safe='')}/rewind", asked)
    if export is not None:
        _write(export, plan)
    if json_wanted:
        emit(plan)
        return
    _show(plan)


def _show(plan: dict[str, Any]) -> None:
    typer.echo(f"partition          now       target       events  {'oldest kept':<24}  seconds")
    for part in plan["partitions"]:
        numbers = f"{part['now']:>12,} {part['target']:>12,} {part['events']:>12,}"
        oldest = part["oldest"] or "-"
        clamped = "  clamped" if part["clamped"] else ""
        seconds = f"{part['estimated_seconds']:>8.2f}"
        typer.echo(f"{part['partition']:>9} {numbers}  {oldest:<24} {seconds}{clamped}")
    done = "done, and read back" if plan["executed"] else "nothing was done: add --execute"
    comes = f"{plan['events']:,} events come again"
    if plan["events"] < 0:
        comes = f"{-plan['events']:,} events will be skipped"
    say(f"{plan['group']}: {comes}, some {plan['estimated_seconds']:,.1f} s to the end; {done}")


def _write(path: Path, plan: dict[str, Any]) -> None:
    positions = {str(part["partition"]): part["target"] for part in plan["partitions"]}
    document = {"group": plan["group"], "identity": plan["identity"], "positions": positions}
    path.write_text(json.dumps(document) + "\n")


def _read(path: Path, group: str) -> dict[str, int]:
    """The positions of a file that --export wrote."""
    try:
        with path.open("rb") as file:
            content = file.read(REWIND_BODY_BYTES_MAX + 1)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    try:
        document = json.loads(content)
        positions = {str(p): int(offset) for p, offset in document["positions"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path}: no file that --export wrote", "from-file") from None
    if document.get("group") not in (None, group):
        say(f"these positions are of group {document['group']}; they go to {group} now")
    return positions
