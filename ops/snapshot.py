"""`firecell snapshot create|list|restore`: a cell's whole state, kept outside its store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import Precondition
from engine.limits import FAUST_SESSION_S
from ops.cell_jobs import CellName, CellUrl, Execute, cell_named, follow, reach, show_plan
from ops.options import Config, Json, emit, say, settings_of

if TYPE_CHECKING:
    from cells.settings import Settings
    from cells.snapshot import Whose
    from cells.snapshot_restore import Target
    from engine.ports import Log


_NOTHING = "nothing was done: add --execute"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    snapshots = typer.Typer(help="A cell's whole state, kept outside its store.")
    snapshots.command("create")(create)
    snapshots.command("list")(list_snapshots)
    snapshots.command("restore")(restore)
    app.add_typer(snapshots, name="snapshot", no_args_is_help=True)


def create(
    cell: CellName = None,
    name: Annotated[str, typer.Option(help="Its name; else the time.")] = "",
    execute: Execute = False,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Take a snapshot of a cell, running or not. Those that a person takes are never removed.

    \b
    Examples:
      firecell snapshot create --cell c1 --execute
      firecell snapshot create --cell c1 --name before-upgrade --execute
    """
    with reach(config, url, cell) as jobs:
        job = jobs.ask(kind="snapshot", name=name, execute=execute)
        if execute:
            job = follow(jobs, job, bytes_progress)
    if json_wanted:
        emit(job)
    elif execute:
        result = job["result"]
        typer.echo(f"{result['name']}  {result['bytes']:,} bytes  {result['folder']}")
    else:
        show_plan({k: v for k, v in job["plan"].items() if k != "kept"}, _NOTHING)


def bytes_progress(progress: Mapping[str, Any]) -> str:
    """How far reading or copying is."""
    return f"{progress['bytes_done']:,} of {progress['bytes']:,} bytes"


def list_snapshots(
    cell: CellName = None, config: Config = None, json_wanted: Json = False
) -> None:
    """Show the snapshots of a cell, oldest first.

    \b
    Examples:
      firecell snapshot list --cell c1
    """
    from cells.snapshot import found_in

    settings = settings_of(config)
    found = found_in(settings.snapshots.folder / cell_named(settings, cell))
    if json_wanted:
        emit({"snapshots": [snapshot.document() for snapshot in found]})
        return
    for snapshot in found:
        if snapshot.manifest is None:
            typer.echo(f"{snapshot.name}  of no use: {snapshot.problem}")
            continue
        about = snapshot.document()
        kind = "by schedule" if about["scheduled"] else "by hand"
        typer.echo(f"{snapshot.name}  {about['created_at']}  {about['bytes']:>14,} bytes  {kind}")
    if not found:
        say("no snapshots")


def restore(
    name: Annotated[str, typer.Argument(help="As `snapshot list` shows it.")],
    cell: CellName = None,
    execute: Execute = False,
    config: Config = None,
    json_wanted: Json = False,
) -> None:
    """Put a snapshot in the place of a cell that does not run. What was there is kept aside.

    Read markers only grow: those of the cell stay, the snapshot's are added.

    \b
    Examples:
      firecell snapshot restore --cell c1 20261121T120000.000Z
      firecell snapshot restore --cell c1 20261121T120000.000Z --execute
    """
    from cells import snapshot_restore
    from cells.snapshot import named
    from topics.logs import open_log

    settings = settings_of(config)
    own = settings.cells[cell_named(settings, cell)]
    found = named(settings.snapshots.folder / own.name, name)
    log = open_log(settings.firehose)
    try:
        refuse_running(settings, own.name, log)
        mine = whose(settings, own.name, log)
        with (
            snapshot_restore.own_cell(own.folder, own.name, 0),
            target_of(settings, mine) as target,
        ):
            plan = snapshot_restore.plan(found, mine, target, log)
            document = plan.document()
            if plan.problems or plan.loss:
                problems = "; ".join([*plan.problems, *([plan.loss] if plan.loss else [])])
                raise Precondition(f"snapshot {name} cannot be restored: {problems}", **document)
            if execute:
                snapshot_restore.execute(
                    plan,
                    log,
                    refuse=lambda: refuse_running(settings, own.name, log),
                    tell=teller(),
                )
    finally:
        log.close()
    if json_wanted:
        emit({**document, "executed": execute})
    elif execute:
        typer.echo(f"cell {own.name} is as it was at {document['created_at']}: start it")
    else:
        show_plan(document, _NOTHING)


def refuse_running(settings: Settings, cell: str, log: Log) -> None:
    """Precondition when the cell runs on this machine, or, on Kafka, anywhere."""
    from topics.runfiles import find

    running = find(settings.data.folder, "cell", cell)
    if running is not None:
        raise Precondition(
            f"cell {cell} runs as process {running.pid}: stop it, and its supervisor, first"
        )
    group = f"cell.{cell}"
    try:
        log.commit(group, log.committed(group))  # Kafka takes none while there are members
    except Precondition as active:
        raise Precondition(
            f"cell {cell} runs elsewhere: {active.message}; stop its workers first (one that was"
            f" killed leaves within {FAUST_SESSION_S} s)"
        ) from active


def whose(settings: Settings, cell: str, log: Log) -> Whose:
    """What a snapshot must be of to be this cell's."""
    from cells.directory import load_directory
    from cells.snapshot import Whose
    from topics.urls import EmbeddedPlace

    own = settings.cells[cell]
    shares = {name: each.share for name, each in settings.cells.items()}
    home = load_directory(settings.data.folder, shares).ranges[cell]
    kind = "embedded" if isinstance(own.place, EmbeddedPlace) else "hbase"
    return Whose(cell, log.identity, log.partitions, home, kind)


def target_of(settings: Settings, mine: Whose) -> AbstractContextManager[Target]:
    """Where a restore of a cell puts its state, as long as it is needed."""
    from cells.backends import restore_target

    return restore_target(
        settings.cells[mine.cell],
        identity=mine.identity,
        partitions=mine.partitions,
        home=mine.home,
        helper=settings.hbase.helper,
    )


def teller() -> Any:
    """Says how many bytes are done, now and then."""
    import time

    from engine.limits import VERIFY_PROGRESS_S

    told = [time.monotonic()]

    def tell(done: int, total: int) -> None:
        if time.monotonic() - told[0] >= VERIFY_PROGRESS_S:
            told[0] = time.monotonic()
            say(bytes_progress({"bytes_done": done, "bytes": total}))

    return tell
