"""`firecell verify`: recompute inboxes from posts and follows, and tell what differs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import BadInput, NotFound, Precondition
from engine.limits import VERIFY_PROGRESS_S
from ops.cell_jobs import CellName, CellUrl, cell_named, follow, reach
from ops.options import Config, Json, emit, say, settings_of
from ops.snapshot import refuse_running, whose
from topics.locks import FileLock

if TYPE_CHECKING:  # numpy, behind these, is for those who verify
    from cells.settings import Settings
    from cells.snapshot import Whose
    from engine.ports import AuthorInterval, Log, Store

    _Store = tuple[Store, list[AuthorInterval]]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    cell: CellName = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Only so many readers, chosen by --seed; else all.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice.")] = 0,
    from_firehose: Annotated[
        bool,
        typer.Option(
            "--from-firehose",
            help="Compare follows, posts, deletes and backfills with what the firehose holds, too.",
        ),
    ] = False,
    digest: Annotated[
        bool, typer.Option("--digest", help="Print the logical digest, to compare two cells.")
    ] = False,
    config: Config = None,
    url: CellUrl = None,
    json_wanted: Json = False,
) -> None:
    """Recompute inboxes from posts and follows; exit code 1 when something differs.

    Of a running cell a checkpoint is read, in this process: the cell goes on undisturbed. In HBase
    that is a copy that shares the cell's files, brought to one position by the firehose.

    \b
    Examples:
      firecell verify --cell c1
      firecell verify --cell c1 --sample 1000
      firecell verify --cell c1 --from-firehose --digest --json
    """
    from cells.verify import Verify
    from cells.verify_pushed import pushed_by
    from topics.logs import open_log

    if sample is not None and (from_firehose or digest):
        raise BadInput("--sample: --from-firehose and --digest look at everything", "sample")
    settings = settings_of(config)
    name = cell_named(settings, cell)
    log = open_log(settings.firehose)
    try:
        mine = whose(settings, name, log)
        with _at_rest(settings, mine, log, url, config) as (store, intervals):
            pushed = pushed_by(lambda: intervals, store)
            run = Verify(store, mine.home, pushed=pushed, tell=_teller())
            if sample is not None:
                report = run.sample(sample, seed)
            else:
                report = run.everything(log if from_firehose else None, digest)
    finally:
        log.close()
    document = {"cell": name, **report.document()}
    emit(document) if json_wanted else _show(document)
    raise typer.Exit(0 if report.ok else 1)


@contextmanager
def _at_rest(
    settings: Settings, mine: Whose, log: Log, url: str | None, config: Path | None
) -> Iterator[_Store]:
    """The cell's state that nobody writes: that of a checkpoint, or its own where it does not run.
    """
    from cells.snapshot_restore import check_whole, own_cell
    from topics.runfiles import find
    from topics.urls import EmbeddedPlace

    own = settings.cells[mine.cell]
    embedded = isinstance(own.place, EmbeddedPlace)
    if url or find(settings.data.folder, "cell", mine.cell) is not None:
        with _checkpoint(mine.cell, url, config) as folder:
            copy = _opened(folder, mine) if embedded else _copied(settings, mine, log, folder)
            with copy as opened:
                yield opened
        return
    if embedded and not (own.folder / "store").exists():
        raise NotFound(f"cell {mine.cell} has no store in {own.folder} yet")
    refuse_running(settings, mine.cell, log)
    with own_cell(own.folder, mine.cell, 0):
        check_whole(own.folder, mine.cell)
        with _opened(own.folder, mine) if embedded else _tables(settings, mine) as opened:
            yield opened


@contextmanager
def _checkpoint(name: str, url: str | None, config: Path | None) -> Iterator[Path]:
    """The folder of a running cell's checkpoint."""
    with reach(config, url, name) as jobs:
        job = follow(jobs, jobs.ask(kind="checkpoint", execute=True), lambda progress: "waiting")
    folder = Path(job["result"]["folder"])
    if not folder.exists():
        raise Precondition(f"the cell's checkpoint {folder} is not on this machine: verify there")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(folder: Path, mine: Whose) -> Iterator[_Store]:
    """(embedded store, recorded intervals) of a folder at rest."""
    from cells.decisions import EmbeddedDecisions
    from cells.store_embedded import EmbeddedStore

    intervals: list[AuthorInterval] = []
    if (folder / "decisions").exists():
        decisions = EmbeddedDecisions.open(folder / "decisions")
        intervals = decisions.intervals()
        decisions.close()
    store = EmbeddedStore.open(
        folder / "store",
        identity=mine.identity,
        partitions=mine.partitions,
        cell=mine.cell,
        home=mine.home,
        read_only=True,
    )
    with closing(store):
        yield store, intervals


@contextmanager
def _tables(settings: Settings, mine: Whose) -> Iterator[_Store]:
    """The same of a cell on HBase that does not run."""
    from cells.backends import open_decisions, open_store

    own = settings.cells[mine.cell]
    store = open_store(
        own,
        identity=mine.identity,
        partitions=mine.partitions,
        home=mine.home,
        helper=settings.hbase.helper,
        create=False,
    )
    with closing(store), closing(open_decisions(own)) as decisions:
        yield store, decisions.intervals()


@contextmanager
def _copied(settings: Settings, mine: Whose, log: Log, folder: Path) -> Iterator[_Store]:
    """The same of one that runs, by the checkpoint in `folder`."""
    from cells.backends import copy_of

    lock = folder.parent / ".verify.lock"
    with FileLock.acquire(lock, 0, f"cell {mine.cell} is being verified already: wait"):
        say("making a copy of the tables, and bringing it to one position of the firehose")
        own = settings.cells[mine.cell]
        with copy_of(own, folder, mine.home, log, settings.hbase.helper) as copy:
            yield copy


def _teller() -> Any:
    told = [time.monotonic()]

    def tell(what: str, count: int) -> None:
        if time.monotonic() - told[0] >= VERIFY_PROGRESS_S:
            told[0] = time.monotonic()
            say(f"{count:,} {what}")

    return tell


def _show(document: dict[str, Any]) -> None:
    for kind, texts in document["named"].items():
        count = document["found"][kind]
        typer.echo(f"{kind}: {count:,}")
        for text in texts:
            typer.echo(f"  {text}")
        if count > len(texts):
            typer.echo(f"  and {count - len(texts):,} more")
    looked = f"{document['readers']:,} readers, {document['keys']:,} inbox keys"
    verdict = "nothing differs" if document["ok"] else "this cell is damaged: see above"
    typer.echo(f"{looked}, {document['posts']:,} posts: {verdict}")
    if not document["ok"]:
        say("`firecell replay --from earliest` heals what the firehose still holds; for the rest"
            " rebuild the cell from a snapshot")  # fmt: skip
    for section, value in (document.get("digest") or {}).items():
        typer.echo(f"digest {section:<10} {value}")
