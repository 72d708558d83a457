"""`unread` is a function of what is visible: not of the page's size, of keys that show nothing, of
how often events came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.churn import START_MS, Mix, Random, Timed, churn
from cells.cell import Cell
from cells.unread import UnreadCounts
from engine import limits
from engine.events import FOLLOW, UNFOLLOW, Delete, Event, Post, Relation
from engine.ids import make_id
from tests.cells.test_verify_replay import apply_all
from tests.worlds import World

READER, GONE, KEPT = 1, 8, 9
MIX = Mix(follow=300, unfollow=250, refollow=120, repeated_id=40, shared_id=40)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def post(author: int, number: int) -> Post:
    return Post(author, make_id(START_MS + number, 0, 0), text=str(number))


def give(world: World, cell: Cell, *events: Event) -> None:
    world.append(Timed(START_MS + 10_000, event) for event in events)
    apply_all(world, cell)


def unread(cell: Cell, reader: int, limit: int) -> tuple[int, bool]:
    cell.reader._unread._known.clear()
    page = json.loads(cell.reader.dashboard(reader, limit=limit))
    return page["unread"], page["unread_capped"]


def bound_by(visible: int, marker: int | None) -> tuple[int, bool]:
    """What docs/http.md says, said again."""
    if marker is None:
        return min(visible, limits.PAGE_POSTS_DEFAULT), visible >= limits.PAGE_POSTS_DEFAULT
    return min(visible, limits.UNREAD_MAX), visible > limits.UNREAD_MAX


@pytest.mark.parametrize("limit", [1, 5, 20, 21, 50, 200])
@pytest.mark.parametrize("visible", [0, 3, 19, 20, 21, 99, 100, 101, 150])
@pytest.mark.parametrize("stale", [0, 40])
def test_neither_the_limit_nor_stale_keys_change_it(
    world: World, visible: int, limit: int, stale: int
) -> None:
    """Without a marker a page of 50 counted 50 keys; hidden ones among them counted as none."""
    cell = world.open()
    give(world, cell, Relation(FOLLOW, READER, GONE), Relation(FOLLOW, READER, KEPT))
    give(world, cell, *[post(KEPT, 1_000 + number) for number in range(visible)])
    hidden = [post(GONE, 1_005 + 3 * number) for number in range(stale)]
    deleted = [post(KEPT, 5_000 + number) for number in range(stale)]
    give(world, cell, *hidden, *deleted, Relation(UNFOLLOW, READER, GONE))
    give(world, cell, *[Delete(KEPT, each.id) for each in deleted])
    assert unread(cell, READER, limit) == bound_by(visible, None)
    cell.reader.set_marker(READER, post(KEPT, 1_000).id - 1)
    assert unread(cell, READER, limit) == bound_by(visible, 1)
    cell.close()


@pytest.mark.parametrize("seed", range(2))
def test_it_is_what_the_oracle_sees_and_stays_so_when_events_come_again(
    seed: int, world: World
) -> None:
    random = Random(seed)
    world.append(churn(seed, count=900, users=14, mix=MIX))
    cell = world.open()
    apply_all(world, cell)
    oracle, users = world.oracle(), world.users()
    marked: dict[int, int | None] = {}
    for user in users:
        lines = oracle.visible(user)
        marked[user] = None
        if lines and random.below(2):
            marked[user] = lines[random.below(len(lines))][0]
            cell.reader.set_marker(user, marked[user] or 0)
    for _ in range(2):
        for user in users:
            newer = [p for p, _ in oracle.visible(user) if p > (marked[user] or -1)]
            for limit in (1, 7, 50, 200):
                assert unread(cell, user, limit) == bound_by(len(newer), marked[user])
        start = {p: (random.below(at + 1), 0) for p, at in enumerate(cell.worker.next_offsets)}
        cell.store.write_positions(start)
        cell.close()
        cell = world.open()
        apply_all(world, cell)
    assert any(marked.values()) and None in marked.values()
    cell.close()


def test_a_first_page_that_shows_all_it_looked_at_reads_nothing_more_for_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = world.open()
    give(world, cell, Relation(FOLLOW, READER, KEPT), *[post(KEPT, n) for n in range(60)])
    monkeypatch.setattr(UnreadCounts, "_count", None)
    for limit in (20, 50):
        assert unread(cell, READER, limit) == (20, True)
    cell.reader.set_marker(READER, post(KEPT, 45).id)
    assert unread(cell, READER, 20) == (14, False)
    cell.close()


def test_looking_in_vain_has_a_bound_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_SCAN_KEYS_MAX", 100)
    cell = world.open()
    give(world, cell, Relation(FOLLOW, READER, KEPT), Relation(FOLLOW, READER, GONE))
    give(world, cell, *[post(KEPT, n) for n in range(3)], *[post(GONE, n) for n in range(3, 300)])
    give(world, cell, Relation(UNFOLLOW, READER, GONE))
    looked = 0
    older = cell.reader._unread._older

    def counting(reader: int, before: bytes, limit: int) -> bytes:
        nonlocal looked
        looked += limit
        return older(reader, before, limit)

    cell.reader._unread._older = counting
    assert unread(cell, READER, 20) == (0, True)
    assert looked <= limits.PAGE_SCAN_KEYS_MAX + 3
    cell.close()
