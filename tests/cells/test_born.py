"""What is born in a cell is never lost unnoticed: markers, decisions, and a store beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.churn import churn
from cells.born import DECISIONS, MARKERS
from cells.decisions import EmbeddedDecisions
from cells.markers import EmbeddedMarkers
from cells.store_embedded import EmbeddedStore
from cells.synced import SyncedDatabase
from engine.errors import Corruption, Precondition
from tests.sim.test_author_intervals import BUSY, FEW, apply_all, lines_of
from tests.worlds import World

KINDS: dict[str, type[SyncedDatabase]] = {MARKERS: EmbeddedMarkers, DECISIONS: EmbeddedDecisions}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A cell `c1` that has decided something, closed again."""
    world = World(tmp_path, push_followers_max=2)
    world.append(churn(7, count=400, users=FEW, mix=BUSY))
    cell = world.open()
    apply_all(world, cell)
    assert cell.decisions.intervals()
    cell.reader.set_marker(world.users()[0], 1)
    cell.close()
    yield world
    world.close()


def folder_of(world: World) -> Path:
    return world.settings.cells["c1"].folder


def gone(place: Path, kind: type[SyncedDatabase]) -> None:
    shutil.rmtree(place)


def emptied(place: Path, kind: type[SyncedDatabase]) -> None:
    shutil.rmtree(place)
    place.mkdir()


def begun_anew(place: Path, kind: type[SyncedDatabase]) -> None:
    """By something that opened it: a database, and nothing in it."""
    shutil.rmtree(place)
    kind.open(place).close()


def of_another_cell(place: Path, kind: type[SyncedDatabase]) -> None:
    shutil.rmtree(place)
    database = kind.open(place)
    database.begin(b'{"identity":"another","cell":"c9","format":1}')
    database.close()


@pytest.mark.parametrize("what", [MARKERS, DECISIONS])
@pytest.mark.parametrize("loss", [gone, emptied, begun_anew, of_another_cell])
def test_what_was_born_and_is_lost_stops_the_cell(
    world: World, what: str, loss: Callable[[Path, type[SyncedDatabase]], None]
) -> None:
    """The cell began with an empty one: what it derived from there on was something else."""
    place = folder_of(world) / what
    kept = place.with_name("kept")
    shutil.copytree(place, kept)
    loss(place, KINDS[what])
    was_there = place.exists()
    with pytest.raises(Corruption, match=f"c1 has lost its {what}: .*snapshot restore") as caught:
        world.open()
    assert caught.value.exit_code == 3
    helps = (what, loss) != (MARKERS, of_another_cell)  # a rebuild without a snapshot keeps those
    assert ("firecell rebuild --cell c1" in caught.value.message) == helps
    assert place.exists() == was_there, "nothing is made in its place"
    shutil.rmtree(place, ignore_errors=True)
    kept.rename(place)
    cell = world.open()
    assert cell.decisions.intervals() and list(cell.markers.all())
    cell.close()


def test_a_crash_before_the_store_was_told_is_told_at_the_next_start_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("store", MARKERS, DECISIONS):
        shutil.rmtree(folder_of(world) / part)

    def crash(store: EmbeddedStore, what: str, owner: bytes) -> None:
        raise InterruptedError(what)

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedStore, "note_begun", crash)
        with pytest.raises(InterruptedError):
            world.open()
    world.open().close()
    shutil.rmtree(folder_of(world) / DECISIONS)
    with pytest.raises(Corruption, match="decisions"):
        world.open()


def test_what_older_software_began_is_taken_over(world: World) -> None:
    """It kept the same, and told nobody."""
    users = world.users()
    cell = world.open()
    before, intervals = lines_of(cell, users), cell.decisions.intervals()
    assert isinstance(cell.store, EmbeddedStore)
    cell.store._tables["meta"].delete(b"begun")
    for database in (cell.markers, cell.decisions):
        assert isinstance(database, SyncedDatabase)
        with database._opened().begin(write=True) as transaction:
            assert transaction.delete(b"owner")
    cell.close()
    cell = world.open()
    assert set(cell.store.begun()) == {MARKERS, DECISIONS}
    assert (lines_of(cell, users), cell.decisions.intervals()) == (before, intervals)
    cell.close()


def test_a_lost_store_beside_what_was_kept_stops_the_cell(world: World) -> None:
    """DESIGN 6: its group is ahead of it."""
    cell = world.open()
    cell.runner.start()
    assert cell.close()
    shutil.rmtree(folder_of(world) / "store")
    with pytest.raises(Precondition, match="its store is older than its group"):
        world.open()
