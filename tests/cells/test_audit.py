"""The audit: quiet over a good store, beside a writer too; what stays wrong is counted and told."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from bench.churn import churn
from cells.audit import Audit
from cells.cell import Cell
from cells.verify_pushed import pushed_by
from tests.cells.test_verify_replay import apply_all
from tests.hbase_backend import STORES, parts_of, remove
from tests.worlds import World, read_all


def audit_of(cell: Cell, wait: Any = lambda seconds: False) -> Audit:
    return Audit(cell.store, pushed_by(cell.decisions.intervals, cell.store), wait)


def through(audit: Audit) -> None:
    """One round."""
    rounds = audit.rounds
    while audit.rounds == rounds:
        audit.step()


@pytest.mark.parametrize("kind", STORES)
def test_it_is_quiet_over_a_good_store_and_counts_damage(
    kind: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with parts_of(kind) as parts:
        _quiet_then_counting(World(tmp_path, **parts), caplog, monkeypatch)


def _quiet_then_counting(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.append(churn(5, count=300, users=30))
    cell = world.open()
    apply_all(world, cell)
    monkeypatch.setattr("cells.audit.AUDIT_HEAD", 3)  # so that some outboxes have more
    audit = audit_of(cell)
    through(audit)
    assert audit.readers > 20 and audit.findings == 0 and audit.skipped == 0
    raw = cell.store.inbox_from(b"", 100_000)
    remove(cell.store, "inbox", [raw[at : at + 24] for at in range(0, len(raw), 24)])
    with caplog.at_level(logging.ERROR):
        through(audit)
    assert audit.stats()["audit_findings_total"] == audit.findings > 0
    assert "missing" in caplog.text
    cell.close()
    world.close()


def test_what_a_batch_in_hand_explains_is_no_finding(tmp_path: Path) -> None:
    """Between the rows and the keys of a batch posts have no keys yet, and may have none for as
    long as a remote store is away: what lies behind the durable position is not judged."""
    world = World(tmp_path)
    world.append(churn(6, count=300, users=30))
    cell = world.open()
    records = read_all(world.log, cell.worker.next_offsets, 1_000)
    batch = cell.worker.plan(records)
    cell.store.write_rows(batch.facts)
    looked: list[float] = []

    def wait(seconds: float) -> bool:
        looked.append(seconds)
        return False

    audit = audit_of(cell, wait)
    through(audit)
    cell.store.write_inbox(batch.facts.inbox)
    through(audit)
    cell.worker.finish(batch)
    through(audit)
    assert not looked and audit.findings == 0
    assert audit.readers > 60
    cell.close()
    world.close()
