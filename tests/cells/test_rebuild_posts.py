"""A cell that lost the oldest events takes their posts from another cell's snapshot."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.churn import START_MS, Mix, churn
from cells import rebuild, rebuild_posts, snapshot
from cells.backends import open_store
from cells.cell import Cell, open_cell
from cells.snapshot_restore import FolderTarget
from cells.verify import Verify
from engine.errors import Corruption, NotFound, Precondition
from tests.cells.test_verify_replay import apply_all
from tests.worlds import World, walk

LATER_MS = 8 * 24 * 3_600_000


def silent(done: int, total: int) -> None:
    """Tells nobody."""


def document(cell: Cell) -> dict[str, str]:
    report = Verify(cell.store, cell.whose.home).everything(None, digest=True)
    assert report.ok and report.digest is not None, report.document()
    return report.digest


@pytest.fixture
def aged(tmp_path: Path) -> World:
    """Two cells; the first half of the history is below the floor."""
    world = World(tmp_path, {"c1": 0.5, "c2": 0.5})
    timed = list(churn(9, count=800, users=40, mix=Mix(pause=0)))
    world.append(timed[:400])
    world.append(event._replace(time_ms=event.time_ms + LATER_MS) for event in timed[400:])
    return world


def test_posts_and_outboxes_are_whole_again_and_follows_since_have_their_backfills(
    aged: World,
) -> None:
    cells = {name: aged.open(name) for name in ("c1", "c2")}
    for cell in cells.values():
        apply_all(aged, cell)
    lost, other = cells["c1"], cells["c2"]
    wanted = document(lost)
    floors = {(t.author, t.offset): t.floor for _, t in lost.store.followings_from(b"", 10_000)}
    folder = aged.settings.snapshots.folder / "c2"
    made = snapshot.create(other, folder, START_MS, name="s")
    lost.close()
    other.close()
    assert aged.log.apply_retention(START_MS + LATER_MS + 3_600_000) > 0
    shutil.rmtree(lost.folder / "store")

    target = FolderTarget(lost.folder)
    planned = rebuild.plan(folder.parent / "c1", lost.whose, target, aged.log)
    assert "400 events" in planned.loss
    manifest = rebuild_posts.checked(made.folder, lost.whose, silent)
    copied: list[int] = []

    def fill() -> None:
        whose, own = lost.whose, aged.settings.cells["c1"]
        with closing(
            open_store(
                own,
                identity=whose.identity,
                partitions=whose.partitions,
                home=whose.home,
                helper=Path("none"),
            )
        ) as store:
            for _ in range(2):
                copied.append(rebuild_posts.copy_posts(made.folder, manifest, whose.home, store))

    rebuild.prepare(planned, aged.log, 7, fill=fill)
    cell = open_cell(aged.settings, "c1", accept_gap=True)
    apply_all(aged, cell)
    found = document(cell)
    assert copied[0] == copied[1] > 200
    assert (found["posts"], found["outboxes"]) == (wanted["posts"], wanted["outboxes"])
    since = [t for _, t in cell.store.followings_from(b"", 10_000) if t.follows]
    assert since and any(0 < t.floor < 2**63 for t in since)
    differ = [t for t in since if t.floor != floors[t.author, t.offset]]
    assert len(differ) < len(since) / 4, "only where what was lost had opened the interval"
    reader = next(user for user in aged.users() if user in cell.whose.home)
    assert walk(cell, reader)
    cell.close()
    aged.close()


def test_what_is_of_no_use_is_refused_before_anything_changes(aged: World, tmp_path: Path) -> None:
    cell = aged.open("c2")
    apply_all(aged, cell)
    made = snapshot.create(cell, aged.settings.snapshots.folder / "c2", START_MS, name="s")
    whose = cell.whose
    cell.close()
    aged.close()
    with pytest.raises(NotFound):
        rebuild_posts.checked(tmp_path / "nowhere", whose, silent)
    with pytest.raises(Precondition, match="another firehose"):
        rebuild_posts.checked(made.folder, whose._replace(identity="x"), silent)
    (made.folder / "graph.snapshot").write_bytes(b"damaged")
    with pytest.raises(Corruption, match="not as it was written"):
        rebuild_posts.checked(made.folder, whose, silent)


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ([5, 5], ""),
        ([0, 0], "follows, blocks and mutes of this cell's own users among 10 events"),
        ([2, 0], "among 8 events; the posts among them stay out of its inboxes"),
    ],
)
def test_what_stays_lost_is_told(at: list[int], told: str) -> None:
    manifest: Any = SimpleNamespace(positions=[9, 9])
    found = rebuild_posts.stays_lost(manifest, at, [5, 5])
    assert told in found and bool(told) == bool(found)
    assert ("inboxes" in found) == (at == [2, 0])  # only who kept followers misses posts
