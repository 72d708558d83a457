"""`firecell verify`: recompute inboxes from posts and follows, and tell what differs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.errors import BadInput, NotFound, Precondition
from engine.limits import VERIFY_PROGRESS_S
from ops.cell_jobs import CellName, CellUrl, cell_named, follow, reach
from ops.options import Config, Json, emit, say, settings_of

if TYPE_CHECKING:
    from cells.settings import Settings


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

    Of a running cell a checkpoint is read, in this process: the cell goes on undisturbed.

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
        with _at_rest(settings, name, url, config) as folder:
            store, intervals, home = _open(settings, name, folder, log)
            try:
                run = Verify(
                    store, home, pushed=pushed_by(lambda: intervals, store), tell=_teller()
                )
                if sample is not None:
                    report = run.sample(sample, seed)
                else:
                    report = run.everything(log if from_firehose else None, digest)
            finally:
                store.close()
    finally:
        log.close()
    document = {"cell": name, **report.document()}
    emit(document) if json_wanted else _show(document)
    raise typer.Exit(0 if report.ok else 1)


@contextmanager
def _at_rest(
    settings: Settings, name: str, url: str | None, config: Path | None
) -> Iterator[Path]:
    """A folder with the cell's state that nobody writes: a checkpoint, or the cell's own."""
    from cells.snapshot_restore import check_whole, own_cell
    from topics.runfiles import find
    from topics.urls import EmbeddedPlace

    own = settings.cells[name]
    if not isinstance(own.place, EmbeddedPlace):
        raise Precondition(
            f"cell {name} has its store in {own.store}: this version verifies embedded stores only"
        )
    if not url and find(settings.data.folder, "cell", name) is None:
        if not (own.folder / "store").exists():
            raise NotFound(f"cell {name} has no store in {own.folder} yet")
        with own_cell(own.folder, name, 0):
            check_whole(own.folder, name)
            yield own.folder
        return
    with reach(config, url, name) as jobs:
        job = follow(jobs, jobs.ask(kind="checkpoint", execute=True), lambda progress: "waiting")
    folder = Path(job["result"]["folder"])
    if not folder.exists():
        raise Precondition(f"the cell's checkpoint {folder} is not on this machine: verify there")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _open(settings: Settings, name: str, folder: Path, log: Any) -> tuple[Any, Any, Any]:
    """(store, recorded intervals, home) of a folder at rest."""
    from cells.decisions import EmbeddedDecisions
    from cells.directory import load_directory
    from cells.store_embedded import EmbeddedStore

    shares = {cell: each.share for cell, each in settings.cells.items()}
    home = load_directory(settings.data.folder, shares).ranges[name]
    intervals: list[Any] = []
    if (folder / "decisions").exists():
        decisions = EmbeddedDecisions.open(folder / "decisions")
        intervals = decisions.intervals()
        decisions.close()
    store = EmbeddedStore.open(
        folder / "store",
        identity=log.identity,
        partitions=log.partitions,
        cell=name,
        home=home,
        read_only=True,
    )
    return store, intervals, home


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
