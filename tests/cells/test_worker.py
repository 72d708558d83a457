"""The worker's steps on a real store: bad input, odd input, holes, order of durability."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.churn import START_MS, Timed
from bench.oracle import Summary
from cells.cell import Cell, open_cell
from engine import limits
from engine.codec import encode
from engine.errors import Precondition, RetentionPassed, Unavailable
from engine.events import (
    BLOCK,
    FOLLOW,
    LIKE,
    MUTE,
    UNBLOCK,
    UNFOLLOW,
    UNMUTE,
    Delete,
    Edit,
    Event,
    Post,
    Reaction,
    Relation,
)
from engine.homing import partition_of
from engine.ids import make_id
from engine.limits import POST_ID_MAX, U64_MAX
from engine.ports import Facts, OutboxEntry, Record
from tests.worlds import PARTITIONS, World, read_all, walk


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def cell(world: World) -> Iterator[Cell]:
    opened = world.open()
    yield opened
    opened.close()


def now(number: int = 0) -> int:
    return START_MS + number * 1_000


def post(author: int, number: int, text: str = "") -> Post:
    return Post(author, make_id(now(number), 0, number), text=text or f"post {number}")


def give(world: World, cell: Cell, *events: Event) -> None:
    """Append events a second apart and apply everything."""
    start = world.clock.now_ms
    world.append(Timed(start + 1_000 * (n + 1), event) for n, event in enumerate(events))
    apply_all(world, cell)


def apply_all(world: World, cell: Cell) -> None:
    while records := read_all(world.log, cell.worker.next_offsets, 1_000):
        while records:
            records = records[cell.worker.apply(records) :]


def ids(cell: Cell, reader: int) -> list[int]:
    return [post for page in walk(cell, reader, 3) for post, _ in page]


def page(cell: Cell, reader: int, **how: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cell.reader.dashboard(reader, **{"limit": 20, **how}))
    return document


# --- bad input never stops a cell (I11) ---


def test_poison_in_every_partition_is_kept_counted_and_told_as_a_gap(
    world: World, cell: Cell
) -> None:
    poison = [b"", b"\x01", b"\x09junk", b"\x01\xc1", b"\x01" + b"\x91" * 5_000, b"\xff" * 300]
    for partition in range(PARTITIONS):
        world.log.append([(partition, frame) for frame in poison])
    give(world, cell, Relation(FOLLOW, 1, 9), post(9, 1))
    assert ids(cell, 1) == [post(9, 1).id]
    kept = cell.store.quarantined(100)
    assert len(kept) == PARTITIONS * len(poison)
    assert {record.frame for record, _ in kept} == set(poison)
    assert all(cause for _, cause in kept)
    assert cell.worker.counts.quarantined == len(kept)
    assert len(cell.store.gaps()) == len(kept)


def test_an_event_in_another_partition_than_its_accounts_is_quarantined(
    world: World, cell: Cell
) -> None:
    wrong = (partition_of(9, PARTITIONS) + 1) % PARTITIONS
    world.log.append([(wrong, encode(post(9, 1)))])
    give(world, cell, post(9, 2))
    assert ids(cell, 9) == [post(9, 2).id]
    ((record, cause),) = cell.store.quarantined(10)
    assert record.partition == wrong and "partition" in cause


def test_an_id_of_tomorrow_is_quarantined_and_one_within_a_minute_is_not(
    world: World, cell: Cell
) -> None:
    soon = Post(9, make_id(START_MS + 1_000 + limits.ID_AHEAD_MS_MAX, 0, 0))
    late = Post(9, make_id(START_MS + 2_001 + limits.ID_AHEAD_MS_MAX, 0, 0))
    give(world, cell, soon, late)
    assert ids(cell, 9) == [soon.id]
    assert [cause for _, cause in cell.store.quarantined(10)] != []


# --- odd input ---


def test_odd_ids_and_users_are_ordinary(world: World, cell: Cell) -> None:
    edges = (0, 1, 2**63 - 1, 2**63, U64_MAX)
    give(world, cell, *[Relation(FOLLOW, reader, who) for reader in edges for who in edges])
    give(world, cell, *[Post(who, number) for who in edges for number in (0, 1)])
    for reader in edges:
        want = [(1, who) for who in edges] + [(0, who) for who in edges]
        assert [line for part in walk(cell, reader, 2) for line in part] == want
    give(world, cell, Post(5, POST_ID_MAX))
    assert ids(cell, 5) == [], "2^63-1 lies in the far future"


def test_nobody_follows_and_following_oneself(world: World, cell: Cell) -> None:
    give(world, cell, post(9, 1), Relation(FOLLOW, 9, 9), post(9, 2), Relation(UNFOLLOW, 9, 9))
    assert ids(cell, 9) == [post(9, 2).id, post(9, 1).id]
    give(world, cell, Relation(UNFOLLOW, 1, 9), Relation(BLOCK, 9, 9), Relation(MUTE, 9, 9))
    assert ids(cell, 9) == [post(9, 2).id, post(9, 1).id]
    assert json.loads(cell.reader.following(9, limit=10))["users"] == []
    assert ids(cell, 1) == []


def test_repeated_follow_keeps_the_first_interval(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), post(9, 1), Relation(FOLLOW, 1, 9), post(9, 2))
    assert ids(cell, 1) == [post(9, 2).id, post(9, 1).id]
    give(world, cell, Relation(UNFOLLOW, 1, 9))
    assert ids(cell, 1) == []


def test_same_author_and_id_twice_is_the_first(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), post(9, 1, "first"), post(9, 1, "second"))
    assert [p["text"] for p in page(cell, 1)["posts"]] == ["first"]


def test_two_authors_with_one_id_are_two_posts(world: World, cell: Cell) -> None:
    same = post(8, 1).id
    give(world, cell, Relation(FOLLOW, 1, 9), Relation(FOLLOW, 1, 8), Post(9, same), Post(8, same))
    assert walk(cell, 1, 1) == [[(same, 8)], [(same, 9)]]
    give(world, cell, Delete(9, same))
    assert walk(cell, 1, 1) == [[(same, 8)], []] or walk(cell, 1, 1) == [[(same, 8)]]


def test_foreign_and_unknown_deletes_and_edits_touch_nothing(world: World, cell: Cell) -> None:
    first = post(9, 1)
    give(world, cell, Relation(FOLLOW, 1, 9), first, Delete(8, first.id), Edit(8, first.id, 0, "x"))
    give(world, cell, Delete(9, 12_345), Edit(9, 54_321, 0, "y"), Reaction(LIKE, 1, 9, first.id))
    assert [p["text"] for p in page(cell, 1)["posts"]] == ["post 1"]


def test_a_delete_before_its_post_holds(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), Delete(9, post(9, 1).id), post(9, 1), post(9, 2))
    assert ids(cell, 1) == [post(9, 2).id]


# --- every kind of event has its effect on pages ---


def test_block_mute_and_back(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), Relation(FOLLOW, 9, 1), post(9, 1), post(1, 2))
    both = [post(1, 2).id, post(9, 1).id]
    assert ids(cell, 1) == both and ids(cell, 9) == both
    give(world, cell, Relation(BLOCK, 1, 9))
    assert ids(cell, 1) == [post(1, 2).id], "the blocker does not see the blocked"
    assert ids(cell, 9) == [post(9, 1).id], "nor the blocked the blocker"
    give(world, cell, Relation(UNBLOCK, 1, 9), Relation(MUTE, 9, 1))
    assert ids(cell, 1) == both and ids(cell, 9) == [post(9, 1).id]
    give(world, cell, Relation(UNMUTE, 9, 1))
    assert ids(cell, 9) == both


def test_follow_backfills_at_most_a_hundred_and_later_posts_come(world: World, cell: Cell) -> None:
    give(world, cell, *[post(9, number) for number in range(130)], Relation(FOLLOW, 1, 9))
    assert ids(cell, 1) == [post(9, number).id for number in reversed(range(30, 130))]
    give(world, cell, post(9, 150))
    assert ids(cell, 1)[0] == post(9, 150).id


def test_backfill_within_one_batch_sees_its_posts_and_deletes(world: World, cell: Cell) -> None:
    events = [post(9, 1), post(9, 2), Delete(9, post(9, 2).id), Relation(FOLLOW, 1, 9), post(9, 3)]
    give(world, cell, *events)
    assert cell.worker.counts.batches == 1
    assert ids(cell, 1) == [post(9, 3).id, post(9, 1).id]


def test_refollow_backfills_again(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), post(9, 1), Relation(UNFOLLOW, 1, 9), post(9, 2))
    assert ids(cell, 1) == []
    give(world, cell, Relation(FOLLOW, 1, 9))
    assert ids(cell, 1) == [post(9, 2).id, post(9, 1).id]


def test_marker_unread_and_seen(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), *[post(9, number) for number in range(5)])
    assert (page(cell, 1)["unread"], page(cell, 1)["marker"]) == (5, None)
    cell.reader.set_marker(1, post(9, 2).id)
    got = page(cell, 1)
    assert (got["unread"], got["marker"], got["unread_capped"]) == (2, str(post(9, 2).id), False)
    assert [p["seen"] for p in got["posts"]] == [False, False, True, True, True]
    cell.reader.set_marker(1, post(9, 0).id)
    assert page(cell, 1)["marker"] == str(post(9, 2).id), "markers only grow (I7)"
    assert page(cell, 1, cursor=got["next"] or str_cursor(got))["unread"] == 2


def str_cursor(got: dict[str, Any]) -> str:
    last = got["posts"][2]
    return f"v1-{last['id']}-{last['author']}"


def test_unread_is_capped(world: World, cell: Cell) -> None:
    many = limits.UNREAD_MAX + 5
    give(world, cell, Relation(FOLLOW, 1, 9), *[post(9, number) for number in range(many)])
    got = page(cell, 1)
    assert (got["unread"], got["unread_capped"]) == (20, True), "without a marker: the page's"
    cell.reader.set_marker(1, post(9, 1).id)
    got = page(cell, 1)
    assert (got["unread"], got["unread_capped"]) == (limits.UNREAD_MAX, True)
    assert page(cell, 1, cursor=got["next"])["unread"] == limits.UNREAD_MAX
    cell.reader.set_marker(1, post(9, 6).id)
    got = page(cell, 1)
    assert (got["unread"], got["unread_capped"]) == (many - 7, False)


def test_newer_pages_upwards_to_the_top(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), *[post(9, number) for number in range(10)])
    bottom = f"v1-{post(9, 2).id}-9"
    first = page(cell, 1, newer=bottom, limit=4)
    assert [int(p["id"]) for p in first["posts"]] == [post(9, n).id for n in (6, 5, 4, 3)]
    second = page(cell, 1, newer=first["next"], limit=4)
    assert [int(p["id"]) for p in second["posts"]] == [post(9, n).id for n in (9, 8, 7)]
    assert second["next"] is None


# --- holes, floors, and a store that is away ---


def test_a_hole_in_the_offsets_stops_the_worker(cell: Cell) -> None:
    partition = partition_of(9, PARTITIONS)
    with pytest.raises(Precondition, match="hole"):
        cell.worker.apply([Record(partition, 3, START_MS, encode(post(9, 1)))])


def test_events_below_the_position_are_dropped(world: World, cell: Cell) -> None:
    give(world, cell, Relation(FOLLOW, 1, 9), post(9, 1))
    again = read_all(world.log, [0] * PARTITIONS, 10)
    assert cell.worker.apply(again) == len(again)
    assert cell.worker.counts.dropped == len(again) == 2


def test_retention_that_passed_a_cell_is_a_named_error_then_a_gap(world: World) -> None:
    cell = world.open()
    give(world, cell, Relation(FOLLOW, 1, 9), post(9, 1))
    cell.close()
    partition = partition_of(9, PARTITIONS)
    world.append([Timed(now(100), post(9, 100))])
    floors = world.log.begin_offsets()
    floors[partition] = 3
    import topics.log_embedded as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.EmbeddedLog, "begin_offsets", lambda self: floors)
        with pytest.raises(RetentionPassed) as raised:
            world.open()
        assert raised.value.extra["floor"] == {str(partition): 3}
        assert "--accept-gap" in raised.value.message
        cell = open_cell(world.settings, "c1", accept_gap=True)
    assert cell.worker.next_offsets[partition] == 3
    (gap,) = cell.store.gaps()
    assert (gap.first_offset, gap.last_offset, gap.cause) == (2, 2, "retention passed")
    cell.runner._gaps = cell.store.gaps()
    assert page(cell, 1)["gaps"][0]["cause"] == "retention passed"
    cell.close()


def test_a_store_that_fails_once_gets_the_same_batch_again(
    world: World, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.append([Timed(now(1), Relation(FOLLOW, 1, 9)), Timed(now(2), post(9, 1))])
    batch = cell.worker.plan(read_all(world.log, cell.worker.next_offsets, 10))

    def fail(facts: Facts) -> None:
        raise Unavailable("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(cell.store, "write_all", fail)
        with pytest.raises(Unavailable):
            cell.worker.finish(batch)
    assert cell.worker.next_offsets == [0] * PARTITIONS
    cell.worker.finish(batch)
    assert ids(cell, 1) == [post(9, 1).id]
    assert sum(cell.worker.next_offsets) == 2


def test_a_store_that_cannot_be_read_in_mid_plan_is_asked_again(
    world: World, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network store may be away for a look-up too; by then the graph has changed already."""
    give(world, cell, post(9, 1), post(8, 2))
    follows = [Relation(FOLLOW, 1, 9), Relation(UNFOLLOW, 1, 9), Relation(FOLLOW, 1, 9)]
    events = [*follows, Relation(FOLLOW, 1, 9), post(9, 3), Relation(FOLLOW, 1, 8)]
    world.append(Timed(now(9 + at), event) for at, event in enumerate(events))
    records = read_all(world.log, cell.worker.next_offsets, 10)
    outbox = cell.store.outbox

    def away(author: int, before: bytes, limit: int) -> list[OutboxEntry]:
        if author == 8:
            raise Unavailable("the network is away")
        return outbox(author, before, limit)

    with monkeypatch.context() as patch:
        patch.setattr(cell.store, "outbox", away)
        for _ in range(2):
            with pytest.raises(Unavailable):
                cell.worker.apply(records)
    apply_all(world, cell)
    oracle, summary = world.oracle(), Summary()
    for user in world.users():
        summary.add(oracle.compare(user, walk(cell, user)))
    assert summary.ok, summary
    assert len(ids(cell, 1)) == 3


def test_a_refollow_that_is_planned_again_keeps_its_backfill(
    world: World, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followed before, and unfollowed and followed again in the batch that is planned twice: the
    graph holds both, the store neither, and its old follow must not count as the current one."""
    give(world, cell, post(9, 1), Relation(FOLLOW, 1, 9), post(8, 2))
    events = [Relation(UNFOLLOW, 1, 9), post(9, 3), Relation(FOLLOW, 1, 9), Relation(FOLLOW, 1, 8)]
    world.append(Timed(now(9 + at), event) for at, event in enumerate(events))
    records = read_all(world.log, cell.worker.next_offsets, 10)
    records.sort(key=lambda record: record.time_ms)
    outbox = cell.store.outbox

    def away(author: int, before: bytes, limit: int) -> list[OutboxEntry]:
        if author == 8:
            raise Unavailable("the network is away")
        return outbox(author, before, limit)

    with monkeypatch.context() as patch:
        patch.setattr(cell.store, "outbox", away)
        with pytest.raises(Unavailable):
            cell.worker.apply(records)
    cell.worker.apply(records)
    toggles = cell.store.toggles_between(1, 9)
    assert toggles[-1].follows and toggles[-1].floor == post(9, 1).id
    assert ids(cell, 1) == [post(9, 3).id, post(8, 2).id, post(9, 1).id]


def test_a_batch_ends_when_its_keys_pass_the_aim(
    world: World, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(world, cell, *[Relation(FOLLOW, reader, 9) for reader in range(100, 150)])
    monkeypatch.setattr(limits, "WORKER_KEYS_AIM", 100)
    world.append(Timed(now(200 + number), post(9, number)) for number in range(10))
    records = read_all(world.log, cell.worker.next_offsets, 100)
    assert cell.worker.apply(records) == 2
    apply_all(world, cell)
    assert len(ids(cell, 100)) == 10
