"""`firecell rebuild --posts-from` as a person types it: the plan, the outcome, and what is refused
before anything changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.churn import START_MS, Mix, churn
from cells import snapshot
from cells.cell import Cell
from cells.snapshot_restore import NOTE
from cells.verify import Verify
from tests.cells.test_verify_replay import apply_all
from tests.ops.test_cell_commands import Shell
from tests.worlds import World

LATER_MS = 8 * 24 * 3_600_000
LOST, EARLY = 400, 200  # events below the floor; those that the early snapshot has

pytestmark = pytest.mark.slow


def digest_of(cell: Cell) -> dict[str, str]:
    report = Verify(cell.store, cell.whose.home).everything(None, digest=True)
    assert report.ok and report.digest is not None, report.document()
    return report.digest


def some_snapshot(folder: Path) -> Path:
    """Of a cell of a firehose of its own."""
    folder.mkdir()
    world = World(folder)
    world.append(churn(1, count=20, users=10))
    cell = world.open()
    apply_all(world, cell)
    made = snapshot.create(cell, world.settings.snapshots.folder / "c1", START_MS, name="s")
    cell.close()
    world.close()
    return made.folder


class Lost:
    """Cell c1 lost its store, and the firehose its first LOST events; c2 has two snapshots."""

    def __init__(self, folder: Path) -> None:
        world = World(folder, {"c1": 0.5, "c2": 0.5})
        timed = list(churn(9, count=2 * LOST, users=40, mix=Mix(pause=0)))
        snapshots = world.settings.snapshots.folder / "c2"
        world.append(timed[:EARLY])
        other = world.open("c2")
        apply_all(world, other)
        self.early = snapshot.create(other, snapshots, START_MS, name="early").folder
        world.append(timed[EARLY:LOST])
        world.append(e._replace(time_ms=e.time_ms + LATER_MS) for e in timed[LOST:])
        apply_all(world, other)
        self.late = snapshot.create(other, snapshots, START_MS + 1, name="late").folder
        other.close()
        cell = world.open("c1")
        apply_all(world, cell)
        self.wanted = digest_of(cell)
        cell.close()
        assert world.log.apply_retention(START_MS + LATER_MS + 3_600_000) > 0
        assert sum(world.log.begin_offsets()) == LOST
        self.world = world
        self.cell = world.settings.cells["c1"].folder
        shutil.rmtree(self.cell / "store")
        self.shell = Shell(folder)

    def rebuild(self, posts_from: Path, *words: str, code: int = 0) -> Any:
        """`firecell rebuild --cell c1 --posts-from ...`."""
        asked = ("rebuild", "--cell", "c1", "--posts-from", str(posts_from))
        return self.shell.type(*asked, *words, code=code)

    def files(self) -> dict[str, tuple[int, int]]:
        """Everything that lies in the cell's folder: size and time."""
        paths = [path for path in self.cell.rglob("*") if path.is_file()]
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}


@pytest.fixture
def lost(tmp_path: Path) -> Lost:
    folder = tmp_path / "world"
    folder.mkdir()
    return Lost(folder)


def test_a_cell_gets_the_posts_that_it_lost_and_is_told_what_it_does_not_get(lost: Lost) -> None:
    whole = f"follows, blocks and mutes of this cell's own users among {LOST} events"
    planned = lost.rebuild(lost.late)
    assert not planned["executed"] and f"{LOST} events" in planned["loss"]
    posts = planned["posts_from"]
    assert (posts["cell"], posts["copied"], posts["stays_lost"]) == ("c2", None, whole)
    posts = lost.rebuild(lost.early)["posts_from"]
    newer = f"all of the {LOST - EARLY} among them that are newer than that snapshot"
    assert posts["stays_lost"] == f"{whole}; {newer}"
    refused = lost.rebuild(lost.late, "--execute", code=3)
    assert refused["error"] == "Precondition" and "--accept-loss" in refused["message"]
    assert not (lost.cell / "store").exists()

    done = lost.rebuild(lost.late, "--execute", "--accept-loss")
    assert done["executed"] and done["posts_from"]["stays_lost"] == whole
    assert done["posts_from"]["copied"] > EARLY
    cell = lost.world.open("c1")
    assert cell.worker.next_offsets == lost.world.log.end_offsets()
    found = digest_of(cell)
    assert (found["posts"], found["outboxes"]) == (lost.wanted["posts"], lost.wanted["outboxes"])
    assert found["all"] != lost.wanted["all"], "the follows of the lost span are lost"
    assert "retention passed" in {gap.cause for gap in cell.store.gaps()}
    cell.close()
    lost.world.close()


def test_posts_that_are_of_no_use_are_refused_before_anything_changes(
    lost: Lost, tmp_path: Path
) -> None:
    torn, garbled = tmp_path / "torn", tmp_path / "garbled"
    for broken in (torn, garbled):
        shutil.copytree(lost.late, broken)
    victim = next((torn / "store").rglob("*.sst"))
    victim.write_bytes(victim.read_bytes()[:-1])
    (garbled / "manifest.json").write_bytes(b"{")
    before = lost.files()
    for folder, code, error, word in (
        (tmp_path / "nowhere", 4, "NotFound", "is no snapshot"),
        (lost.cell, 4, "NotFound", "is no snapshot"),
        (some_snapshot(tmp_path / "other"), 3, "Precondition", "another firehose"),
        (torn, 3, "Corruption", "not as it was written"),
        (garbled, 3, "Corruption", "is damaged"),
    ):
        refused = lost.rebuild(folder, "--execute", "--accept-loss", code=code)
        assert (refused["error"], word in refused["message"]) == (error, True), refused
        assert lost.files() == before
    assert not (lost.cell / NOTE).exists()
    lost.world.close()
