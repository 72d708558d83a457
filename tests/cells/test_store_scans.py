"""Walks over whole tables, on every store: each step takes up where the last one ended. And what
maintenance asks of a store beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cells.store_embedded import EmbeddedStore
from cells.store_hbase import HBaseStore
from engine.homing import HomeRange
from engine.keys import inbox_keys, outbox_key, post_key, relation_key
from engine.ports import Facts, Gap, Record, Store
from tests.hbase_backend import empty_cell

_ALL = HomeRange()


def opened(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder, identity="f", partitions=2, cell="c", home=_ALL)


@pytest.fixture(params=["embedded", pytest.param("hbase", marks=pytest.mark.real)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "embedded":
        with closing(opened(tmp_path)) as embedded:
            yield embedded
        return
    with (
        empty_cell() as url,
        closing(
            HBaseStore.open(url, identity="f", partitions=2, cell="c", home=_ALL)
        ) as hbase,
    ):
        yield hbase


def test_walks_in_steps_meet_every_row_once(store: Store) -> None:
    u64 = np.uint64
    keys = inbox_keys(np.array([1, 1, 7], u64), np.array([9, 3, 5], u64), np.array([4, 4, 4], u64))
    posts = [(post_key(post, 4), 10 + post, 1_000, b"x") for post in (9, 5, 3)]
    toggles = [(0, 4, 1, 2, True, 0), (0, 4, 1, 3, False, 0), (1, 5, 2**64 - 1, 4, True, 0)]
    store.write_all(Facts(posts=posts, toggles=toggles, inbox=keys))
    for step in (1, 2, 3, 10):
        start, raw = b"", b""
        while part := store.inbox_from(start, step):
            raw += part
            start = part[-24:] + b"\x00"
        assert raw == keys.tobytes()
        found, start = [], b""
        while rows := store.posts_from(start, step):
            found += rows
            start = rows[-1][0] + b"\x00"
        assert [row.offset for _, row in found] == [19, 15, 13]
        entries, start = [], b""
        while outboxes := store.outboxes_from(start, step):
            entries += outboxes
            start = outbox_key(outboxes[-1][0], outboxes[-1][1].post) + b"\x00"
        assert [(author, entry.post) for author, entry in entries] == [(4, 9), (4, 5), (4, 3)]
        readers, user = [], 0
        while more := store.readers_from(user, step):
            readers += more
            user = more[-1] + 1
            if user > 2**64 - 1:
                break
        assert readers == [1, 7, 2**64 - 1]
    follows = store.followings_from(b"", 10)
    assert [(r, t.author, t.follows) for r, t in follows] == [
        (1, 4, True), (1, 4, False), (2**64 - 1, 5, True),
    ]  # fmt: skip


def test_posts_of_all_salts_are_walked_in_one_order_with_their_edits_and_tombstones(
    store: Store,
) -> None:
    keys = [post_key(number * 977 % 4_099, number % 3) for number in range(1, 200)]
    facts = Facts(posts=[(key, at, at, b"x") for at, key in enumerate(keys)])
    facts.deletes = [(post_key(5_000, 1), 7), (keys[3], 300)]  # of nothing; of a post
    facts.edits = [(post_key(6_000, 2), 8, 80, b"e")]
    store.write_all(facts)
    everything = sorted([*keys, post_key(5_000, 1), post_key(6_000, 2)])
    for step in (1, 3, 16, 1_000):
        found, start = [], b""
        while rows := store.posts_from(start, step):
            assert len(rows) <= step
            found += rows
            start = rows[-1][0] + b"\x00"
        assert [key for key, _ in found] == everything
        assert dict(found) == dict(zip(everything, store.post_rows(everything), strict=True))
    entries = store.outboxes_from(b"", 1_000)
    assert len(entries) == len(keys), "a delete of nothing is no entry"
    assert [entry.delete_offset for _, entry in entries if entry.delete_offset >= 0] == [300]


def test_relations_are_walked_with_those_that_are_off(store: Store) -> None:
    relations = [(2, 1, 9, 5, True), (2, 1, 9, 7, False), (2, 3, 4, 6, True), (1, 2, 8, 1, True)]
    store.write_all(Facts(relations=relations))
    wanted = [(1, 2, 8, True), (2, 1, 9, False), (2, 3, 4, True)]
    for step in (1, 2, 10):
        found, start = [], b""
        while rows := store.relations_from(start, step):
            found += rows
            start = relation_key(*rows[-1][:3]) + b"\x00"
        assert found == wanted


def test_readers_are_found_behind_many_keys(store: Store) -> None:
    u64 = np.uint64
    readers = np.array([1] * 40 + [2] + [9] * 30, u64)
    posts = np.arange(len(readers), 0, -1).astype(u64)
    keys = inbox_keys(readers, posts, np.full(len(readers), 4, u64))
    toggles = [(0, author, 5, author, True, 0) for author in range(1, 30)]
    store.write_all(Facts(inbox=keys[np.lexsort(keys.T[::-1])], toggles=toggles))
    for step in (1, 2, 3, 50):
        assert store.readers_from(0, step) == [1, 2, 5, 9][:step]
    assert store.readers_from(3, 10) == [5, 9]
    assert store.readers_from(10, 10) == []


def test_applying_again_writes_outbox_entries_whose_posts_are_there(tmp_path: Path) -> None:
    store = opened(tmp_path)
    facts = Facts(posts=[(post_key(9, 4), 3, 1_000, b"x")])
    store.write_all(facts)
    store._tables["outbox"].delete(outbox_key(4, 9))
    store.write_all(facts)
    assert store.outbox(4, b"", 10) == [], "live work writes what changed"
    facts.again = True
    store.write_all(facts)
    assert [entry.post for entry in store.outbox(4, b"", 10)] == [9]
    store.close()


def test_settled_records_go_and_their_gaps_stay(store: Store) -> None:
    records = [(Record(0, 5, 1, b"?"), "a"), (Record(1, 6, 1, b"?"), "b")]
    store.write_all(Facts(quarantined=records))
    store.settle_quarantined([(0, 5)], [Gap(0, 5, 5, 1, 1, "given up")])
    assert [record[:2] for record, _ in store.quarantined(10)] == [(1, 6)]
    assert [gap.cause for gap in store.gaps()] == ["given up", "quarantined: b"]
    store.settle_quarantined([(1, 6)], [])
    assert store.quarantined(10) == [] and len(store.gaps()) == 1
