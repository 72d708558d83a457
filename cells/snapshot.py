"""Snapshots of a cell: its whole state at a durable position, outside its store (DESIGN 8).

Taken beside live work: memory goes to files first, then, between two batches, the store's
checkpoint is made (hard links) and the graph is held; markers and decisions are copied after it,
so they are never behind it; checksums and the manifest come last. A remote store's checkpoint takes
seconds, and other processes write as well: nobody is held for it, and the manifest's positions are
those from before it. A snapshot that has its name is whole: what a crash left begins with a dot and
goes with the next one.

    SNAPSHOTS/CELL/20261121T120000.123Z/   (cells/snapshot_files.py)

`create` may be called from any thread; one at a time works (a lock on the folder).
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from cells import graph_file, snapshot_files
from cells.graph_file import Frozen
from cells.snapshot_files import (
    DECISIONS,
    GRAPH,
    MARKERS,
    STORE,
    FileSum,
    Manifest,
    Tell,
    read_manifest,
)
from engine.errors import BadInput, Conflict, FirecellError, NotFound
from engine.homing import HomeRange
from engine.limits import SNAPSHOT_NAME_CHARACTERS_MAX, SNAPSHOTS_KEPT
from engine.ports import Decisions, Markers, Store
from engine.times import format_ms
from topics.locks import FileLock, sync_folder

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
_Result = TypeVar("_Result")


class Whose(NamedTuple):
    """What must be the same where a snapshot comes from and where it goes to."""

    cell: str
    identity: str
    partitions: int
    home: HomeRange
    store: str  # kind


class Source(Protocol):
    """What is needed of a running cell (`cells.maintenance`)."""

    whose: Whose
    store: Store
    markers: Markers
    decisions: Decisions

    def freeze(self) -> Frozen | None:
        """The graph at the durable position; None when it is ahead of it. Between two batches."""

    def between(self, task: Callable[[], _Result]) -> _Result:
        """Do `task` between two batches, and wait for it."""


class Found(NamedTuple):
    """A snapshot in a folder: what it says, or what is wrong with it."""

    name: str
    folder: Path
    manifest: Manifest | None
    problem: str

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        about: dict[str, Any] = {"name": self.name, "folder": str(self.folder)}
        manifest = self.manifest
        if manifest is None:
            return {**about, "problem": self.problem}
        return {
            **about,
            "cell": manifest.cell,
            "identity": manifest.identity,
            "created_at": format_ms(manifest.created_ms),
            "scheduled": manifest.scheduled,
            "bytes": manifest.bytes,
            "positions": {str(p): offset for p, offset in enumerate(manifest.positions)},
        }


def found_in(folder: Path) -> list[Found]:
    """All snapshots of a cell that have their name, oldest first; damaged ones say so."""
    snapshots = []
    for place in sorted(folder.glob("[!.]*")) if folder.is_dir() else []:
        if not place.is_dir():
            continue
        try:
            snapshots.append(Found(place.name, place, read_manifest(place), ""))
        except FirecellError as error:
            snapshots.append(Found(place.name, place, None, error.message))
    return sorted(snapshots, key=lambda s: s.manifest.created_ms if s.manifest else 0)


def named(folder: Path, name: str) -> Found:
    """One by its name. NotFound names those that there are."""
    known = found_in(folder)
    for snapshot in known:
        if snapshot.name == name:
            return snapshot
    names = ", ".join(snapshot.name for snapshot in known) or "none"
    raise NotFound(f"there is no snapshot {name!r} in {folder}; there are: {names}")


def check_name(name: str) -> str:
    """A name that may be a folder's. BadInput."""
    if len(name) > SNAPSHOT_NAME_CHARACTERS_MAX or not _NAME.fullmatch(name):
        raise BadInput(
            f"name: {name[:80]!r} cannot name a snapshot: letters, digits, '.', '_' and '-', up to"
            f" {SNAPSHOT_NAME_CHARACTERS_MAX}, beginning with a letter or digit",
            "name",
        )
    return name


def create(
    source: Source,
    folder: Path,
    now_ms: int,
    *,
    name: str = "",
    scheduled: bool = False,
    tell: Tell = lambda done, total: None,
    crash: Callable[[str], None] = lambda point: None,
) -> Found:
    """Take one into `folder` (a cell's); then let older scheduled ones go. Raises Conflict (the
    name is taken, another is being made), DiskFull, Unavailable."""
    name = check_name(name or format_ms(now_ms).replace("-", "").replace(":", ""))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock.acquire(folder / ".lock", 0, f"a snapshot is being made in {folder}: wait"):
        place, making = folder / name, folder / f".making-{name}"
        if place.exists():
            raise Conflict(f"there is a snapshot {name} already: choose another name")
        for left in folder.glob(".making-*"):
            discard(source.store, left)
        try:
            manifest = capture(source, making, now_ms, scheduled, tell, crash)
            snapshot_files.write_manifest(making, manifest)
        except Exception:
            with contextlib.suppress(Exception):  # its links would keep old files on the disk
                discard(source.store, making)
            raise
        crash("written")
        making.rename(place)
        sync_folder(folder)
        crash("named")
        prune(source.store, folder)
    return Found(name, place, manifest, "")


def capture(
    source: Source,
    making: Path,
    now_ms: int,
    scheduled: bool,
    tell: Tell,
    crash: Callable[[str], None],
    *,
    sums: bool = True,
) -> Manifest:
    """All parts into the new folder `making`; what its manifest will say. Without `sums` it is for
    reading now, not for keeping."""
    making.mkdir(parents=True)
    source.store.flush()
    crash("flushed")

    def at_one_moment() -> tuple[list[int], list[int], Frozen | None]:
        source.store.checkpoint(str(making / STORE))
        offsets, times_ms = source.store.positions()
        return offsets, times_ms, source.freeze() if sums else None

    if source.store.remote:
        graph = source.between(source.freeze) if sums else None
        offsets, times_ms = source.store.positions()
        source.store.checkpoint(str(making / STORE))
    else:
        offsets, times_ms, graph = source.between(at_one_moment)
    crash("checkpoint")
    source.markers.copy_to(str(making / MARKERS))
    source.decisions.copy_to(str(making / DECISIONS))
    if graph is not None:
        graph_file.write(making / GRAPH, graph)
    crash("copied")
    files: list[FileSum] = snapshot_files.sum_files(making, tell) if sums else []
    crash("summed")
    whose = source.whose
    return Manifest(
        cell=whose.cell,
        identity=whose.identity,
        partitions=whose.partitions,
        home_first=whose.home.first,
        home_last=whose.home.last,
        store=whose.store,
        created_ms=now_ms,
        scheduled=scheduled,
        positions=offsets,
        times_ms=times_ms,
        files=files,
    )


def discard(store: Store, folder: Path) -> None:
    """Remove the folder of a snapshot, and what the store holds for it elsewhere."""
    if (folder / STORE).exists():
        store.forget_checkpoint(str(folder / STORE))
    shutil.rmtree(folder)


def prune(store: Store, folder: Path) -> list[str]:
    """Let scheduled snapshots go that are not among the SNAPSHOTS_KEPT newest good ones; those
    that a person took stay. Their names."""
    good = [snapshot for snapshot in found_in(folder) if snapshot.manifest is not None]
    gone = []
    for snapshot in good[:-SNAPSHOTS_KEPT]:
        if snapshot.manifest is not None and snapshot.manifest.scheduled:
            hidden = folder / f".making-gone-{snapshot.name}"
            snapshot.folder.rename(hidden)  # so that half of one is never seen
            discard(store, hidden)
            gone.append(snapshot.name)
    return gone
