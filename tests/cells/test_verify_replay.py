"""Replay, verify and digest on a churn workload: replays change nothing; damage is told and healed.

In process and seeded: each seed replays exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.churn import Random, churn
from cells.cell import Cell
from cells.replay import Replays
from cells.replay_state import Span
from cells.verify import Report, Verify
from engine import limits
from engine.keys import parse_inbox_key
from engine.ports import Facts
from tests.hbase_backend import parts_of
from tests.worlds import World, read_all, walk

USERS = 60


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a batch of a few keys takes the path of sorted runs, as well as that of puts."""
    monkeypatch.setattr(limits, "RUN_KEYS_MIN", 40)


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    made.append(churn(7, count=1_000, users=USERS))
    yield made
    made.close()


def apply_all(world: World, cell: Cell, count: int = 70) -> None:
    while records := read_all(world.log, cell.worker.next_offsets, count):
        while records:
            records = records[cell.worker.apply(records) :]


def verify(cell: Cell, world: World, digest: bool = True, firehose: bool = True) -> Report:
    checked = Verify(cell.store, cell.whose.home)
    return checked.everything(world.log if firehose else None, digest)


def run(replays: Replays) -> None:
    """Until none is left."""
    for _ in range(100_000):
        if not replays.step(0.0) and not replays.stats()["replays_running"]:
            return
    raise AssertionError("it does not end")


def test_verify_finds_nothing_in_a_good_cell(world: World) -> None:
    cell = world.open()
    apply_all(world, cell)
    report = verify(cell, world)
    assert report.ok, report.document()
    assert report.keys > 500 and report.readers >= USERS - 5 and report.digest is not None
    cell.close()


@pytest.mark.parametrize(
    ("kind", "seed", "count"),
    [
        ("embedded", 0, 1_000),
        ("embedded", 1, 1_000),
        pytest.param("hbase", 2, 250, marks=pytest.mark.real),
    ],
)
def test_a_replay_beside_live_work_changes_no_answer_and_no_digest(
    kind: str, seed: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that never replays is embedded."""
    monkeypatch.setattr(limits, "HBASE_RUN_KEYS_MIN", 40)
    with parts_of(kind) as parts:
        _replay_beside_live_work(seed, count, tmp_path, parts)


def _replay_beside_live_work(
    seed: int, count: int, folder: Path, parts: dict[str, str]
) -> None:
    random = Random(seed)
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    digests, pages = [], []
    for replayed in (False, True):
        world = World(folder / "b", **parts) if replayed else World(folder / "a")
        world.append(churn(seed + 30, count=count, users=USERS))
        cell = world.open()
        if replayed:
            replays = cell.begin_beside()
            ends = world.log.end_offsets()
            while any(at < end for at, end in zip(cell.worker.next_offsets, ends, strict=True)):
                records = read_all(world.log, cell.worker.next_offsets, 1 + random.below(40))
                while records:
                    records = records[cell.worker.apply(records) :]
                applied = list(cell.worker.next_offsets)
                if random.below(4) == 0:
                    start = [random.below(at + 1) for at in applied]
                    replays.start(Span(start, applied))
                for _ in range(random.below(3)):
                    replays.step(0.0)
                assert cell.worker.next_offsets == applied, "the live position never moves"
            run(replays)
            assert cell.store.positions()[0] == ends
            if parts:
                assert cell.store.stats()["runs_adopted"], "replays alone take the bulk path"
        else:
            apply_all(world, cell)
        report = verify(cell, world)
        assert report.ok, report.document()
        digests.append(report.digest)
        pages.append([walk(cell, user) for user in world.users()])
        cell.close()
        world.close()
    assert digests[0] == digests[1]
    assert pages[0] == pages[1]


def damage(cell: Cell, random: Random) -> dict[str, int]:
    """Take some of the inbox keys that show, outbox entries and follow rows away."""
    store: Any = cell.store
    tables = {"inbox": 40, "outbox": 10, "toggle": 10, "following": 10}
    gone: dict[str, int] = {}
    for table, count in tables.items():
        keys = list(store._tables[table].keys())
        for _ in range(count):
            key = keys[random.below(len(keys))]
            store._tables[table].delete(key)
        gone[table] = count
    return gone


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_named_and_a_replay_heals_it(seed: int, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.append(churn(seed + 50, count=1_000, users=USERS))
    cell = world.open()
    apply_all(world, cell)
    before = verify(cell, world)
    pages = [walk(cell, user) for user in world.users()]
    damage(cell, Random(seed))
    cell._snapshot.unlink(missing_ok=True)
    cell.close()
    cell = world.open()  # the graph comes from the damaged rows
    named = verify(cell, world)
    assert {"missing", "outbox missing", "follow row"} <= set(named.counts), named.document()
    replays = cell.begin_beside()
    replays.start(replays.span("earliest", None))
    run(replays)
    after = verify(cell, world)
    assert after.ok, after.document()
    assert after.digest == before.digest
    assert [walk(cell, user) for user in world.users()] == pages
    cell.close()
    cell = world.open()
    assert [walk(cell, user) for user in world.users()] == pages
    cell.close()
    world.close()


def test_keys_that_nobody_should_have_are_told(world: World) -> None:
    cell = world.open()
    apply_all(world, cell)
    store: Any = cell.store
    key = next(iter(store._tables["inbox"].keys()))
    reader, post, author = parse_inbox_key(key)
    from engine.keys import inbox_key

    stranger = inbox_key(reader, post, author + 1_000_000)
    store._tables["inbox"].put(stranger, b"")
    report = verify(cell, world, digest=False)
    assert report.counts == {"dangling": 1}
    facts = Facts(deletes=[(stranger[8:], 5)])
    store.write_rows(facts)
    report = verify(cell, world, digest=False)
    assert report.counts == {"extra": 1}
    sampled = Verify(cell.store, cell.whose.home).sample(1_000)
    assert sampled.counts == {"extra": 1}
    cell.close()
