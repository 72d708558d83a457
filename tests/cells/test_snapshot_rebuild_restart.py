"""Snapshots, restores and rebuilds, each killed (kill -9) at every step, in processes of their own.

What must hold: a snapshot that has its name is whole; a cell is as it was, or it refuses to start
until the restore is done again; a rebuilt cell has the digest of one that was never lost.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.churn import START_MS, churn
from cells import rebuild, snapshot, snapshot_restore
from cells.cell import Cell, open_cell
from cells.rebuild_state import Rebuilding
from cells.settings import load_settings
from cells.snapshot_files import read_manifest
from cells.snapshot_restore import FolderTarget
from cells.store_embedded import EmbeddedStore
from cells.verify import Verify
from engine.errors import (
    BadInput,
    Conflict,
    Corruption,
    NotFound,
    Precondition,
    RetentionPassed,
)
from engine.homing import partition_of
from engine.keys import outbox_key
from tests.cells.test_verify_replay import apply_all
from tests.conftest import ROOT
from tests.worlds import World, make_settings, read_all, walk
from topics.log_embedded import EmbeddedLog

USERS = 40
NOW_MS = START_MS + 1
_CHILD = """
import os, signal, sys
from pathlib import Path
from cells import rebuild, snapshot, snapshot_restore
from cells.cell import open_cell
from cells.settings import load_settings
from engine import limits
from topics.logs import open_log
from tests.worlds import read_all

folder, what, point, visit = Path(sys.argv[1]), sys.argv[2], sys.argv[3], [int(sys.argv[4])]
settings = load_settings(folder / "firecell.toml", environment={})
own = settings.cells["c1"]
place = settings.snapshots.folder / "c1"


def crash(reached):
    if reached == point:
        visit[0] -= 1
        if visit[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)


if what == "create":
    snapshot.create(open_cell(settings, "c1"), place, 5, name="second", crash=crash)
elif what == "replay":
    limits.WORKER_EVENTS_MAX, limits.REPLAY_KEEP_S, limits.RUN_KEYS_MIN = 50, 0, 20
    cell = open_cell(settings, "c1", crash=crash)
    replays = cell.begin_beside()
    if not replays.stats()["replays_running"]:
        replays.start(replays.span("earliest", None))
    while replays.stats()["replays_running"]:
        replays.step(0.0)
    cell.close()
else:
    from ops.snapshot import whose
    log = open_log(settings.firehose)
    with snapshot_restore.own_cell(own.folder, "c1", 0):
        mine = whose(settings, "c1", log)
        target = snapshot_restore.FolderTarget(own.folder)
        if what == "restore":
            plan = snapshot_restore.plan(snapshot.named(place, "first"), mine, target, log)
            snapshot_restore.execute(plan, log, crash=crash)
        else:
            plan = rebuild.plan(place, mine, target, log)
            rebuild.check(plan, log)
            rebuild.prepare(plan, log, 7, crash=crash)
"""


def child(folder: Path, what: str, point: str = "never", visit: int = 0) -> int:
    """Do something in a process that is killed at a point; its exit code."""
    command = [sys.executable, "-c", _CHILD, str(folder), what, point, str(visit)]
    return subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode


def digest_of(cell: Cell) -> dict[str, str] | None:
    report = Verify(cell.store, cell.whose.home).everything(cell.log, digest=True)
    assert report.ok, report.document()
    return report.digest


class Setting:
    """A cell with a snapshot named `first` at half of its firehose, and what it is in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        world = World(folder)
        world.append(churn(3, count=700, users=USERS))
        cell = world.open()
        ends = world.log.end_offsets()
        half = [end // 2 for end in ends]
        while any(at < end for at, end in zip(cell.worker.next_offsets, half, strict=True)):
            cell.worker.apply(read_all(world.log, cell.worker.next_offsets, 20))
        self.snapshots = world.settings.snapshots.folder / "c1"
        snapshot.create(cell, self.snapshots, NOW_MS, name="first", scheduled=True)
        self.reader = next(u for u in world.users() if walk(cell, u)[0])
        self.marked = walk(cell, self.reader)[0][0][0]
        apply_all(world, cell)
        cell.reader.set_marker(self.reader, self.marked)
        self.digest = digest_of(cell)
        cell.close()
        world.close()
        self.settings = load_settings(folder / "firecell.toml", environment={})
        self.cell_folder = self.settings.cells["c1"].folder

    def open(self) -> Cell:
        return open_cell(self.settings, "c1")

    def caught_up(self) -> dict[str, str] | None:
        """The digest once everything is applied."""
        cell = self.open()
        while records := read_all(cell.log, cell.worker.next_offsets, 70):
            cell.worker.apply(records)
        try:
            assert cell.markers.get(self.reader) == self.marked, "I7"
            return digest_of(cell)
        finally:
            cell.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    Setting(folder)
    return folder


@pytest.fixture
def setting(original: Path, tmp_path: Path) -> Iterator[Setting]:
    made = Setting.__new__(Setting)
    folder = tmp_path / "copy"
    shutil.copytree(original, folder)
    made.folder = folder
    make_settings(folder, {"c1": 1})
    made.settings = load_settings(folder / "firecell.toml", environment={})
    made.cell_folder = made.settings.cells["c1"].folder
    made.snapshots = made.settings.snapshots.folder / "c1"
    cell = made.open()
    made.digest = digest_of(cell)
    made.reader, made.marked = next(iter(cell.markers.all()))
    cell.close()
    yield made


@pytest.mark.parametrize("point", ["checkpoint", "summed", "written"])
def test_a_snapshot_cut_short_is_none_kill(setting: Setting, point: str) -> None:
    assert child(setting.folder, "create", point) == -signal.SIGKILL
    assert [found.name for found in snapshot.found_in(setting.snapshots)] == ["first"]
    assert child(setting.folder, "create") == 0
    assert not list(setting.snapshots.glob(".making-*"))
    assert {found.name for found in snapshot.found_in(setting.snapshots)} == {"first", "second"}
    assert setting.caught_up() == setting.digest


@pytest.mark.parametrize(
    ("point", "visit"),
    [("checked", 0), ("copied", 0), ("moved", 2), ("swapped", 0)],
)
def test_a_restore_cut_short_is_done_again_kill(
    setting: Setting, point: str, visit: int
) -> None:
    assert child(setting.folder, "restore", point, visit) == -signal.SIGKILL
    if point == "checked":
        assert setting.caught_up() == setting.digest, "nothing was touched"
    else:
        with pytest.raises(Precondition, match="restore"):
            setting.open()
    assert child(setting.folder, "restore") == 0
    cell = setting.open()
    assert cell.worker.next_offsets == read_manifest(setting.snapshots / "first").positions
    cell.close()
    assert setting.caught_up() == setting.digest


@pytest.mark.parametrize("point", ["moved", "restored", "begun"])
def test_a_rebuild_cut_short_goes_on_kill(setting: Setting, point: str) -> None:
    shutil.rmtree(setting.cell_folder / "store")
    assert child(setting.folder, "rebuild", point) == -signal.SIGKILL
    if point != "begun":
        assert child(setting.folder, "rebuild") == 0
    cell = setting.open()
    assert cell.runner.ready, "a rebuilt cell serves at once"
    gaps = cell.runner.gaps()
    assert gaps and {gap.cause for gap in gaps if not gap.cause.startswith("quarantined")} == {
        "rebuilding"
    }
    assert '"cause":"rebuilding"' in cell.reader.dashboard(setting.reader, limit=200).decode()
    cell.close()
    assert Rebuilding.load(setting.cell_folder) is not None, "a closed cell goes on later"
    cell = setting.open()
    cell.runner.start()
    while cell.runner.status()["rebuilding"]:
        assert cell.runner.failure is None
        time.sleep(0.02)
    cell.close()
    assert Rebuilding.load(setting.cell_folder) is None
    assert setting.caught_up() == setting.digest


@pytest.mark.parametrize(("point", "visit"), [("rows", 2), ("done", 5)])
def test_a_replay_cut_short_resumes_kill(setting: Setting, point: str, visit: int) -> None:
    assert child(setting.folder, "replay", point, visit) == -signal.SIGKILL
    cell = setting.open()
    replays = cell.begin_beside()
    (state,) = replays.documents()
    assert state["state"] == "running"
    assert state["events_done"] > 0 or point != "done"
    assert cell.store.positions()[0] == cell.log.end_offsets(), "the live position stays"
    cell.close()
    assert child(setting.folder, "replay") == 0
    cell = setting.open()
    (state,) = cell.begin_beside().documents()
    assert state["state"] == "done" and state["events_done"] == state["events"]
    cell.close()
    assert setting.caught_up() == setting.digest


def test_a_restore_refuses_what_does_not_fit(setting: Setting, tmp_path: Path) -> None:
    cell = setting.open()
    with pytest.raises(Precondition, match="running"):
        snapshot_restore.own_cell(setting.cell_folder, "c1", 0)
    whose, log = cell.whose, cell.log
    first = snapshot.named(setting.snapshots, "first")
    for other, word in (
        (whose._replace(cell="c9"), "cell"),
        (whose._replace(identity="x"), "firehose"),
        (whose._replace(partitions=9), "partitions"),
        (whose._replace(store="hbase"), "store"),
    ):
        plan = snapshot_restore.plan(first, other, FolderTarget(tmp_path / "none"), log)
        assert word in plan.problems[0]
        with pytest.raises(Precondition, match=word):
            snapshot_restore.execute(plan, log)
        assert not (tmp_path / "none").exists()
    with pytest.raises(NotFound, match="first"):
        snapshot.named(setting.snapshots, "third")
    with pytest.raises(BadInput):
        snapshot.create(cell, setting.snapshots, 1, name="../x")
    with pytest.raises(Conflict):
        snapshot.create(cell, setting.snapshots, 1, name="first")
    cell.close()


def test_a_damaged_snapshot_is_refused_before_anything_changes(setting: Setting) -> None:
    first = snapshot.named(setting.snapshots, "first")
    victim = next((first.folder / "store").rglob("*.sst"))
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.unlink()  # the live store has the same file by another name
    victim.write_bytes(raw)
    log = EmbeddedLog.open(setting.settings.firehose.folder, partitions=4)
    cell = setting.open()
    whose = cell.whose
    cell.close()
    plan = snapshot_restore.plan(first, whose, FolderTarget(setting.cell_folder), log)
    with pytest.raises(Corruption, match="not as it was written"):
        snapshot_restore.execute(plan, log)
    assert not (setting.cell_folder / snapshot_restore.NOTE).exists()
    skipped = rebuild.plan(
        setting.snapshots, whose, FolderTarget(setting.cell_folder), log, ["first"]
    )
    assert skipped.restore is None and "damaged" in skipped.passed_over[0]
    log.close()
    assert setting.caught_up() == setting.digest


def test_scheduled_snapshots_are_pruned_and_those_of_people_stay(setting: Setting) -> None:
    cell = setting.open()
    for number, name in enumerate(("second", "third", "fourth")):
        snapshot.create(
            cell, setting.snapshots, NOW_MS + number + 1, name=name, scheduled=name != "second"
        )
    names = [found.name for found in snapshot.found_in(setting.snapshots)]
    assert names == ["second", "third", "fourth"], "first was scheduled, and two newer are there"
    cell.close()


def aged(folder: Path) -> tuple[World, Cell, dict[str, str] | None]:
    """A world whose first third is below the retention floor, its cell with a snapshot from before
    that, and the digest."""
    world = World(folder)
    timed = list(churn(9, count=600, users=30))
    late_ms = 30 * 24 * 3_600_000
    world.append(timed[:200])
    cell = world.open()
    apply_all(world, cell)
    world.append(event._replace(time_ms=event.time_ms + late_ms) for event in timed[200:400])
    apply_all(world, cell)
    snapshot.create(cell, world.settings.snapshots.folder / "c1", NOW_MS, name="kept")
    world.append(event._replace(time_ms=event.time_ms + late_ms) for event in timed[400:])
    apply_all(world, cell)
    assert world.log.apply_retention(START_MS + late_ms) > 0
    assert sum(world.log.begin_offsets()) == 200
    digest = Verify(cell.store, cell.whose.home).everything(world.log, digest=True).digest
    return world, cell, digest


def test_a_wiped_cell_whose_first_third_is_gone_is_rebuilt_from_its_snapshot(
    tmp_path: Path,
) -> None:
    world, cell, digest = aged(tmp_path)
    cell.close()
    own = world.settings.cells["c1"]
    shutil.rmtree(own.folder / "store")
    shutil.rmtree(own.folder / "decisions")
    target = FolderTarget(own.folder)
    plan = rebuild.plan(world.settings.snapshots.folder / "c1", cell.whose, target, world.log)
    assert not plan.loss and plan.events == 200
    rebuild.prepare(plan, world.log, 7)
    cell = world.open()
    apply_all(world, cell)
    assert digest_of(cell) == digest
    cell.close()
    world.close()


def test_without_a_snapshot_the_loss_must_be_accepted_and_stays_a_gap(tmp_path: Path) -> None:
    world, cell, digest = aged(tmp_path)
    cell.close()
    own = world.settings.cells["c1"]
    shutil.rmtree(own.folder / "store")
    plan = rebuild.plan(tmp_path / "none", cell.whose, FolderTarget(own.folder), world.log)
    assert "200 events" in plan.loss
    with pytest.raises(Precondition, match="accept-loss"):
        rebuild.check(plan, world.log)
    rebuild.check(plan, world.log, accept_loss=True)
    rebuild.prepare(plan, world.log, 7)
    cell = open_cell(world.settings, "c1", accept_gap=True)
    apply_all(world, cell)
    causes = {gap.cause for gap in cell.store.gaps()}
    assert "retention passed" in causes
    assert Verify(cell.store, cell.whose.home).everything(None).ok, "what there is, is right"
    assert Verify(cell.store, cell.whose.home).everything(None, True).digest != digest
    cell.close()
    world.close()


def test_damage_below_the_retention_is_still_told_after_a_replay(tmp_path: Path) -> None:
    """A replay heals what the firehose still holds; verify names the rest."""
    world, cell, _ = aged(tmp_path)
    store = cell.store
    floors = world.log.begin_offsets()
    old = [
        (author, entry)
        for author, entry in store.outboxes_from(b"", 10_000)
        if entry.delete_offset < 0
        and entry.offset < floors[partition_of(author, world.log.partitions)]
    ]
    assert isinstance(store, EmbeddedStore) and old
    for author, entry in old:
        store._tables["outbox"].delete(outbox_key(author, entry.post))
    new = list(store._tables["inbox"].keys())[:3]
    for key in new:
        store._tables["inbox"].delete(key)
    replays = cell.begin_beside()
    replays.start(replays.span("earliest", None))
    while replays.stats()["replays_running"]:
        replays.step(0.0)
    report = Verify(store, cell.whose.home).everything(world.log)
    assert 0 < report.counts["outbox missing"] <= len(old), "an edit since heals its post, too"
    with pytest.raises(RetentionPassed) as caught:
        replays.span("0:0", None)
    assert caught.value.extra["floor"] == {"0": floors[0]}
    cell.close()
    world.close()
