"""Author intervals in a cell: when they open and close, what is durable before what, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.churn import START_MS, Timed
from cells import intervals as intervals_module
from cells.decisions import EmbeddedDecisions
from engine.errors import Unavailable
from engine.events import BLOCK, FOLLOW, MUTE, UNFOLLOW, Delete, Event, Post, Relation
from engine.ids import make_id
from engine.keys import parse_inbox_keys
from engine.materialize import OPEN
from engine.ports import AuthorInterval
from tests.worlds import World, read_all, walk

NINE = 9
BOUND = 10


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, push_followers_max=BOUND)
    yield made
    made.close()


class Life:
    """Events a second apart; each call is applied at once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cell = world.open()
        self.posts: list[int] = []
        self._at = 0

    def give(self, *events: Event) -> None:
        self.append(*events)
        self.apply()

    def append(self, *events: Event) -> None:
        for event in events:
            self._at += 1
            self.world.append([Timed(START_MS + self._at * 1_000, event)])

    def apply(self) -> None:
        while records := read_all(self.world.log, self.cell.worker.next_offsets, 500):
            while records:
                records = records[self.cell.worker.apply(records) :]

    def new_post(self, late_s: int = 0, author: int = NINE) -> Post:
        made = Post(author, make_id(START_MS + (self._at + 1 - late_s) * 1_000, 0, self._at))
        self.posts.append(made.id)
        return made

    def post(self, late_s: int = 0) -> None:
        self.give(self.new_post(late_s))

    def follow(self, readers: Sequence[int]) -> None:
        self.give(*[Relation(FOLLOW, reader, NINE) for reader in readers])

    def unfollow(self, readers: Sequence[int]) -> None:
        self.give(*[Relation(UNFOLLOW, reader, NINE) for reader in readers])

    def restart(self) -> None:
        self.cell.close()
        self.cell = self.world.open()

    def stored(self, reader: int) -> list[int]:
        posts = parse_inbox_keys(self.cell.store.inbox_older(reader, b"", 1_000))[1]
        return [self.posts.index(post) for post in posts.tolist()]

    def shown(self, reader: int) -> list[int]:
        return [self.posts.index(post) for page in walk(self.cell, reader, 3) for post, _ in page]

    def explained(self) -> dict[str, Any]:
        return self.cell.worker.explain_author(NINE)

    @property
    def intervals(self) -> list[AuthorInterval]:
        return self.cell.decisions.intervals()


@pytest.fixture
def life(world: World) -> Iterator[Life]:
    made = Life(world)
    yield made
    made.cell.close()


def test_opens_above_the_bound_and_closes_below_four_fifths(life: Life) -> None:
    life.follow(range(100, 100 + BOUND))
    life.post()
    assert life.intervals == [] and life.explained()["now"] == "pushed"
    life.follow([200])
    assert life.intervals == [], "decided with a post, not with a follow"
    assert "next post begins it" in life.explained()["why"]
    life.post()
    (opened,) = life.intervals
    assert (opened.from_followers, opened.to_offset) == (BOUND + 1, OPEN)
    life.unfollow(range(100, 103))  # 8 are left: not below four fifths
    life.post()
    assert life.intervals == [opened]
    life.unfollow([103])
    life.post()
    (closed,) = life.intervals
    assert closed.to_offset == opened.from_offset + 6 and closed.to_followers == 7
    assert life.stored(200) == [3, 0] and life.shown(200) == [3, 2, 1, 0]
    assert life.stored(NINE) == [3, 2, 1, 0], "the author's own keys are always there"
    life.follow([103, 100, 101])
    life.post()
    assert len(life.intervals) == 1, "10 are not above 10"
    life.follow([102])
    life.post()
    assert [each.to_offset for each in life.intervals] == [closed.to_offset, OPEN]
    assert life.shown(200) == [5, 4, 3, 2, 1, 0] and life.stored(200) == [4, 3, 0]
    assert life.shown(103) == [5, 4, 3, 2, 1, 0], "the backfill reached them"


def test_a_restart_knows_what_was_decided_restart(life: Life) -> None:
    life.follow(range(100, 120))
    life.post()
    before = life.intervals
    life.restart()
    assert life.cell.runner.stats()["pulled_authors"] == 1
    life.post()
    assert life.intervals == before
    assert life.stored(100) == [] and life.shown(100) == [1, 0]


def test_late_posts_are_pushed_inside_an_interval(life: Life) -> None:
    life.follow(range(100, 120))
    life.post()
    life.post(late_s=61)
    life.post(late_s=59)
    life.post(late_s=86_400)
    assert sorted(life.stored(100)) == [1, 3]
    assert life.shown(100) == [0, 2, 1, 3]


def test_the_decision_is_durable_before_anything_rests_on_it(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, I3: rows and position wait for it; after Unavailable the same batch goes on."""
    life.follow(range(100, 120))
    life.append(life.new_post())
    at = list(life.cell.worker.next_offsets)
    batch = life.cell.worker.plan(read_all(life.world.log, at, 10))

    def fail(self: EmbeddedDecisions, intervals: Sequence[AuthorInterval]) -> None:
        raise Unavailable("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedDecisions, "record", fail)
        with pytest.raises(Unavailable):
            life.cell.worker.finish(batch)
    assert life.intervals == [] and life.cell.worker.next_offsets == at
    assert life.cell.store.outbox(NINE, b"", 5) == []
    life.cell.worker.finish(batch)
    assert len(life.intervals) == 1 and life.shown(100) == [0]


def test_crash_behind_the_decision_decides_the_same_again_restart(life: Life) -> None:
    class Crash(Exception):
        pass

    def crash(step: str) -> None:
        if step == "decided":
            raise Crash

    life.follow(range(100, 120))
    life.append(life.new_post())
    life.cell.worker.crash = crash
    with pytest.raises(Crash):
        life.apply()
    before = life.intervals
    assert len(before) == 1 and life.cell.store.outbox(NINE, b"", 5) == []
    life.restart()
    life.apply()
    assert life.intervals == before and life.shown(100) == [0] and life.stored(100) == []


def test_a_higher_setting_ends_it_with_the_next_post_and_old_posts_stay_pulled_restart(
    life: Life,
) -> None:
    life.follow(range(100, 120))
    life.post()
    life.cell.close()
    settings = life.world.settings
    wide = replace(settings.cells["c1"], push_followers_max=1_000)
    life.world.settings = replace(settings, cells={"c1": wide})
    life.cell = life.world.open()
    assert "few enough now" in life.explained()["why"] and life.shown(100) == [0]
    life.post()
    assert [each.to_followers for each in life.intervals] == [20]
    assert life.stored(100) == [1] and life.shown(100) == [1, 0]
    assert life.explained()["intervals"][0]["push_followers_max"] == BOUND


def test_so_many_authors_are_pulled_and_no_more(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page looks at all of them, so they are bounded (I12)."""
    monkeypatch.setattr(intervals_module, "PULLED_AUTHORS_MAX", 1)
    for author in (NINE, 8):
        life.give(*[Relation(FOLLOW, reader, author) for reader in range(100, 120)])
        life.give(life.new_post(author=author))
    assert [each.author for each in life.intervals] == [NINE]
    assert life.stored(100) == [1] and life.shown(100) == [1, 0]
    assert "no more are" in life.cell.worker.explain_author(8)["why"]


def test_explain_and_numbers(life: Life) -> None:
    assert life.explained()["why"] == "has no more than 10 followers here"
    life.follow(range(100, 120))
    life.post()
    life.post()
    found = life.explained()
    assert (found["now"], found["followers"], found["saved_inbox_writes"]) == ("pulled", 20, 40)
    assert (found["saved_per_post"], found["push_followers_max"]) == (20, BOUND)
    assert found["intervals"][0]["from"] == "2026-01-01T00:00:21.000Z"
    assert json.dumps(found)
    numbers = life.cell.runner.stats()
    assert (numbers["pulled_authors"], numbers["inbox_keys_saved_total"]) == (1, 40)
    life.unfollow(range(100, 120))
    life.post()
    assert life.explained()["why"] == "was pulled until 0 followers were left"
    assert life.explained()["saved_per_post"] == 0


def test_block_and_mute_hide_pulled_posts(life: Life) -> None:
    life.follow(range(100, 120))
    life.post()
    life.give(Relation(MUTE, 100, NINE), Relation(BLOCK, NINE, 101))
    assert [life.shown(reader) for reader in (100, 101, 102)] == [[], [], [0]]


def test_ids_out_of_order_around_a_follow_are_all_found(life: Life) -> None:
    """A post from before the follow does not end the look while lower ids may come from behind it:
    the first was 50 s ahead of its time, and deleted before the follow: there is no floor."""
    life.follow(range(101, 121))
    life.post(late_s=-50)
    life.give(Delete(NINE, life.posts[0]))
    life.follow([100])
    for late_s in (0, 40, 20):
        life.post(late_s)
    assert life.posts[0] > max(life.posts[1:])
    assert life.shown(100) == [1, 3, 2] and life.stored(100) == []
    page = json.loads(life.cell.reader.dashboard(100, limit=5, newer="v1-0-0"))
    assert [life.posts.index(int(post["id"])) for post in page["posts"]] == [1, 3, 2]


def test_what_is_kept_of_an_outbox_is_never_older_than_the_store(life: Life) -> None:
    """A page between a write and its note may read the copy before; the one behind may not."""
    life.follow(range(100, 120))
    for number in range(70):
        life.post()
        assert life.shown(100)[0] == number
    life.give(Delete(NINE, life.posts[69]))
    assert life.shown(100) == list(range(68, -1, -1))
    repeated = Post(NINE, life.posts[10], text="again")
    life.give(repeated, life.new_post())
    assert life.shown(100)[:2] == [70, 68] and len(life.shown(100)) == 70
