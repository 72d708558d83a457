"""Putting a snapshot in a cell's place: checked first, then built beside, then renamed in.

1. note     `restoring.json` in the cell's folder: from now on the cell refuses to start
2. copy     every part into `incoming/`; files that never change are linked
3. swap     what is there goes to `replaced/`, which is kept for inspection; incoming takes its
            place. Markers only grow (I7): those that are there stay, the snapshot's are added
4. group    the firehose's record of the cell's group goes back to the snapshot's positions
5. done     the note goes

A kill at any moment leaves the cell as it was, or one that refuses to start and says: restore
again; doing so begins at step 1 and ends the same. The cell must not run (its lock is held here).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from cells.markers import EmbeddedMarkers
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
from engine.errors import Corruption, Precondition, Unavailable
from engine.homing import HomeRange
from engine.limits import RESTORE_MARKERS
from engine.ports import Log
from engine.times import format_ms
from topics.locks import FileLock, sync_folder, write_durably

NOTE, INCOMING, REPLACED = "restoring.json", "incoming", "replaced"
_LOCK = "cell.lock"
_SWAPPED = (STORE, DECISIONS, GRAPH)
_WITH_THE_OLD = ("replays", "rebuild.json")  # they speak of the state that goes

Crash = Callable[[str], None]
_log = logging.getLogger("firecell.restore")
_WALK = """
import sys
from pathlib import Path
from cells.markers import EmbeddedMarkers
from engine.errors import Corruption
try:
    for _ in EmbeddedMarkers.open(Path(sys.argv[1])).all():
        pass
except Corruption as error:
    sys.exit(error.exit_code)
"""


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


class Plan(NamedTuple):
    """What a restore will do; `problems` forbid it, `loss` does unless it is accepted."""

    snapshot: Found
    manifest: Manifest
    folder: Path
    replaces: list[str]
    problems: list[str]
    loss: str

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "snapshot": self.snapshot.name,
            "cell": self.manifest.cell,
            "into": str(self.folder),
            "created_at": format_ms(self.manifest.created_ms),
            "bytes": self.manifest.bytes,
            "replaces": self.replaces,
            "positions": {str(p): at for p, at in enumerate(self.manifest.positions)},
            "problems": self.problems,
            "loss": self.loss,
        }


def plan(snapshot: Found, whose: Whose, folder: Path, log: Log) -> Plan:
    """What restoring `snapshot` for the cell `whose` in `folder` means. Corruption when it has no
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
    replaces = [part for part in (*_SWAPPED, MARKERS) if (folder / part).exists()]
    return Plan(snapshot, manifest, folder, replaces, problems, loss)


def execute(
    planned: Plan,
    log: Log,
    *,
    accept_loss: bool = False,
    tell: Tell = lambda done, total: None,
    crash: Crash = lambda point: None,
) -> None:
    """Steps 1-5; the caller holds the cell's lock. Precondition with the plan's problems;
    Corruption when a file of the snapshot is damaged: then nothing has changed."""
    problems = list(planned.problems)
    if planned.loss and not accept_loss:
        problems.append(planned.loss)
    if problems:
        raise Precondition(f"snapshot {planned.snapshot.name}: {'; '.join(problems)}")
    source, folder = planned.snapshot.folder, planned.folder
    check_files(source, planned.manifest, tell)
    crash("checked")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / NOTE).exists():
        remove(folder / REPLACED)  # of an earlier restore
    write_durably(folder / NOTE, f'{{"snapshot": "{planned.snapshot.name}"}}\n'.encode())
    crash("noted")
    incoming = folder / INCOMING
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    for part in (STORE, DECISIONS, GRAPH, MARKERS):
        if (source / part).exists():
            copy_part(source / part, incoming / part)
    crash("copied")
    swap(folder, incoming, crash)
    crash("swapped")
    group = f"cell.{planned.manifest.cell}"
    log.commit(group, dict(enumerate(planned.manifest.positions)))
    (folder / NOTE).unlink()
    sync_folder(folder)
    shutil.rmtree(incoming, ignore_errors=True)


def swap(folder: Path, incoming: Path, crash: Crash) -> None:
    """Step 3. After a kill in the middle it is done again, with a new `incoming`."""
    replaced = folder / REPLACED
    replaced.mkdir(exist_ok=True)
    for part in (*_SWAPPED, *_WITH_THE_OLD):
        here, kept = folder / part, replaced / part
        if here.exists() and kept.exists():
            remove(here)  # put there by the attempt that was cut short
        elif here.exists():
            here.rename(kept)
        crash("moved")
        if (incoming / part).exists():
            (incoming / part).rename(here)
        sync_folder(folder)
    _add_markers(folder, incoming / MARKERS, crash)


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
    if not _whole(here):
        _log.warning("the markers in %s are damaged, and put aside", here)
        return False
    opened = EmbeddedMarkers.open
    with closing(opened(snapshot)) as theirs, closing(opened(here)) as mine:
        owners = {each for each in (mine.owner(), theirs.owner()) if each is not None}
        if len(owners) > 1:
            _log.warning("the markers in %s are another cell's, and put aside", here)
            return False
        batch: list[tuple[int, int]] = []
        for marker in theirs.all():
            batch.append(marker)
            if len(batch) == RESTORE_MARKERS:
                mine.advance_many(batch)
                batch = []
        mine.advance_many(batch)
        for owner in owners:
            mine.begin(owner)
    return True


def _whole(markers: Path) -> bool:
    """Whether markers can be read to their end, before any is written: a damaged page would
    otherwise be found by its reader. In a process of its own, as LMDB aborts the one in which it
    meets some kinds of damage. Unavailable when nobody can tell."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-P", "-c", _WALK, str(markers)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode not in (0, Corruption.exit_code) and done.returncode > 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"could not read the markers in {markers}: {' '.join(words)}; try again")
    return done.returncode == 0


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

