"""Walks over whole tables of the embedded store: each step takes up where the last one ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cells.store_embedded import EmbeddedStore
from engine.homing import HomeRange
from engine.keys import inbox_keys, outbox_key, post_key
from engine.ports import Facts, Gap, Record

_ALL = HomeRange()


def opened(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder, identity="f", partitions=2, cell="c", home=_ALL)


def test_walks_in_steps_meet_every_row_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
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
    store.close()


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


def test_settled_records_go_and_their_gaps_stay(tmp_path: Path) -> None:
    store = opened(tmp_path)
    records = [(Record(0, 5, 1, b"?"), "a"), (Record(1, 6, 1, b"?"), "b")]
    store.write_all(Facts(quarantined=records))
    store.settle_quarantined([(0, 5)], [Gap(0, 5, 5, 1, 1, "given up")])
    assert [record[:2] for record, _ in store.quarantined(10)] == [(1, 6)]
    assert [gap.cause for gap in store.gaps()] == ["given up", "quarantined: b"]
    store.close()
