"""`firecell rebuild`: an empty or broken cell, from its newest snapshot and the firehose since."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import Corruption, Precondition
from engine.limits import VERIFY_PROGRESS_S
from engine.times import format_ms
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
        mine = whose(settings, name, log)
        posts = None if posts_from is None else _Posts(settings, mine, posts_from)
        plan = _prepare(settings, mine, log, execute, accept_loss, posts)
        document = plan.document()
        if posts is not None:
            document["posts_from"] = posts.document(plan, log)
    finally:
        log.close()
    if not execute:
        _show(document, json_wanted)
        return
    code = _catch_up(settings, name, bool(plan.loss))
    if json_wanted:
        emit({**document, "executed": True})
    else:
        _show_posts(document)
    raise typer.Exit(code)


def _prepare(
    settings: Settings,
    mine: Whose,
    log: Log,
    execute: bool,
    accept_loss: bool,
    posts: _Posts | None,
) -> Plan:
    """The plan; with `execute` the cell is put in its place, from the newest snapshot whose files
    are whole."""
    from cells import rebuild as rebuilding
    from cells.cell import now_ms
    from cells.snapshot_restore import own_cell

    name = mine.cell
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
                fill=posts.fill if posts is not None else lambda: None,
            )
            return plan


class _Posts:
    """Another cell's snapshot, all of it read, whose posts a cell gets."""

    def __init__(self, settings: Settings, mine: Whose, folder: Path) -> None:
        from cells.rebuild_posts import checked

        self._settings = settings
        self._mine = mine
        self._folder = folder
        self._manifest = checked(folder, mine, teller())
        self._copied: int | None = None

    def fill(self) -> None:
        """Copy them into the cell, once its place is ready."""
        from cells.backends import open_store
        from cells.rebuild_posts import copy_posts

        mine = self._mine
        store = open_store(
            self._settings.cells[mine.cell],
            identity=mine.identity,
            partitions=mine.partitions,
            home=mine.home,
            helper=self._settings.hbase.helper,
            restoring=True,
        )
        with closing(store):
            self._copied = copy_posts(self._folder, self._manifest, mine.home, store)
        say(f"{self._copied:,} posts of cell {self._manifest.cell} are copied")

    def document(self, plan: Plan, log: Log) -> dict[str, Any]:
        """JSON-ready: where they come from, how many were copied, and what stays lost."""
        from cells.rebuild_posts import stays_lost

        return {
            "cell": self._manifest.cell,
            "created_at": format_ms(self._manifest.created_ms),
            "copied": self._copied,
            "stays_lost": stays_lost(self._manifest, plan.begins_at, log.begin_offsets()),
        }


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
    _show_posts(document)
    say("nothing was done: add --execute")


def _show_posts(document: dict[str, Any]) -> None:
    posts = document.get("posts_from")
    if posts is not None:
        typer.echo(f"posts come from cell {posts['cell']}, as it was at {posts['created_at']}")
        if posts["stays_lost"]:
            typer.echo(f"stays lost: {posts['stays_lost']}")


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
