"""When a cell gathers for throughput: by how far behind it is, with two bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.churn import churn
from cells.maintenance import Maintenance
from cells.progress import Parts, Progress
from cells.worker import Batch
from engine import limits
from engine.errors import DiskFull, Unavailable
from engine.ports import Record
from tests.worlds import World
from topics.http_jobs import JobIn


class Standing:
    """A cell of one partition whose lag is set by hand."""

    def __init__(self) -> None:
        self.store = SimpleNamespace(bulk=False, gaps=list)
        self.log = SimpleNamespace(end_offsets=lambda: [0])
        counts = SimpleNamespace(inbox_keys=0)
        self.worker = SimpleNamespace(next_offsets=[0], counts=counts)
        parts: Any = ("c1", self.log, self.store, self.worker, lambda at: None, lambda: 0)
        self.progress = Progress(Parts(*parts))

    def at_lag(self, events: int) -> bool:
        self.progress._ends = [events]
        self.progress._apply([], lambda: None)
        return bool(self.store.bulk)


def test_bulk_is_chosen_by_lag_with_two_bounds() -> None:
    cell = Standing()
    begin, end = limits.BULK_FROM_EVENTS, limits.BULK_UNTIL_EVENTS
    assert end < begin
    seen = [cell.at_lag(lag) for lag in (0, begin - 1, begin, end, end - 1, end, begin - 1)]
    assert seen == [False, False, True, True, False, False, False]


def test_a_cell_that_catches_up_takes_the_bulk_path_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BULK_FROM_EVENTS", 300)
    monkeypatch.setattr(limits, "BULK_UNTIL_EVENTS", 100)
    monkeypatch.setattr(limits, "WORKER_EVENTS_MAX", 50)
    world = World(tmp_path)
    world.append(churn(3, count=500, users=20))
    cell = world.open()
    seen: list[bool] = []
    plan = cell.worker.plan

    def planned(records: Sequence[Record]) -> Batch:
        seen.append(cell.store.bulk)
        return plan(records)

    monkeypatch.setattr(cell.worker, "plan", planned)
    cell.runner.start()
    deadline = time.monotonic() + 20
    while not cell.runner.ready and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cell.close()
    assert seen[0] and not seen[-1]
    world.close()


def test_term_while_the_store_is_away_and_a_snapshot_waits_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot waited for the batch in hand, that one for its store, and the process, for as
    long as a drain may take, for the snapshot."""
    world = World(tmp_path)
    world.append(churn(4, count=50, users=10))
    cell = world.open()
    waiting = threading.Event()

    def away(*_: object) -> None:
        waiting.set()
        raise Unavailable("the store is away")

    monkeypatch.setattr(cell.store, "write_all", away)
    beside = Maintenance(cell, world.settings)
    cell.runner.start()
    assert waiting.wait(10)
    job = beside.ask(JobIn("snapshot", execute=True))
    time.sleep(0.2)
    assert job.state == "running"
    closing = threading.Thread(target=beside.close, daemon=True)
    closing.start()
    closing.join(5)
    assert not closing.is_alive() and cell.close(5)
    assert (job.state, "draining" in job.error) == ("failed", True)
    world.close()


def test_a_checkpoint_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its links kept old files on the disk, or in HBase, until the cell's next start."""
    world = World(tmp_path)
    cell = world.open()

    def full(folder: str) -> None:
        raise DiskFull(f"no room for {folder}")

    monkeypatch.setattr(cell.markers, "copy_to", full)
    beside = Maintenance(cell, world.settings)
    cell.runner.start()
    job = beside.ask(JobIn("checkpoint", execute=True))
    deadline = time.monotonic() + 10
    while job.state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job.state == "failed" and ".checkpoint-" in job.error
    assert not list(world.settings.snapshots.folder.rglob("*"))[1:], "but the cell's own folder"
    beside.close()
    cell.close()
    world.close()
