"""Putting a snapshot in a cell's place: checked first, then put in by the kind of its store.

1. note     that it is being restored: from now on the cell refuses to start
2. put      the state that is there goes aside and is kept for inspection; the snapshot's takes its
            place. Markers only grow (I7): those that are there stay, the snapshot's are added
3. group    the firehose's record of the cell's group goes back to the snapshot's positions
4. done     the note goes

A kill at any moment leaves the cell as it was, or one that refuses to start and says: restore
again; doing so begins at step 1 and ends the same. The cell must not run (its lock is held here).
Steps 1, 2 and 4 are a *target*'s: `FolderTarget` here, cells/hbase_restore.py for tables in HBase.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cells.markers import EmbeddedMarkers, add_all
from cells.snapshot import Found, Whose
from cells.snapshot_files import (
    DECISIONS,
    GRAPH,
    MARKERS,
    STORE,
    Manifest,
    Tell,
    check_files,
    copy_part,
)
from engine.errors import Corruption, Precondition
from engine.homing import HomeRange
from engine.ports import Log
from engine.times import format_ms
from topics.locks import FileLock, sync_folder, write_durably

NOTE, INCOMING, REPLACED = "restoring.json", "incoming", "replaced"
_LOCK = "cell.lock"
_SWAPPED = (STORE, DECISIONS, GRAPH)
REPLAYS, REBUILD = "replays", "rebuild.json"  # they speak of the state that goes

Crash = Callable[[str], None]
Refuse = Callable[[], None]  # Precondition when somebody runs the cell
_log = logging.getLogger("firecell.restore")


def no_crash(point: str) -> None:
    """What production passes; crash points are for tests."""


def nobody_runs() -> None:
    """For who holds all that can run: an embedded cell's lock."""


def own_cell(folder: Path, cell: str, wait_s: float) -> FileLock:
    """The lock of a cell's folder: who runs it, restores it or rebuilds it. Precondition."""
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"cell {cell} is running, or being restored, in {folder}: stop that first"
    return FileLock.acquire(folder / _LOCK, wait_s, refusal)


def check_whole(folder: Path, cell: str) -> None:
    """Refuse a cell whose restore was cut short: Precondition."""
    if (folder / NOTE).exists():
        raise Precondition(
            f"cell {cell} was being restored when that was cut short: type `firecell snapshot"
            f" restore` or `firecell rebuild` again (its note is {folder / NOTE})"
        )


class Target(Protocol):
    """Where the state of a cell lies, as restores and rebuilds change it. Each step may be done
    again after a kill."""

    folder: Path  # of the cell on this machine
    place: str  # for people

    def replaces(self) -> list[str]:
        """What is there now and would go aside."""

    def begin(self, snapshot: str) -> None:
        """Step 1. What an earlier restore put aside goes, unless that was cut short."""

    def check(self, source: Path) -> None:
        """Corruption when the snapshot in `source` lacks what lies outside of its folder."""

    def put(self, source: Path, crash: Crash) -> None:
        """Step 2, from a snapshot's folder."""

    def clear(self, crash: Crash) -> None:
        """Step 2 without a snapshot: the cell begins anew. Markers stay (I7)."""

    def done(self) -> None:
        """Step 4."""


class Plan(NamedTuple):
    """What a restore will do; `problems` forbid it, `loss` does unless it is accepted."""

    snapshot: Found
    manifest: Manifest
    target: Target
    replaces: list[str]
    problems: list[str]
    loss: str

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "snapshot": self.snapshot.name,
            "cell": self.manifest.cell,
            "into": self.target.place,
            "created_at": format_ms(self.manifest.created_ms),
            "bytes": self.manifest.bytes,
            "replaces": self.replaces,
            "positions": {str(p): at for p, at in enumerate(self.manifest.positions)},
            "problems": self.problems,
            "loss": self.loss,
        }


def plan(snapshot: Found, whose: Whose, target: Target, log: Log) -> Plan:
    """What restoring `snapshot` for the cell `whose` in `target` means. Corruption when it has no
    readable manifest."""
    manifest = snapshot.manifest
    if manifest is None:
        raise Corruption(f"snapshot {snapshot.name} is of no use: {snapshot.problem}")
    theirs = Whose(
        manifest.cell,
        manifest.identity,
        manifest.partitions,
        HomeRange(manifest.home_first, manifest.home_last),
        manifest.store,
    )
    problems = []
    names = ("cell", "firehose", "number of partitions", "range of users", "kind of store")
    for name, mine, other in zip(names, whose, theirs, strict=True):
        if str(mine) != str(other):
            problems.append(f"it is of another {name}: {other}, not {mine}")
    loss = ""
    if not problems:
        ends, floors = log.end_offsets(), log.begin_offsets()
        ahead = [p for p, at in enumerate(manifest.positions) if at > ends[p]]
        below = [p for p, at in enumerate(manifest.positions) if at < floors[p]]
        if ahead:
            problems.append(f"the firehose ends before it in {len(ahead)} partitions")
        if below:
            loss = (
                f"the firehose begins behind it in {len(below)} partitions: the cell would have a"
                " gap; `firecell rebuild --accept-loss` makes one knowingly"
            )
    return Plan(snapshot, manifest, target, target.replaces(), problems, loss)


def execute(
    planned: Plan,
    log: Log,
    *,
    accept_loss: bool = False,
    refuse: Refuse = nobody_runs,
    tell: Tell = lambda done, total: None,
    crash: Crash = no_crash,
) -> None:
    """Check, then steps 1-4; the caller holds the cell's lock. Raises what both raise."""
    check(planned, accept_loss=accept_loss, tell=tell)
    crash("checked")
    put_in(planned, log, refuse=refuse, crash=crash)


def check(planned: Plan, *, accept_loss: bool, tell: Tell) -> None:
    """Read all of the snapshot; nothing changes. Precondition with the plan's problems; Corruption
    when a file of the snapshot is damaged."""
    problems = list(planned.problems)
    if planned.loss and not accept_loss:
        problems.append(planned.loss)
    if problems:
        raise Precondition(f"snapshot {planned.snapshot.name}: {'; '.join(problems)}")
    source = planned.snapshot.folder
    check_files(source, planned.manifest, tell)
    planned.target.check(source)


def put_in(
    planned: Plan,
    log: Log,
    *,
    refuse: Refuse,
    fill: Callable[[], None] = lambda: None,
    crash: Crash,
) -> None:
    """Steps 1-4 of a plan that `check` has passed; `fill` before the last. `refuse` is asked once
    more behind the note: who starts later finds that. Corruption is the cell's, then."""
    target = planned.target
    target.begin(planned.snapshot.name)
    crash("noted")
    refuse()
    target.put(planned.snapshot.folder, crash)
    crash("swapped")
    group = f"cell.{planned.manifest.cell}"
    log.commit(group, dict(enumerate(planned.manifest.positions)))
    fill()
    target.done()


class FolderTarget:
    """The folder of a cell with embedded parts (`Target`).

    To put a snapshot in: every part is copied into `incoming/`, files that never change are linked;
    what is there goes to `replaced/`; incoming takes its place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = str(folder)

    def replaces(self) -> list[str]:
        """Its parts."""
        return [part for part in _SWAPPED if (self.folder / part).exists()]

    def begin(self, snapshot: str) -> None:
        """See `Target`."""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NOTE).exists():
            remove(folder / REPLACED)  # of an earlier restore
        write_durably(folder / NOTE, f'{{"snapshot": "{snapshot}"}}\n'.encode())

    def check(self, source: Path) -> None:
        """All of it lies in its folder."""

    def put(self, source: Path, crash: Crash) -> None:
        """See `Target`; done again after a kill, with a new `incoming`."""
        folder, incoming = self.folder, self.folder / INCOMING
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        for part in (STORE, DECISIONS, GRAPH, MARKERS):
            if (source / part).exists():
                copy_part(source / part, incoming / part)
        crash("copied")
        for part in (*_SWAPPED, REPLAYS, REBUILD):
            self._move_aside(part)
            crash("moved")
            if (incoming / part).exists():
                (incoming / part).rename(folder / part)
            sync_folder(folder)
        _add_markers(folder, incoming / MARKERS, crash)

    def clear(self, crash: Crash) -> None:
        """See `Target`."""
        for part in (*_SWAPPED, REPLAYS, REBUILD):
            self._move_aside(part)
            crash("moved")

    def _move_aside(self, part: str) -> None:
        replaced = self.folder / REPLACED
        replaced.mkdir(exist_ok=True)
        here, kept = self.folder / part, replaced / part
        if here.exists() and kept.exists():
            remove(here)  # put there by the attempt that was cut short
        elif here.exists():
            here.rename(kept)

    def done(self) -> None:
        """See `Target`."""
        (self.folder / NOTE).unlink()
        sync_folder(self.folder)
        shutil.rmtree(self.folder / INCOMING, ignore_errors=True)


def _add_markers(folder: Path, snapshot: Path, crash: Crash) -> None:
    """I7: the newer of both, reader by reader. Markers that cannot be read, or are another cell's,
    are put aside, and the snapshot's take their place."""
    here, kept = folder / MARKERS, folder / REPLACED / MARKERS
    if not snapshot.exists():
        return
    if here.exists():
        if _added(here, snapshot):
            return
        if kept.exists():
            remove(here)  # put there by the attempt that was cut short
        else:
            here.rename(kept)
        crash("aside")
    snapshot.rename(here)
    sync_folder(folder)


def _added(here: Path, snapshot: Path) -> bool:
    """Whether the markers that are there could take in the snapshot's."""
    if not EmbeddedMarkers.whole(here):
        _log.warning("the markers in %s are damaged, and put aside", here)
        return False
    opened = EmbeddedMarkers.open
    with closing(opened(snapshot)) as theirs, closing(opened(here)) as mine:
        owners = {each for each in (mine.owner(), theirs.owner()) if each is not None}
        if len(owners) > 1:
            _log.warning("the markers in %s are another cell's, and put aside", here)
            return False
        add_all(theirs.all(), mine.advance_many)
        for owner in owners:
            mine.begin(owner)
    return True


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
