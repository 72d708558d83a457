"""`firecell groups list|show|forget`: who reads the firehose, how far, and how long it may wait."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from ops.options import Config, Json, Url, emit, printable, say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Consumer groups: list, show, forget.")
    group.command("list")(list_)
    group.command("show")(show)
    group.command("forget")(forget)
    app.add_typer(group, name="groups")


def list_(config: Config = None, url: Url = None, json_wanted: Json = False) -> None:
    """List every group that ever had a checkpoint, cells' own included.

    \b
    Examples:
      firecell groups list
      firecell groups list --json
    """
    from ops.client import connect

    with connect(config, url) as client:
        groups = client.get("/v1/admin/groups")["groups"]
    if json_wanted:
        emit(groups)
        return
    for group in groups:
        typer.echo(f"{group['group']:<24} {group['members']:>3} members, {_lag(group)}")


def show(
    name: Annotated[str, typer.Argument(help="The group.")],
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Show one group: members, and per partition checkpoint, end and lag.

    \b
    Examples:
      firecell groups show mailer
      firecell groups show cell.c1 --json
    """
    from ops.client import connect

    with connect(config, url) as client:
        group = client.get(f"/v1/admin/groups/{quote(name, safe='')}")
    if json_wanted:
        emit(group)
        return
    typer.echo(f"{group['group']}: {len(group['members'])} members, {_lag(group)}")
    for member in group["members"]:
        partitions = ",".join(member["positions"]) or "none"
        client_name = printable(member["client"])
        about = f"session {member['session']}, ack={member['ack']}, {client_name}"
        typer.echo(f"  {about}: partitions {partitions}")
    typer.echo("  partition   checkpoint          end          lag  next event")
    for row in group["partitions"]:
        numbers = f"{row['checkpoint']:>12,} {row['end']:>12,} {row['lag']:>12,}"
        behind = "below the floor" if row["below_floor"] else row["next_at"] or ""
        typer.echo(f"  {row['partition']:>9} {numbers}  {behind}".rstrip())


def forget(
    name: Annotated[str, typer.Argument(help="The group.")],
    execute: Annotated[bool, typer.Option("--execute", help="Do it.")] = False,
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Drop the place of a group that nobody needs any more, when nobody lives in it.

    Who comes by its name afterwards begins as a new group does: with what comes then.

    \b
    Examples:
      firecell groups forget mailer
      firecell groups forget mailer --execute
    """
    from ops.client import connect

    path = f"/v1/admin/groups/{quote(name, safe='')}"
    with connect(config, url) as client:
        group = client.get(path)
        if execute:
            client.delete(path)
    if json_wanted:
        emit({"group": name, "lag": group["lag"], "forgotten": execute})
        return
    done = "its place is dropped" if execute else "nothing was done: add --execute"
    say(f"{name}: {group['lag']:,} events that it has yet to read; {done}")


def _lag(group: dict[str, Any]) -> str:
    text = f"{group['lag']:,} events behind"
    if group["below_floor"]:
        return f"{text}; the retention has passed its checkpoint: rewind it, or connect with clamp"
    left = group["retention_left_seconds"]
    if left is not None:
        text += f"; the retention waits another {left / 3_600:,.1f} h"
    return text
