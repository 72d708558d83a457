"""Checkpoints of a cell on HBase: taken beside a writer, in an order; restored, cut short, refused.

The fake helper writes down what it is asked; the rest runs on HBase. How fast a whole story goes:
tests/ops/test_story.py.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.churn import churn
from cells import hbase_copy, hbase_meta, hbase_snapshots, rebuild, rows, snapshot
from cells.backends import copy_of, restore_target
from cells.cell import Cell
from cells.hbase_client import Address, HBaseClient
from cells.hbase_loader import Helper
from cells.snapshot import Whose
from cells.snapshot_restore import Target, execute, plan
from cells.store_hbase import HBaseStore
from cells.verify import Verify
from engine.errors import Corruption, Misconfigured, Precondition
from engine.homing import HomeRange
from tests import hbase_backend
from tests.worlds import World

READER = 7


class FakeHelper:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = []

    def command(self, *words: str) -> str:
        self.lines.append(list(words))
        return "a=t,b=t"

    def commands(self, commands: Sequence[Sequence[str]]) -> None:
        self.lines.append([" ".join(command) for command in commands])


@pytest.fixture
def helper() -> Any:
    return FakeHelper()


def test_positions_are_taken_first_then_keys_then_what_they_name(
    helper: Any, tmp_path: Path
) -> None:
    hbase_snapshots.take(helper, "ns:c1", tmp_path)
    assert [line[-1] for line in helper.lines[:2]] == ["ns:c1.position", "ns:c1.inbox"]
    together = [one.split()[-1].partition(".")[2] for one in helper.lines[2]]
    assert {"position", "inbox", *together} == set(hbase_snapshots.TAKEN)
    names = hbase_snapshots.read(tmp_path).tables
    assert all(name.replace("-", "").isalnum() for name in names.values()), "legal in HBase"
    hbase_snapshots.forget(helper, tmp_path)
    assert helper.lines[3] == [f"forget {name}" for name in names.values()]
    hbase_snapshots.forget(helper, tmp_path / "nothing was taken there")
    assert len(helper.lines) == 4
    with pytest.raises(Corruption, match="no longer has"):
        hbase_snapshots.check_there(helper, hbase_snapshots.Names({"post": "a", "inbox": "c"}))
    hbase_snapshots.check_there(helper, hbase_snapshots.Names({"post": "a", "inbox": "b"}))


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"tables":{}}', b'{"tables":{},"format":9}'])
def test_a_file_that_is_none_of_ours_is_named(raw: bytes, tmp_path: Path) -> None:
    with pytest.raises(Corruption, match="use another snapshot"):
        hbase_snapshots.read(tmp_path)
    (tmp_path / hbase_snapshots.FILE).write_bytes(raw)
    with pytest.raises(Corruption):
        hbase_snapshots.read(tmp_path)


def test_without_the_helper_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    store = HBaseStore.__new__(HBaseStore)
    store._helper = None
    with pytest.raises(Misconfigured, match=r"hbase\.helper"):
        store.checkpoint(str(tmp_path / "new"))


def test_a_copy_is_dropped_with_its_meta_last_and_nobody_else_s(helper: Any) -> None:
    """Tables of a cell named `c1-copy.x` went, too."""
    there = "c1-copy.meta,c1-copy.inbox,c1-copy.x.inbox,c1-copy.other,c1-copy.post"
    helper.command = lambda *words: there
    hbase_copy._drop(helper, "c1-copy")
    assert helper.lines == [["drop c1-copy.inbox", "drop c1-copy.post"], ["drop c1-copy.meta"]]


@pytest.mark.parametrize(
    ("tables", "owner", "refused"),
    [
        (("meta", "inbox"), "c9", True),
        (("meta", "inbox"), "c1", False),
        (("meta",), "c9", False),
        (("inbox",), "c9", False),
        ((), "c9", False),
    ],
)
def test_a_cell_that_lies_where_a_copy_would_is_not_dropped(
    monkeypatch: pytest.MonkeyPatch, tables: tuple[str, ...], owner: str, refused: bool
) -> None:
    there = {f"c1-copy.{table}" for table in tables} | {"c2.meta", "c2.inbox"}
    found = rows.Meta("firehose", 4, owner, 0, 9)
    monkeypatch.setattr(hbase_copy.HBaseClient, "probe", lambda client: there)
    monkeypatch.setattr(hbase_copy.hbase_meta, "owner", lambda client: found)
    refusal = pytest.raises(Precondition, match="are cell c9's") if refused else nullcontext()
    with refusal:
        hbase_copy._refuse_another("hbase://127.0.0.1:1/c1-copy", ("firehose", "c1"))


# --- on HBase ------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    backend = hbase_backend.backend()
    cell = f"snap{uuid.uuid4().hex[:8]}"
    made = World(tmp_path, store=backend.url(cell), helper=backend.helper_file)
    made.append(churn(3, count=400, users=40))
    yield made
    made.close()
    hbase_backend.drop_tables(cell)


def target(world: World, whose: Whose) -> AbstractContextManager[Target]:
    return restore_target(
        world.settings.cells["c1"],
        identity=whose.identity,
        partitions=whose.partitions,
        home=whose.home,
        helper=world.settings.hbase.helper,
    )


def until_applied(world: World, cell: Cell) -> None:
    deadline = time.monotonic() + 120
    while cell.worker.next_offsets != world.log.end_offsets():
        assert cell.runner.failure is None and time.monotonic() < deadline
        time.sleep(0.02)


def digest_of(cell: Cell) -> dict[str, str] | None:
    report = Verify(cell.store, cell.whose.home).everything(cell.log, digest=True)
    assert report.ok, report.document()
    return report.digest


def caught_up(world: World) -> tuple[dict[str, str] | None, int | None]:
    """(digest, marker) when everything is applied."""
    cell = world.open()
    cell.runner.start()
    until_applied(world, cell)
    try:
        return digest_of(cell), cell.markers.get(READER)
    finally:
        cell.close()


class Cut(Exception):
    """As if the process were killed at a crash point."""


def cut_at(point: str) -> Any:
    def crash(reached: str) -> None:
        if reached == point:
            raise Cut

    return crash


@pytest.mark.real
@pytest.mark.slow
def test_taken_beside_a_writer_restored_in_two_tries_and_pruned(world: World) -> None:
    folder = world.settings.snapshots.folder / "c1"
    cell = world.open()
    cell.runner.start()
    cell.markers.advance(READER, 50)
    assert isinstance(cell.store, HBaseStore)
    for number in range(3):  # the runner applies while the tables are taken
        world.append(churn(4 + number, count=150, users=40))
        snapshot.create(cell, folder, number + 1, name=f"n{number}", scheduled=True)
    cell.markers.advance(READER, 60)
    until_applied(world, cell)
    digest = digest_of(cell)
    cell.close()

    kept = snapshot.found_in(folder)
    assert [one.name for one in kept] == ["n1", "n2"]
    java = Helper(hbase_backend.backend().helper)
    mine = f"firecell-{world.settings.cells['c1'].place.name}-"  # type: ignore[union-attr]
    there = [pair for pair in java.command("snapshots").split(",") if pair.startswith(mine)]
    assert len(there) == 2 * len(hbase_snapshots.TAKEN), "those of the pruned one are forgotten"
    java.close()

    with target(world, cell.whose) as tables:
        planned = plan(kept[0], cell.whose, tables, world.log)
        assert not planned.problems and len(planned.replaces) == len(hbase_snapshots.TAKEN)
        with pytest.raises(Cut):
            execute(planned, world.log, crash=cut_at("moved"))
        with pytest.raises(Precondition, match="snapshot restore"):
            world.open()
        execute(planned, world.log)
    cell = world.open()
    at = cell.worker.next_offsets
    assert kept[0].manifest is not None
    assert all(now >= then for now, then in zip(at, kept[0].manifest.positions, strict=True))
    assert sum(at) < sum(world.log.end_offsets()), "it is as it was"
    cell.close()
    assert caught_up(world) == (digest, 60), "markers only grow (I7)"
    rebuilt_from_nothing(world, cell, digest, folder / "none")


def rebuilt_from_nothing(
    world: World, cell: Cell, digest: dict[str, str] | None, folder: Path
) -> None:
    with target(world, cell.whose) as tables:
        planned = rebuild.plan(folder, cell.whose, tables, world.log)
        assert planned.restore is None and not planned.loss
        with pytest.raises(Cut):
            rebuild.prepare(planned, world.log, 7, crash=cut_at("moved"))
        with pytest.raises(Precondition, match="firecell rebuild"):
            world.open()
        rebuild.prepare(planned, world.log, 7)
    again = world.open()
    assert again.runner.ready and sum(again.worker.next_offsets) == 0
    assert {gap.cause for gap in again.runner.gaps()} == {"rebuilding"}
    again.close()
    assert caught_up(world) == (digest, 60)


@pytest.mark.real
def test_a_plan_makes_no_tables_and_a_note_is_there_before_the_owner(world: World) -> None:
    """A plan wrote whose the tables are: the new cell had `lost` the others, and did not start."""
    whose = Whose("c1", world.log.identity, world.log.partitions, HomeRange(0, 2**64 - 1), "hbase")
    place = world.settings.cells["c1"].place
    with closing(HBaseClient(Address.parse(place.url))) as client:  # type: ignore[union-attr]
        with target(world, whose) as tables:
            assert tables.replaces() == []
            assert not {name for name in client.probe() if name.startswith(client.address.cell)}
            tables.begin("some")
        assert hbase_meta.noted(client) and hbase_meta.owner(client) is not None
        with pytest.raises(Precondition, match="snapshot restore"):
            world.open()


@pytest.mark.real
def test_a_restore_refuses_another_cell_s_tables(world: World) -> None:
    cell = world.open()
    cell.close()
    whose = cell.whose
    with pytest.raises(Misconfigured, match="another firehose"):
        target(world, whose._replace(identity="another firehose"))
    with target(world, whose) as tables, pytest.raises(Corruption, match="names no snapshots"):
        tables.check(Path("/nonexistent"))


@pytest.mark.real
@pytest.mark.slow
def test_a_copy_is_read_and_goes_and_another_cell_in_its_place_stays(world: World) -> None:
    cell = world.open()
    cell.runner.start()
    until_applied(world, cell)
    own, whose, helper = world.settings.cells["c1"], cell.whose, world.settings.hbase.helper
    checkpoint = world.settings.snapshots.folder / "checkpoint"
    snapshot.capture(
        cell, checkpoint, 1, False, lambda done, total: None, lambda at: None, sums=False
    )
    address = Address.parse(own.place.url)  # type: ignore[union-attr]
    client, java = HBaseClient(address), Helper(hbase_backend.backend().helper)

    def copies() -> set[str]:
        return {name for name in client.probe() if name.startswith(f"{address.cell}-copy.")}

    java.create(f"{address.cell}-copy", ("post",))  # left by one that was killed
    with copy_of(own, checkpoint, whose.home, world.log, helper) as (store, _):
        assert copies() and store.positions()[0] == world.log.end_offsets()
        assert Verify(store, whose.home).everything(None).ok
    assert not copies()
    java.create(f"{address.cell}-copy", ("meta", "inbox"))
    other = HBaseClient(replace(address, cell=f"{address.cell}-copy"))
    hbase_meta.check_meta(other, rows.Meta(whose.identity, whose.partitions, "c9", 0, 9))
    with (
        pytest.raises(Precondition, match="are cell c9's"),
        copy_of(own, checkpoint, whose.home, world.log, helper),
    ):
        pass
    assert len(copies()) == 2
    hbase_copy._drop(java, f"{address.cell}-copy")
    assert not copies()
    for each in (other, client, java, cell):
        each.close()  # type: ignore[attr-defined]
