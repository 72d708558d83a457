"""Author intervals against the oracle, which knows nothing of them: a page is the same whether its
posts were pushed or pulled (I5), after crashes between any two steps, and when spans come again.

The bounds are tiny, so authors are pulled and pushed again often. In process and seeded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.churn import START_MS, Mix, Random, Timed, churn
from bench.oracle import Oracle
from cells.cell import Cell
from engine import limits
from engine.events import FOLLOW, UNFOLLOW, Delete, Event, Post, Relation
from engine.ids import make_id
from engine.keys import parse_inbox_keys
from engine.materialize import OPEN
from engine.ports import AuthorInterval
from tests.sim.test_cell_against_oracle import (
    STEPS,
    apply_with_crashes,
    check_texts,
    compare,
)
from tests.worlds import World, read_all, walk

FEW = 14  # users: authors pass the bounds to and fro
BUSY = Mix(
    follow=300, unfollow=250, refollow=120, old_id=60, repeated_id=40, shared_id=40, pause=1
)
Lines = list[tuple[int, int]]


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few keys take the path of sorted runs too; outboxes are read in small steps."""
    monkeypatch.setattr(limits, "RUN_KEYS_MIN", 40)
    monkeypatch.setattr(limits, "PULL_CHUNK_ENTRIES", 2)
    monkeypatch.setattr(limits, "PULL_SKIPPED_MAX", 3)
    monkeypatch.setattr(limits, "PULL_HEAD_ENTRIES", 5)


def apply_all(world: World, cell: Cell, count: int = 50) -> None:
    while records := read_all(world.log, cell.worker.next_offsets, count):
        while records:
            records = records[cell.worker.apply(records) :]


def walk_up(cell: Cell, reader: int, limit: int) -> Lines:
    """The dashboard by `newer=`, from behind the oldest, turned around."""
    lines: Lines = []
    cursor = f"v1-0-{limits.U64_MAX}"
    while True:
        page = json.loads(cell.reader.dashboard(reader, limit=limit, newer=cursor))
        found = [(int(post["id"]), int(post["author"])) for post in page["posts"]]
        lines = found + lines
        if page["next"] is None:
            return lines
        cursor = page["next"]


def check_unread(cell: Cell, oracle: Oracle, reader: int, marker: int) -> None:
    """With a marker in the middle, what is newer is counted."""
    cell.reader.set_marker(reader, marker)
    in_force = json.loads(cell.reader.set_marker(reader, 0))["marker"]
    page = json.loads(cell.reader.dashboard(reader, limit=3))
    newer = sum(post > int(in_force) for post, _ in oracle.visible(reader))
    stale = cell.store.inbox_older(reader, b"", limits.UNREAD_MAX + 2)
    if len(stale) <= limits.UNREAD_MAX * 24:  # else the count may stop before the marker
        assert page["unread"] == min(newer, limits.UNREAD_MAX)


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def lines_of(cell: Cell, users: list[int]) -> list[Lines]:
    """What each of them sees, whatever the pages' ends: those depend on keys that never show."""
    return [[line for page in walk(cell, user, 7) for line in page] for user in users]


def decided(world: World, name: str) -> list[AuthorInterval]:
    cell = world.open(name)
    intervals = cell.decisions.intervals()
    cell.close()
    return intervals


@pytest.mark.parametrize("seed", range(6))
def test_pulled_pages_are_what_the_oracle_says_after_crashes_restart(
    seed: int, tmp_path: Path
) -> None:
    random = Random(seed)
    bound = 1 + seed % 3
    world, calm = (
        World(make_folder(tmp_path / name), {"c1": 1, "c2": 2}, push_followers_max=bound)
        for name in ("crashing", "calm")
    )
    steps = ("decided", *STEPS)
    try:
        for each in (world, calm):
            each.append(churn(seed, count=1_000, users=FEW, mix=BUSY))
        fired = [s for n in ("c1", "c2") for s in apply_with_crashes(world, n, random, steps)]
        assert fired, "no crash happened: the run proves nothing"
        oracle = world.oracle()
        limit = 3 + random.below(5)
        found: list[AuthorInterval] = []
        for name in ("c1", "c2"):
            quiet = calm.open(name)
            apply_all(calm, quiet)
            quiet.close()
            intervals = decided(world, name)
            assert intervals == decided(calm, name), "crashes and batches change no decision (I2)"
            found += intervals
            cell = world.open(name)
            summary = compare(cell, oracle, world.users(), limit)
            check_texts(cell, oracle, world.users())
            assert summary.ok, f"seed {seed}, cell {name}: {summary}"
            for user in world.users():
                if cell.directory.home(user) == name:
                    visible = oracle.visible(user)
                    assert walk_up(cell, user, limit) == visible
                    if visible:
                        check_unread(cell, oracle, user, visible[len(visible) // 2][0])
            cell.close()
        assert len(found) > 5 and any(each.to_offset != OPEN for each in found)
        assert sum(len(pulled_lines(world, name)) for name in ("c1", "c2")) > 0
    finally:
        world.close()
        calm.close()


def pulled_lines(world: World, name: str) -> set[tuple[int, int, int]]:
    """(reader, post, author) that pages show though no key of theirs is stored: pulled."""
    cell = world.open(name)
    shown = set()
    for user in world.users():
        if cell.directory.home(user) == name:
            raw = cell.store.inbox_older(user, b"", 10_000)
            stored = set(zip(*(each.tolist() for each in parse_inbox_keys(raw)), strict=True))
            every = {(user, *line) for page in walk(cell, user) for line in page}
            shown |= every - stored
    cell.close()
    return shown


@pytest.mark.parametrize("seed", range(3))
def test_spans_that_come_again_change_no_page_and_no_decision(seed: int, tmp_path: Path) -> None:
    """Positions put back at random, twice: below what was applied the record decides, never today's
    number of followers."""
    world = World(tmp_path, push_followers_max=2)
    try:
        world.append(churn(seed + 200, count=900, users=FEW, mix=BUSY))
        cell = world.open()
        users = world.users()
        apply_all(world, cell)
        before = lines_of(cell, users)
        intervals = cell.decisions.intervals()
        assert len(intervals) > 5
        end = list(cell.worker.next_offsets)
        random = Random(seed)
        for _ in range(2):
            start = {p: (random.below(offset + 1), 0) for p, offset in enumerate(end)}
            cell.store.write_positions(start)
            cell.close()
            cell = world.open()
            apply_all(world, cell, 70)
            assert lines_of(cell, users) == before
            assert cell.decisions.intervals() == intervals
        cell.close()
    finally:
        world.close()


# --- long walks ---


def second(number: int) -> int:
    return START_MS + number * 1_000


def feed_of_three(posts: int) -> Iterator[Timed]:
    """Readers 1..5 follow 7 and 8 (pulled at a bound of 4) and 9 (pushed, two followers); 6 follows
    7 and 8 only at the end. 7 deletes each tenth post; now and then an old post is imported."""
    at = 0

    def then(event: Event) -> Timed:
        nonlocal at
        at += 1
        return Timed(second(at - at % 40 + 40), event)  # some share a commit: the test is short

    for reader in (1, 2, 3, 4, 5):
        for author in (7, 8, 9) if reader < 3 else (7, 8):
            yield then(Relation(FOLLOW, reader, author))
    for number in range(posts):
        author = (7, 8, 9)[number % 3]
        post = make_id(second(at + 1), 0, number % 4_000)
        yield then(Post(author, post, text=f"{number}"))
        if number % 30 == 0:
            yield then(Delete(7, post))
        if number % 50 == 0:
            yield then(Post(8, make_id(second(at) - 86_400_000, 1, number % 4_000)))
    for author in (7, 8):
        yield then(Relation(FOLLOW, 6, author))


def test_hundreds_of_pages_with_pulled_authors(tmp_path: Path) -> None:
    world = World(tmp_path, push_followers_max=4)
    try:
        world.append(feed_of_three(6_500))
        cell = world.open()
        apply_all(world, cell, 500)
        open_now = {each.author for each in cell.decisions.intervals() if each.to_offset == OPEN}
        assert open_now == {7, 8}
        oracle = world.oracle()
        pages = walk(cell, 1, 20)
        assert len(pages) > 300
        assert oracle.compare(1, pages).ok
        assert walk_up(cell, 1, 200) == oracle.visible(1)
        for reader in (2, 3, 6):
            assert oracle.compare(reader, walk(cell, reader, 50)).ok
        saved = cell.runner.stats()["inbox_keys_saved_total"]
        assert saved > 5 * 6_500 * 0.6, "two thirds of the posts had five followers each"
        cell.close()
    finally:
        world.close()


def test_a_new_follower_of_a_pulled_author_costs_no_walk_through_years(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The floor, and the order of ids, end the look into the outbox (I12)."""
    monkeypatch.setattr(limits, "PULL_CHUNK_ENTRIES", 8)
    world = World(tmp_path, push_followers_max=4)
    try:
        world.append(feed_of_three(6_500))
        cell = world.open()
        apply_all(world, cell, 500)
        looked = 0
        outbox = cell.store.outbox

        def counting(author: int, before: bytes, limit: int):  # type: ignore[no-untyped-def]
            nonlocal looked
            entries = outbox(author, before, limit)
            looked += len(entries)
            return entries

        monkeypatch.setattr(cell.store, "outbox", counting)
        shown = [line for page in walk(cell, 6, 50) for line in page]
        assert shown == world.oracle().visible(6) and len(shown) == 200
        pages = len(walk(cell, 6, 50))
        assert looked < 2 * pages * 2 * 400, "some hundreds of entries a page and author"
        cell.close()
    finally:
        world.close()


def test_unfollowed_and_followed_again_inside_an_interval(tmp_path: Path) -> None:
    world = World(tmp_path, push_followers_max=1)
    nine = 9
    try:
        events: list[Event] = [Relation(FOLLOW, reader, nine) for reader in (1, 2, 3)]
        events += [Post(nine, make_id(second(n), 0, n)) for n in range(3, 160)]
        events += [Relation(UNFOLLOW, 1, nine)]
        events += [Post(nine, make_id(second(n), 0, n)) for n in range(161, 170)]
        world.append(Timed(second(n), event) for n, event in enumerate(events))
        cell = world.open()
        apply_all(world, cell)
        assert walk(cell, 1, 20) == [[]]
        world.append([Timed(second(200), Relation(FOLLOW, 1, nine))])
        apply_all(world, cell)
        assert world.oracle().compare(1, walk(cell, 1, 20)).ok
        assert sum(map(len, walk(cell, 1, 20))) == limits.BACKFILL_POSTS_MAX
        assert sum(map(len, walk(cell, 2, 20))) == 166
        cell.close()
    finally:
        world.close()
