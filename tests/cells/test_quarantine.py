"""Bad records tried again after a fix: what would have been, had they been good all along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.churn import START_MS, Timed, churn
from cells import quarantine, worker
from cells.cell import Cell
from cells.verify import Verify
from engine.codec import decode
from engine.errors import BadInput, NotFound, Unprocessable
from engine.events import FOLLOW, UNFOLLOW, Post, Relation
from engine.homing import partition_of
from engine.ids import make_id
from tests.cells.test_verify_replay import apply_all, run
from tests.hbase_backend import STORES, parts_of
from tests.worlds import World, walk


def broken(frames: set[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the worker cannot read these frames: a fault of ours, fixed later."""

    def refusing(frame: bytes) -> Any:
        if frame in frames:
            raise BadInput("a fault that will be fixed")
        return decode(frame)

    monkeypatch.setattr(worker, "decode", refusing)


def digest_of(cell: Cell, world: World) -> Any:
    report = Verify(cell.store, cell.whose.home).everything(world.log, digest=True)
    assert report.ok, report.document()
    return report.digest


@pytest.mark.parametrize(
    ("kind", "seed", "count"),
    [
        ("embedded", 0, 400),
        ("embedded", 1, 400),
        ("embedded", 2, 400),
        pytest.param("hbase", 3, 150, marks=pytest.mark.real),
    ],
)
def test_retried_records_leave_no_trace(
    kind: str, seed: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follows, unfollows, posts, deletes and blocks that were bad when they came."""
    with parts_of(kind) as parts:
        _retried(seed, count, tmp_path, monkeypatch, parts)


def _retried(
    seed: int,
    count: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: dict[str, str],
) -> None:
    (folder / "good").mkdir()
    (folder / "bad").mkdir()
    good, bad = World(folder / "good"), World(folder / "bad", **parts)
    for world in (good, bad):
        world.append(churn(seed + 70, count=count, users=30))
    wanted = good.open()
    apply_all(good, wanted)
    records = list(bad.records())
    readable = [r for r in records if _kind(r.frame) is not None]
    chosen = readable[seed :: len(readable) // 10]
    with monkeypatch.context() as patch:
        broken({record.frame for record in chosen}, patch)
        cell = bad.open()
        apply_all(bad, cell)
    before = {r[:2] for r, _ in wanted.store.quarantined(10_000)}
    held = [r[:2] for r, _ in cell.store.quarantined(10_000) if r[:2] not in before]
    assert len(held) >= len(chosen)
    replays = cell.begin_beside()
    for place in reversed(held):
        quarantine.retry(cell, place)
        run(replays)
    assert {r[:2] for r, _ in cell.store.quarantined(10_000)} == before
    assert digest_of(cell, bad) == digest_of(wanted, good)
    for user in good.users():
        assert walk(cell, user) == walk(wanted, user)
    for each in (cell, wanted):
        each.close()
    good.close()
    bad.close()


def _kind(frame: bytes) -> Any:
    try:
        return decode(frame).kind
    except BadInput:
        return None


def test_a_follow_retried_late_shows_all_since_even_below_the_retention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    reader, author = 1, 9
    ids = [make_id(START_MS + n, 0, n) for n in range(6)]
    events = [Post(author, ids[0]), Relation(FOLLOW, reader, author)]
    events += [Post(author, post) for post in ids[1:]]
    world.append(Timed(START_MS + n, event) for n, event in enumerate(events))
    follow = next(r for r in world.records() if _kind(r.frame) == FOLLOW)
    with monkeypatch.context() as patch:
        broken({follow.frame}, patch)
        cell = world.open()
        apply_all(world, cell)
    assert walk(cell, reader) == [[]]
    partition = partition_of(author, world.log.partitions)
    begins = world.log.begin_offsets()
    begins[partition] = 4  # the firehose has forgotten the follow and some of the posts
    monkeypatch.setattr(world.log, "begin_offsets", lambda: begins)
    monkeypatch.setattr(cell.log, "begin_offsets", lambda: begins)
    replays = cell.begin_beside()
    quarantine.retry(cell, follow[:2])
    run(replays)
    assert walk(cell, reader) == [[(post, author) for post in reversed(ids)]]
    assert cell.runner.gaps() == []
    cell.close()
    world.close()


@pytest.mark.parametrize("kind", STORES)
def test_dropped_records_stay_gaps_and_no_replay_brings_them_back(
    kind: str, tmp_path: Path
) -> None:
    with parts_of(kind) as parts:
        _dropped(World(tmp_path, **parts))


def _dropped(world: World) -> None:
    world.log.append([(0, b"no event at all")])
    cell = world.open()
    apply_all(world, cell)
    with pytest.raises(Unprocessable, match="still bad"):
        cell.begin_beside()
        quarantine.retry(cell, (0, 0))
    with pytest.raises(NotFound):
        quarantine.drop(cell.store, [(0, 7)])
    shown = quarantine.listed(cell.store)
    assert [record["position"] for record in shown] == ["0:0"] and shown[0]["problem"]
    quarantine.drop(cell.store, [(0, 0)])
    cell.runner.look_at_gaps()
    replays = cell.begin_beside()
    replays.start(replays.span("earliest", None))
    run(replays)
    assert quarantine.listed(cell.store) == []
    (gap,) = cell.store.gaps()
    assert gap.cause.startswith(quarantine.DROPPED) and gap.first_offset == gap.last_offset == 0
    cell.close()
    world.close()


def test_an_unfollow_retried_late_gives_the_next_follow_its_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second follow had opened nothing, as nothing had closed the first."""
    world = World(tmp_path)
    post = make_id(START_MS, 0, 1)
    kinds = (FOLLOW, UNFOLLOW, FOLLOW)
    events = [Post(9, post), *(Relation(kind, 1, 9) for kind in kinds)]
    world.append(Timed(START_MS + n, event) for n, event in enumerate(events))
    unfollow = next(r for r in world.records() if _kind(r.frame) == UNFOLLOW)
    with monkeypatch.context() as patch:
        broken({unfollow.frame}, patch)
        cell = world.open()
        apply_all(world, cell)
    replays = cell.begin_beside()
    quarantine.retry(cell, unfollow[:2])
    run(replays)
    assert walk(cell, 1) == [[(post, 9)]]
    digest_of(cell, world)
    cell.close()
    world.close()
