"""`firecell tail`: the firehose on stdout, replay and live in one."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import Conflict, Unavailable
from ops.options import Config, Json, Url, printable, say

if TYPE_CHECKING:
    from topics.client import Consumer

_TOLD = ("rebalance", "slow", "gap")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tail")(tail)


def tail(
    group: Annotated[
        str | None, typer.Option(help="Share the events with all of this group; keep its place.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="A time, 2h, earliest, latest, checkpoint, or a vector 0:12,1:7,..."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="A time to end at; 0s is now.")] = None,
    types: Annotated[str | None, typer.Option(help="Only these types, comma-separated.")] = None,
    authors: Annotated[
        str | None, typer.Option(help="Only events with one of these authors, comma-separated.")
    ] = None,
    ack: Annotated[
        str | None,
        typer.Option(help="manual: acknowledge what was written to stdout, never what was not."),
    ] = None,
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Begin at the oldest kept event when since is older.")
    ] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many events; 0: never.")] = 0,
    config: Config = None,
    url: Url = None,
    json_wanted: Json = False,
) -> None:
    """Follow the firehose: what was published, then what is being published. With --json, one
    event a line, as the server gave it. Goes on by itself when the connection breaks.

    \b
    Examples:
      firecell tail --since 2h
      firecell tail --group mailer --types post,follow --json
      firecell tail --since earliest --until 0s --json > everything.ndjson
    """
    from ops.client import connect

    options = {
        "group": group, "since": since, "until": until, "types": types, "authors": authors,
        "ack": ack, "clamp": "true" if clamp else None,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    with connect(config, url) as client:
        consumer = client.consume(**given)
        try:
            _write(consumer, count, json_wanted, acknowledge=ack == "manual")
        finally:
            consumer.close()


def _write(consumer: Consumer, count: int, json_wanted: bool, *, acknowledge: bool) -> None:
    """Lines to stdout, talk to stderr."""
    told = 0
    for number, line in enumerate(consumer.lines(), 1):
        if json_wanted:
            sys.stdout.buffer.write(line + b"\n")
        else:
            sys.stdout.write(_readable(json.loads(line)) + "\n")
        sys.stdout.flush()
        for record in consumer.controls[told:]:
            if record["control"] in _TOLD:
                say(_talk(record))
        told = len(consumer.controls)
        if acknowledge and (number == count or not consumer.pending):
            _acknowledge(consumer)
        if number == count:
            return


def _acknowledge(consumer: Consumer) -> None:
    """A session that was lost is no end: the stream connects again, and brings the rest again."""
    try:
        consumer.ack()
    except (Conflict, Unavailable) as error:
        say(f"not acknowledged, so these events come again: {error.message}")


def _readable(event: dict[str, Any]) -> str:
    who = event.get("author", "")
    if "reader" in event:
        who = f"{event['reader']} -> {who}"
    what = printable(event.get("text", event.get("reason", "")))
    about = event.get("id") or event.get("post")
    rest = f"  [{about}]" if about else ""
    place = f"{event['appended_at']}  {event['position']:>10}"
    return f"{place}  {event['type']:<8} {who}  {what}{rest}"


def _talk(record: dict[str, Any]) -> str:
    if record["control"] == "gap":
        gaps = record["gaps"]
        lost = ", ".join(f"partition {gap['partition']} up to {gap['to_offset']}" for gap in gaps)
        return f"gap: dropped by the retention before it was read: {lost}"
    if record["control"] == "slow":
        return f"slow: {record['lag']:,} events behind"
    return f"rebalance: {len(record['positions'])} partitions"
