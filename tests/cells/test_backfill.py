"""Outboxes in the middle of a batch: store and batch together say what one list of facts says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cells.backfill
import engine.timeline
from cells.backfill import BatchOutbox, OutboxHeads
from engine import limits
from engine.ids import id_at, id_ms
from engine.keys import outbox_key, parse_inbox_key, parse_post_key, post_key
from engine.limits import BACKFILL_AGE_MS_MAX, BACKFILL_POSTS_MAX, FLOOR_NONE, OUTBOX_SCAN_KEYS
from engine.ports import OutboxEntry, PostRow
from engine.timeline import backfill
from tests.strategies import looks

NOW = 1_800_000_000_000
OLDEST = id_at(NOW - BACKFILL_AGE_MS_MAX)
AUTHOR, OTHER = 7, 8
POST, DELETE = "post", "delete"


class FakeStore:
    """A cell's posts and outboxes, folded from facts (kind, author, post); offset = place."""

    def __init__(self, facts=()):
        self.rows: dict[tuple[int, int], PostRow] = {}
        self.scans: list[int] = []
        for offset, (kind, author, post) in enumerate(facts):
            row = self.rows.get((author, post), PostRow(-1, 0, b"", -1, 0, b"", -1))
            if kind == POST and row.offset < 0:
                row = row._replace(offset=offset)
            elif kind == DELETE and row.delete_offset < 0:
                row = row._replace(delete_offset=offset)
            self.rows[(author, post)] = row

    def post_rows(self, keys):
        asked = [parse_post_key(key) for key in keys]
        return [self.rows.get((author, post)) for post, author in asked]

    def outbox(self, author, before, limit):
        self.scans.append(limit)
        below = parse_inbox_key(before)[1] if before else 2**64
        if before:
            assert before == outbox_key(author, below)
        entries = [
            OutboxEntry(post, row.offset, row.delete_offset)
            for (who, post), row in self.rows.items()
            if who == author and row.offset >= 0 and post < below
        ]
        return sorted(entries, reverse=True)[:limit]


def feed(outbox, facts, first):
    """What the worker tells of a batch's facts, the first of which is at offset `first`."""
    for offset, (kind, author, post) in enumerate(facts, start=first):
        if kind == POST:
            outbox.post(author, post, offset)
        else:
            outbox.delete(post_key(post, author), offset)


def by_definition(facts, author, follow_offset, most):
    """From the facts alone: what a follow at `follow_offset` copies, and its floor."""
    before = facts[:follow_offset]
    posted = {post for kind, who, post in before if kind == POST and who == author}
    deleted = {post for kind, who, post in before if kind == DELETE and who == author}
    young = {post for post in posted if id_ms(post) >= NOW - BACKFILL_AGE_MS_MAX}
    highest = sorted(young - deleted, reverse=True)[:most]
    return highest, highest[-1] if highest else FLOOR_NONE


all_facts = st.lists(
    st.tuples(
        st.sampled_from([POST, POST, POST, DELETE]),
        st.sampled_from([AUTHOR, AUTHOR, AUTHOR, OTHER]),
        st.integers(-2, 12).map(lambda near: OLDEST + near),
    ),
    max_size=40,
)


@looks(300)
@given(all_facts, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.data())
def test_backfill_is_what_the_facts_say_fuzz(facts, one, two, three, data):
    """The batch begins at or before what the store has (a replay, a crash), and the store may
    even be ahead of the follow. Small bounds, so that scans and the cap come into play."""
    first, follow = sorted((min(one, len(facts)), min(two, len(facts))))
    stored = max(first, min(three, len(facts)))
    most, scan = data.draw(st.sampled_from([(1, 1), (2, 3), (3, 2), (4, 100)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells.backfill, "BACKFILL_POSTS_MAX", most)
        patch.setattr(cells.backfill, "OUTBOX_SCAN_KEYS", scan)
        patch.setattr(engine.timeline, "BACKFILL_POSTS_MAX", most)
        outbox = BatchOutbox(FakeStore(facts[:stored]))
        looked_at = data.draw(st.integers(first, follow))  # an earlier follow of the same batch
        feed(outbox, facts[first:looked_at], first)
        expected = by_definition(facts, AUTHOR, looked_at, most)
        assert backfill(outbox.entries(AUTHOR), looked_at, NOW) == expected
        feed(outbox, facts[looked_at:follow], looked_at)
        for author in (AUTHOR, OTHER):
            for _ in range(2):  # asking changes nothing
                found = backfill(outbox.entries(author), follow, NOW)
                assert found == by_definition(facts, author, follow, most)


@looks(150)
@given(all_facts, st.integers(0, 40), st.integers(0, 40))
def test_entries_are_the_whole_outbox_each_id_once_fuzz(facts, one, two):
    """All that was posted up to now, newest first, with lowest offsets of post and delete."""
    first, stored = sorted((min(one, len(facts)), min(two, len(facts))))
    outbox = BatchOutbox(FakeStore(facts[:stored]))
    feed(outbox, facts[first:], first)
    whole = FakeStore(facts)
    for author in (AUTHOR, OTHER, 99):
        assert list(outbox.entries(author)) == whole.outbox(author, b"", 1_000)


# --- one by one ---


def ids(count):
    """`count` post ids, newest first."""
    return [id_at(NOW) - number for number in range(count)]


def test_nobody_posted():
    outbox = BatchOutbox(FakeStore())
    assert list(outbox.entries(AUTHOR)) == []


def test_posts_of_the_store_and_of_the_batch_interleave():
    posts = ids(6)
    store = FakeStore([(POST, AUTHOR, post) for post in posts[::2]])
    outbox = BatchOutbox(store)
    feed(outbox, [(POST, AUTHOR, post) for post in posts[1::2]], 3)
    assert [entry.post for entry in outbox.entries(AUTHOR)] == posts


def test_a_repeated_id_keeps_its_lowest_offset():
    (post,) = ids(1)
    outbox = BatchOutbox(FakeStore([(POST, AUTHOR, post)]))
    feed(outbox, [(POST, AUTHOR, post), (POST, AUTHOR, post)], 5)
    assert list(outbox.entries(AUTHOR)) == [OutboxEntry(post, 0, -1)]
    fresh = BatchOutbox(FakeStore())
    feed(fresh, [(POST, AUTHOR, post), (POST, AUTHOR, post)], 5)
    assert list(fresh.entries(AUTHOR)) == [OutboxEntry(post, 5, -1)]


def test_the_same_id_of_two_authors_is_two_posts():
    (post,) = ids(1)
    outbox = BatchOutbox(FakeStore([(POST, OTHER, post)]))
    feed(outbox, [(POST, AUTHOR, post), (DELETE, OTHER, post)], 5)
    assert list(outbox.entries(AUTHOR)) == [OutboxEntry(post, 5, -1)]
    assert list(outbox.entries(OTHER)) == [OutboxEntry(post, 0, 6)]


def test_delete_of_the_batch_marks_posts_of_the_store_and_of_the_batch():
    old, new = reversed(ids(2))
    outbox = BatchOutbox(FakeStore([(POST, AUTHOR, old)]))
    feed(outbox, [(POST, AUTHOR, new), (DELETE, AUTHOR, old), (DELETE, AUTHOR, new)], 1)
    assert list(outbox.entries(AUTHOR)) == [OutboxEntry(new, 1, 3), OutboxEntry(old, 0, 2)]
    assert backfill(outbox.entries(AUTHOR), 4, NOW) == ([], FLOOR_NONE)


def test_the_lowest_delete_counts():
    (post,) = ids(1)
    outbox = BatchOutbox(FakeStore([(POST, AUTHOR, post), (DELETE, AUTHOR, post)]))
    feed(outbox, [(DELETE, AUTHOR, post), (DELETE, AUTHOR, post)], 7)
    assert list(outbox.entries(AUTHOR)) == [OutboxEntry(post, 0, 1)]
    fresh = BatchOutbox(FakeStore([(POST, AUTHOR, post)]))
    feed(fresh, [(DELETE, AUTHOR, post), (DELETE, AUTHOR, post)], 7)
    assert list(fresh.entries(AUTHOR)) == [OutboxEntry(post, 0, 7)]


@pytest.mark.parametrize("in_store", [True, False])
def test_delete_before_its_post(in_store):
    """Deleted is order-free: it never shows, in whichever of the two the delete lies."""
    (post,) = ids(1)
    facts = [(DELETE, AUTHOR, post), (POST, AUTHOR, post)]
    outbox = BatchOutbox(FakeStore(facts[:1] if in_store else []))
    feed(outbox, facts[1:] if in_store else facts, 1 if in_store else 0)
    assert list(outbox.entries(AUTHOR)) == [OutboxEntry(post, 1, 0)]
    assert backfill(outbox.entries(AUTHOR), 2, NOW) == ([], FLOOR_NONE)


def test_a_replayed_delete_behind_the_follow_does_not_hide():
    """The store has the delete already; at the follow's own offset the post was alive."""
    (post,) = ids(1)
    facts = [(POST, AUTHOR, post), ("follow", 1, 1), (DELETE, AUTHOR, post)]
    store = FakeStore([facts[0], (POST, OTHER, post), facts[2]])
    outbox = BatchOutbox(store)
    feed(outbox, facts[:1], 0)
    assert backfill(outbox.entries(AUTHOR), 1, NOW) == ([post], post)


# --- bounds ---


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 1_099, 1_100, 1_101, 2_345])
def test_every_entry_whatever_the_scans_bounds(count):
    posts = ids(count)
    store = FakeStore([(POST, AUTHOR, post) for post in posts])
    outbox = BatchOutbox(store)
    assert [entry.post for entry in outbox.entries(AUTHOR)] == posts
    assert store.scans[0] == BACKFILL_POSTS_MAX
    assert set(store.scans[1:]) <= {OUTBOX_SCAN_KEYS}


def test_one_short_scan_is_enough_for_the_usual_follow():
    posts = ids(2_000)
    store = FakeStore([(POST, AUTHOR, post) for post in posts])
    outbox = BatchOutbox(store)
    for _ in range(50):  # of one batch: everybody follows a star; each cost a long scan
        assert backfill(outbox.entries(AUTHOR), 2_000, NOW) == (posts[:100], posts[99])
    assert store.scans == [BACKFILL_POSTS_MAX]


def test_the_cap_counts_the_batchs_own_posts():
    posts = ids(150)
    store = FakeStore([(POST, AUTHOR, post) for post in posts[60:]])
    outbox = BatchOutbox(store)
    feed(outbox, [(POST, AUTHOR, post) for post in posts[:60]], 90)
    assert backfill(outbox.entries(AUTHOR), 150, NOW) == (posts[:100], posts[99])
    feed(outbox, [(DELETE, AUTHOR, post) for post in posts[:10]], 150)
    assert backfill(outbox.entries(AUTHOR), 160, NOW) == (posts[10:110], posts[109])


# --- heads: kept from batch to batch, asked for many at once ---


class ManyStore(FakeStore):
    """Counts how often it is asked for how many."""

    def __init__(self, facts=()):
        super().__init__(facts)
        self.asked: list[int] = []

    def outboxes(self, authors, limit):
        self.asked.append(len(authors))
        return [FakeStore.outbox(self, author, b"", limit) for author in authors]


def test_what_comes_is_asked_for_together(monkeypatch):
    monkeypatch.setattr(limits, "OUTBOX_AHEAD_AUTHORS", 4)
    (post,) = ids(1)
    store = ManyStore([(POST, 3, post)])
    heads = OutboxHeads(store)
    followed = [1, 2, 2, 3, 1, 4, 5, 6]
    heads.expect(followed)
    assert [len(heads.of(author)) for author in followed] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert store.asked == [4, 2]
    heads.expect([6, 5, 4, 9])
    assert heads.of(9) == [] and store.asked == [4, 2]  # all others are known; one is a scan


def test_a_head_is_forgotten_when_its_author_posts():
    old, new = ids(2)[::-1]
    store = FakeStore([(POST, AUTHOR, old)])
    heads = OutboxHeads(store)
    assert [entry.post for entry in BatchOutbox(store, heads).entries(AUTHOR)] == [old]
    store.rows[(AUTHOR, new)] = PostRow(1, 0, b"", -1, 0, b"", -1)
    heads.forget(AUTHOR)
    heads.forget(OTHER)
    assert [entry.post for entry in BatchOutbox(store, heads).entries(AUTHOR)] == [new, old]


def test_heads_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "OUTBOX_HEADS_ENTRIES_MAX", 5)
    posts = ids(3)
    store = FakeStore([(POST, author, post) for author in range(9) for post in posts])
    heads = OutboxHeads(store)
    for author in range(9):
        assert len(heads.of(author)) == 3
        assert heads._entries == 3 * len(heads._heads) <= 5 + 3
