"""Rebuilding an empty or broken cell: the newest good snapshot, and the firehose since (DESIGN 8).

Without a snapshot that reaches the firehose's oldest event, the span between is lost to this cell:
that needs to be accepted, and stays a gap. Whatever there is, the cell serves at once, and what it
has not applied yet is a gap, too (cells/rebuild_state.py): it catches up as any cell does, in the
bulk path, from its durable position. So a kill at any moment leaves a restore to be done again, or
a cell that goes on by itself when it is started.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from cells import snapshot_restore
from cells.rebuild_state import Rebuilding
from cells.snapshot import Found, Whose, found_in
from cells.snapshot_files import Tell
from cells.snapshot_restore import Crash, Refuse, Target, no_crash, nobody_runs
from engine.errors import Corruption, Precondition
from engine.ports import Log


class Plan(NamedTuple):
    """What a rebuild will do. `restore` None: from nothing. `loss`: what is lost if so."""

    target: Target
    cell: str
    restore: snapshot_restore.Plan | None
    passed_over: list[str]
    replaces: list[str]
    ends: list[int]
    events: int
    loss: str

    @property
    def begins_at(self) -> list[int]:
        """The next offsets that the cell begins with."""
        return self.restore.manifest.positions if self.restore is not None else [0] * len(self.ends)

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "cell": self.cell,
            "into": self.target.place,
            "snapshot": None if self.restore is None else self.restore.document(),
            "passed_over": self.passed_over,
            "replaces": self.replaces,
            "events_to_apply": self.events,
            "loss": self.loss,
        }


def plan(
    snapshots: Path, whose: Whose, target: Target, log: Log, skip: Collection[str] = ()
) -> Plan:
    """The newest snapshot of the cell `whose` in the folder `snapshots` that fits, but those named
    in `skip`; those that do not are named in `passed_over`, with the reason."""
    passed_over: list[str] = []
    chosen: snapshot_restore.Plan | None = None
    for snapshot in reversed(found_in(snapshots)):
        if snapshot.name in skip:
            passed_over.append(f"{snapshot.name}: its files are damaged")
            continue
        chosen = _fitting(snapshot, whose, target, log, passed_over)
        if chosen is not None:
            break
    ends, floors = log.end_offsets(), log.begin_offsets()
    at = chosen.manifest.positions if chosen is not None else [0] * len(floors)
    lost = [p for p, floor in enumerate(floors) if at[p] < floor]
    missing = sum(floors[p] - at[p] for p in lost)
    loss = ""
    if lost:
        kind = "no snapshot fits" if chosen is None else "the newest snapshot is too old"
        loss = f"{kind}: {missing:,} events in {len(lost)} partitions are lost to this cell"
    events = sum(end - max(place) for end, *place in zip(ends, at, floors, strict=True))
    replaces = target.replaces()
    return Plan(target, whose.cell, chosen, passed_over, replaces, ends, events, loss)


def _fitting(
    snapshot: Found, whose: Whose, target: Target, log: Log, passed_over: list[str]
) -> snapshot_restore.Plan | None:
    try:
        planned = snapshot_restore.plan(snapshot, whose, target, log)
    except Corruption as error:
        passed_over.append(error.message)
        return None
    if planned.problems:
        passed_over.append(f"{snapshot.name}: {'; '.join(planned.problems)}")
        return None
    return planned


def check(
    planned: Plan,
    log: Log,
    *,
    accept_loss: bool = False,
    tell: Tell = lambda done, total: None,
) -> None:
    """Read all of the snapshot; nothing changes. Precondition when a loss was not accepted;
    Corruption when the snapshot is damaged: an older one may do."""
    if planned.loss and not accept_loss:
        raise Precondition(
            f"cell {planned.cell}: {planned.loss}; --accept-loss rebuilds what there is and leaves"
            " a gap",
            floor={str(p): floor for p, floor in enumerate(log.begin_offsets())},
        )
    if planned.restore is not None:
        snapshot_restore.check(planned.restore, accept_loss=accept_loss, tell=tell)


def prepare(
    planned: Plan,
    log: Log,
    now_ms: int,
    *,
    refuse: Refuse = nobody_runs,
    fill: Callable[[], None] = lambda: None,
    crash: Crash = no_crash,
) -> None:
    """After `check`: restore, or empty the cell, `fill` it with what else there is
    (cells/rebuild_posts.py), and note that it is being rebuilt; the caller holds the cell's lock.
    Then the cell is started, with `accept_gap` where something is lost: until then it refuses to
    start, so a kill loses nothing. Corruption is the cell's or of what fills it: no other snapshot
    helps, and what was put aside stays there."""

    def fill_and_note() -> None:
        crash("restored")
        fill()
        Rebuilding.begin(planned.target.folder, planned.ends, now_ms)

    if planned.restore is not None:
        snapshot_restore.put_in(
            planned.restore, log, refuse=refuse, fill=fill_and_note, crash=crash
        )
    else:
        _empty(planned.target, planned.cell, log, refuse, fill_and_note, crash)
    crash("begun")


def _empty(
    target: Target,
    cell: str,
    log: Log,
    refuse: Refuse,
    fill: Callable[[], None],
    crash: Crash,
) -> None:
    """Put what is there aside: the cell begins anew. Markers stay (I7)."""
    target.begin("none")
    crash("noted")
    refuse()
    target.clear(crash)
    log.commit(f"cell.{cell}", dict.fromkeys(range(log.partitions), 0))
    fill()
    target.done()
