"""`firecell rebuild`: an empty or broken cell, from its newest snapshot and the firehose since."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import Corruption, Precondition
from engine.limits import VERIFY_PROGRESS_S
from ops.cell_jobs import CellName, Execute, cell_named
from ops.options import Config, Json, emit, say, settings_of
from ops.snapshot import refuse_running, target_of, teller, whose

if TYPE_CHECKING:
    from cells.cell import Cell
    from cells.rebuild import Plan
    from cells.settings import Settings
    from cells.snapshot import Whose
    from engine.ports import Log


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rebuild")(rebuild)


def rebuild(
    cell: CellName = None,
    execute: Execute = False,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Go on although events are lost to this cell; they stay a gap.",
        ),
    ] = False,
    posts_from: Annotated[
        Path | None,
        typer.Option(
            "--posts-from",
            metavar="FOLDER",
            help="Another cell's snapshot: its posts are everybody's.",
        ),
    ] = None,
    config: Config = None,
    json_wanted: Json = False,
) -> None:
    """Rebuild a cell that does not run: its newest snapshot, then the firehose since.

    The cell serves at once, from this process, and what it has not applied yet shows as a gap; the
    command ends when that is done. Interrupted, it goes on whenever the cell is started.

    Where events are lost, another cell's snapshot gives back the posts that were among them; the
    follows of this cell's own users are lost.

    \b
    Examples:
      firecell rebuild --cell c1
      firecell rebuild --cell c1 --execute
      firecell rebuild --cell c1 --execute --accept-loss
      firecell rebuild --cell c1 --execute --accept-loss --posts-from data/snapshots/c2/NAME
    """
    from topics.logs import open_log

    settings = settings_of(config)
    name = cell_named(settings, cell)
    log = open_log(settings.firehose)
    try:
        refuse_running(settings, name, log)
        plan = _prepare(settings, name, log, execute, accept_loss, posts_from)
    finally:
        log.close()
    document = plan.document()
    if not execute:
        _show(document, json_wanted)
        return
    code = _catch_up(settings, name, bool(plan.loss))
    if json_wanted:
        emit({**document, "executed": True})
    raise typer.Exit(code)


def _prepare(
    settings: Settings,
    name: str,
    log: Log,
    execute: bool,
    accept_loss: bool,
    posts_from: Path | None,
) -> Plan:
    """The plan; with `execute` the cell is put in its place, from the newest snapshot whose files
    are whole."""
    from cells import rebuild as rebuilding
    from cells.cell import now_ms
    from cells.snapshot_restore import own_cell

    mine = whose(settings, name, log)
    fill = _filler(settings, mine, posts_from)
    skipped: list[str] = []
    folder = settings.snapshots.folder / name
    own = settings.cells[name].folder
    with own_cell(own, name, 0), target_of(settings, mine) as target:
        while True:
            plan = rebuilding.plan(folder, mine, target, log, skipped)
            if not execute:
                return plan
            try:
                rebuilding.check(plan, log, accept_loss=accept_loss, tell=teller())
            except Corruption as error:  # of the snapshot's files: the one before, then
                if plan.restore is None:
                    raise
                say(error.message)
                skipped.append(plan.restore.snapshot.name)
                continue
            rebuilding.prepare(
                plan,
                log,
                now_ms(),
                refuse=lambda: refuse_running(settings, name, log),
                fill=fill,
            )
            return plan


def _filler(settings: Settings, mine: Whose, posts_from: Path | None) -> Callable[[], None]:
    """What copies another cell's posts into the cell, once its place is ready."""
    from cells.backends import open_store
    from cells.rebuild_posts import checked, copy_posts

    if posts_from is None:
        return lambda: None
    folder, manifest = posts_from, checked(posts_from, mine, teller())

    def fill() -> None:
        store = open_store(
            settings.cells[mine.cell],
            identity=mine.identity,
            partitions=mine.partitions,
            home=mine.home,
            helper=settings.hbase.helper,
            restoring=True,
        )
        with closing(store):
            copied = copy_posts(folder, manifest, mine.home, store)
        say(f"{copied:,} posts of cell {manifest.cell} are copied")

    return fill


def _show(document: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        emit({**document, "executed": False})
        return
    snapshot = document["snapshot"]
    source = "nothing" if snapshot is None else f"snapshot {snapshot['snapshot']}"
    typer.echo(
        f"cell {document['cell']} from {source}, then {document['events_to_apply']:,} events"
    )
    for passed in document["passed_over"]:
        typer.echo(f"passed over: {passed}")
    if document["replaces"]:
        typer.echo(f"aside goes: {', '.join(document['replaces'])} of {document['into']}")
    if document["loss"]:
        typer.echo(f"{document['loss']}: needs --accept-loss")
    say("nothing was done: add --execute")


def _catch_up(settings: Settings, name: str, loss: bool) -> int:
    """Serve the cell until it is rebuilt."""
    from cells.process import run_cell

    told = [time.monotonic()]
    over: list[bool] = []

    def look(cell: Cell) -> bool:
        status = cell.runner.status()
        if time.monotonic() - told[0] >= VERIFY_PROGRESS_S:
            told[0] = time.monotonic()
            rate = status["rates"]["events_per_second"]
            left = f", {status['lag_events'] / rate:,.0f} s left" if rate else ""
            say(f"{status['lag_events']:,} events to apply{left}")
        if status["rebuilding"]:
            return False
        over.append(True)
        return True

    code = run_cell(settings, name, accept_gap=loss, on_look=look)
    if not over and code == 0:
        raise Precondition(f"cell {name} is not rebuilt yet: start it, and it goes on")
    return code
