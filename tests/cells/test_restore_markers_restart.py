"""A restore over markers that are damaged, lost, or another cell's, cut short at every step; and
who else may be there, or fail, in the middle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.churn import START_MS, churn
from cells import rebuild, snapshot, snapshot_restore
from cells.markers import EmbeddedMarkers
from cells.snapshot import Whose
from cells.snapshot_restore import FolderTarget
from engine.errors import Corruption, Precondition
from tests.cells.test_verify_replay import apply_all
from tests.worlds import World

BEFORE, AFTER = 10, 11  # the marker of reader 7 in the snapshot, and what it became


class Cut(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cell that is not running, with a snapshot named `first`."""
    world = World(tmp_path)
    world.append(churn(3, count=60, users=20))
    cell = world.open()
    apply_all(world, cell)
    assert isinstance(cell.markers, EmbeddedMarkers)
    cell.markers.advance_many([(reader, BEFORE) for reader in range(2_000)])
    snapshot.create(cell, place_of(world), START_MS, name="first")
    cell.markers.advance(7, AFTER)
    cell.close()
    world.whose = cell.whose  # type: ignore[attr-defined]
    yield world
    world.close()


def place_of(world: World) -> Path:
    return world.settings.snapshots.folder / "c1"


def restore(world: World, cut_at: str = "never") -> bool:
    """Whether it came to its end."""

    def crash(point: str) -> None:
        if point == cut_at:
            raise Cut(point)

    whose: Whose = world.whose  # type: ignore[attr-defined]
    folder = world.settings.cells["c1"].folder
    first = snapshot.named(place_of(world), "first")
    plan = snapshot_restore.plan(first, whose, FolderTarget(folder), world.log)
    try:
        snapshot_restore.execute(plan, world.log, crash=crash)
    except Cut:
        assert (folder / snapshot_restore.NOTE).exists() == (cut_at != "checked")
        return False
    assert not (folder / snapshot_restore.NOTE).exists()
    return True


def pages(markers: Path) -> None:
    """LMDB opens it, and stumbles when the first marker is looked up."""
    hurt(markers / "data.mdb", 8_192, None)


def head(markers: Path) -> None:
    """LMDB does not open it."""
    hurt(markers / "data.mdb", 0, 8_192)


def half(markers: Path) -> None:
    """LMDB reads some, and ends the process in the middle of the others."""
    file = markers / "data.mdb"
    os.truncate(file, file.stat().st_size // 8_192 * 4_096)


def another_cells(markers: Path) -> None:
    shutil.rmtree(markers, ignore_errors=True)
    database = EmbeddedMarkers.open(markers)
    database.begin(b"another cell's")
    database.advance(7, 2**40)
    database.close()


def hurt(file: Path, start: int, end: int | None) -> None:
    raw = bytearray(file.read_bytes())
    raw[start:end] = bytes(len(raw[start:end]))
    file.write_bytes(raw)


@pytest.mark.parametrize("point", ["checked", "copied", "aside", "swapped"])
@pytest.mark.parametrize("damage", [pages, head, half, another_cells])
def test_markers_that_are_of_no_use_are_put_aside_and_the_restore_can_be_done_again(
    world: World, damage: Callable[[Path], None], point: str
) -> None:
    """It stopped when the first was written, and again each time; and what an attempt had put
    there, damaged again, could not be put where the first were."""
    markers = world.settings.cells["c1"].folder / "markers"
    for _ in range(2):
        if markers.exists():
            damage(markers)
        if restore(world, point):
            break
    else:
        assert restore(world)
    kept = markers.parent / snapshot_restore.REPLACED / "markers" / "data.mdb"
    assert kept.exists()
    cell = world.open()
    assert cell.markers.get(7) == BEFORE
    cell.close()


@pytest.mark.parametrize("point", ["moved", "aside", "swapped"])
def test_lost_markers_come_back_from_the_snapshot_and_newer_ones_stay(
    world: World, point: str
) -> None:
    restore(world, point)
    assert restore(world)
    cell = world.open()
    assert cell.markers.get(7) == AFTER, "I7"
    cell.close()
    markers = world.settings.cells["c1"].folder / "markers"
    for lose in (shutil.rmtree, lambda place: (place / "data.mdb").unlink()):
        lose(markers)
        restore(world, point)
        assert restore(world)
        cell = world.open()
        assert cell.markers.get(7) == BEFORE
        cell.close()


def parts(world: World) -> tuple[Whose, FolderTarget]:
    whose: Whose = world.whose  # type: ignore[attr-defined]
    return whose, FolderTarget(world.settings.cells["c1"].folder)


@pytest.mark.parametrize("snapshots", ["c1", "none"])
def test_damage_of_what_fills_a_rebuilt_cell_takes_no_older_snapshot(
    world: World, snapshots: str
) -> None:
    """The next attempt, with an older one, removed the original state from `replaced`; and the cell
    could be started without what was to fill it."""
    whose, target = parts(world)
    old = target.folder / snapshot_restore.REBUILD
    old.write_text("of an older rebuild")

    def damaged() -> None:
        raise Corruption("the other cell's posts are damaged")

    plan = rebuild.plan(place_of(world).with_name(snapshots), whose, target, world.log)
    assert (plan.restore is None) == (snapshots == "none")
    rebuild.check(plan, world.log)
    with pytest.raises(Corruption, match="other cell's"):
        rebuild.prepare(plan, world.log, 7, fill=damaged)
    assert not old.exists(), "it would say that the cell has all up to there (I8)"
    assert (target.folder / snapshot_restore.REPLACED / "store").exists()
    with pytest.raises(Precondition, match="restore"):
        world.open()


def test_who_starts_while_a_restore_begins_is_found_behind_the_note(world: World) -> None:
    whose, target = parts(world)

    def runs() -> None:
        assert (target.folder / snapshot_restore.NOTE).exists()
        raise Precondition("it runs elsewhere")

    first = snapshot_restore.plan(
        snapshot.named(place_of(world), "first"), whose, target, world.log
    )
    with pytest.raises(Precondition, match="elsewhere"):
        snapshot_restore.execute(first, world.log, refuse=runs)
    nothing = rebuild.plan(place_of(world).with_name("none"), whose, target, world.log)
    with pytest.raises(Precondition, match="elsewhere"):
        rebuild.prepare(nothing, world.log, 7, refuse=runs)
    assert not (target.folder / snapshot_restore.REPLACED).exists(), "nothing was touched"
