"""The contract of the port `Store`: every backend passes the same tests.

A backend is a fixture parameter that opens the same store again and again; add one and its name to
BACKENDS to hold it to the contract.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cells.store_embedded import EmbeddedStore
from cells.store_hbase import HBaseStore
from engine import limits
from engine.homing import HomeRange
from engine.keys import (
    BLOCKED_BY,
    BLOCKS,
    MUTES,
    inbox_key,
    inbox_keys,
    outbox_key,
    post_key,
)
from engine.limits import FLOOR_NONE, POST_ID_MAX, RUN_KEYS_MIN, U64_MAX
from engine.ports import Facts, Gap, OutboxEntry, PostRow, Record, Store, Toggle
from tests.hbase_backend import backend, empty_cell

PARTITIONS = 4
BACKENDS = [
    "embedded",
    pytest.param("hbase", marks=pytest.mark.real),
    pytest.param("hbase-bulk", marks=pytest.mark.real),
]
SIZES = {"puts": 300, "runs": RUN_KEYS_MIN}
Opens = Callable[[], Store]


@pytest.fixture(params=BACKENDS)
def opens(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Opens]:
    opened: list[Store] = []

    def embedded() -> Store:
        for store in opened:
            store.close()
        opened.append(
            EmbeddedStore.open(
                tmp_path / "store",
                identity="firehose-1",
                partitions=PARTITIONS,
                cell="c1",
                home=HomeRange(),
            )
        )
        return opened[-1]

    def hbase() -> Store:
        for store in opened:
            store.close()
        store = HBaseStore.open(
            url,
            identity="firehose-1",
            partitions=PARTITIONS,
            cell="c1",
            home=HomeRange(),
            helper=backend().helper,
        )
        store.bulk = request.param == "hbase-bulk"
        opened.append(store)
        return store

    with ExitStack() as stack:
        if request.param == "embedded":
            yield embedded
        else:
            monkeypatch.setattr(limits, "HBASE_RUN_KEYS_MIN", RUN_KEYS_MIN)
            url = stack.enter_context(empty_cell())
            yield hbase
        for store in opened:
            store.close()


@pytest.fixture
def store(opens: Opens) -> Store:
    return opens()


def random_keys(count: int, readers: int, seed: int) -> npt.NDArray[np.uint8]:
    """`count` strictly ascending inbox keys of a few readers, over the whole u64 range."""
    dice = np.random.default_rng(seed)
    triples = {
        (int(r) * (U64_MAX // readers), int(p), int(a))
        for r, p, a in zip(
            dice.integers(0, readers + 1, count * 2),
            dice.integers(0, POST_ID_MAX, count * 2),
            dice.integers(0, 50, count * 2),
            strict=True,
        )
    }
    chosen = np.array(sorted(triples)[:count], dtype=np.uint64)
    keys = inbox_keys(chosen[:, 0], chosen[:, 1], chosen[:, 2])
    return keys[np.lexsort(keys.T[::-1])]


def split(raw: bytes) -> list[bytes]:
    return [raw[at : at + 24] for at in range(0, len(raw), 24)]


def posted(key: bytes, offset: int, frame: bytes = b"post") -> Facts:
    return Facts(posts=[(key, offset, 1000 + offset, frame)])


def test_new_store_is_empty(store: Store) -> None:
    assert store.positions() == ([0] * PARTITIONS, [0] * PARTITIONS)
    assert store.inbox_older(1, b"", 20) == b""
    assert store.inbox_newer(1, inbox_key(1, 5, 5), 20) == b""
    assert store.post_rows([post_key(1, 1)]) == [None]
    assert store.posts_with_id(1, 10) == []
    assert store.outbox(1, b"", 10) == []
    assert store.toggles_between(1, 2) == [] and store.toggles_of(1, 0, 10) == []
    assert store.relations_of(1) == []
    assert list(store.toggle_rows(0)) == []
    assert store.gaps() == [] and store.quarantined(10) == []
    assert {"disk_bytes", "files_level0", "compaction_bytes"} <= store.stats().keys()


@pytest.mark.parametrize("size", list(SIZES))
def test_inbox_pages_older_and_newer(store: Store, size: str) -> None:
    keys = random_keys(SIZES[size], 40, 1)
    store.write_inbox(keys)
    every = split(keys.tobytes())
    dice = random.Random(2)
    for _ in range(200):
        reader = int.from_bytes(dice.choice(every)[:8], "big") + dice.choice([0, 0, 0, 1])
        reader = min(reader, U64_MAX)
        mine = [key for key in every if key[:8] == reader.to_bytes(8, "big")]
        limit = dice.choice([1, 2, 20, 201])
        assert store.inbox_older(reader, b"", limit) == b"".join(mine[:limit])
        if not mine:
            continue
        at = dice.randrange(len(mine))
        place = mine[at]
        assert split(store.inbox_older(reader, place, limit)) == mine[at + 1 :][:limit]
        assert split(store.inbox_newer(reader, place, limit)) == mine[:at][::-1][:limit]
        between = inbox_key(reader, 2**62 + dice.randrange(2**40), dice.randrange(2**64))
        older = [key for key in mine if key > between]
        assert split(store.inbox_older(reader, between, limit)) == older[:limit]
        newer = [key for key in mine if key < between][::-1]
        assert split(store.inbox_newer(reader, between, limit)) == newer[:limit]
        assert split(store.inbox_newer(reader, b"", 2)) == mine[::-1][:2]


@pytest.mark.parametrize("size", list(SIZES))
def test_inbox_writes_again_change_nothing_restart(opens: Opens, size: str) -> None:
    store = opens()
    keys = random_keys(SIZES[size], 5, 3)
    store.write_inbox(keys)
    store.write_inbox(keys[: len(keys) // 2])
    store.write_inbox(keys[::3])
    store.write_inbox(keys[:0])
    store.write_inbox(keys)
    store = opens()
    found = [store.inbox_older(r * (U64_MAX // 5), b"", len(keys)) for r in range(6)]
    assert b"".join(found) == keys.tobytes()


def test_lowest_post_and_highest_edit_win(store: Store) -> None:
    key = post_key(7, 3)
    store.write_rows(posted(key, 20, b"second"))
    store.write_rows(posted(key, 10, b"first"))
    store.write_rows(posted(key, 30, b"third"))
    store.write_rows(Facts(edits=[(key, 40, 400, b"e40"), (key, 50, 500, b"e50")]))
    store.write_rows(Facts(edits=[(key, 45, 450, b"e45")]))
    assert store.post_rows([key]) == [PostRow(10, 1010, b"first", 50, 500, b"e50", -1)]
    assert store.outbox(3, b"", 10) == [OutboxEntry(7, 10, -1)]


def test_delete_drops_frames_for_ever_in_any_order(store: Store) -> None:
    before, after, both = post_key(1, 3), post_key(2, 3), post_key(3, 3)
    store.write_rows(Facts(deletes=[(before, 9)]))
    store.write_rows(posted(before, 5))
    store.write_rows(Facts(edits=[(before, 6, 60, b"edit")]))
    store.write_rows(posted(after, 5))
    store.write_rows(Facts(edits=[(after, 6, 60, b"edit")]))
    store.write_rows(Facts(deletes=[(after, 12), (after, 9)]))
    everything = posted(both, 5)
    everything.edits.append((both, 6, 60, b"edit"))
    everything.deletes.append((both, 9))
    store.write_rows(everything)
    expected = PostRow(5, 1005, b"", 6, 60, b"", 9)
    assert store.post_rows([before, after, both]) == [expected] * 3
    assert store.outbox(3, b"", 10) == [OutboxEntry(n, 5, 9) for n in (3, 2, 1)]


def test_edit_or_delete_of_an_unknown_post_is_not_there(store: Store) -> None:
    edited, deleted = post_key(1, 3), post_key(2, 3)
    store.write_rows(Facts(edits=[(edited, 6, 60, b"edit")], deletes=[(deleted, 9)]))
    rows = store.post_rows([deleted, post_key(9, 9), edited])
    assert rows == [
        PostRow(-1, 0, b"", -1, 0, b"", 9),
        None,
        PostRow(-1, 0, b"", 6, 60, b"edit", -1),
    ]
    assert store.outbox(3, b"", 10) == []
    assert store.posts_with_id(1, 10) == [] and store.posts_with_id(2, 10) == []


def test_authors_that_share_an_id_are_told_apart(store: Store) -> None:
    for author in (5, 2, U64_MAX):
        store.write_rows(posted(post_key(7, author), 10, f"by {author}".encode()))
    store.write_rows(posted(post_key(6, 1), 10))
    store.write_rows(Facts(deletes=[(post_key(7, 3), 11)]))
    assert [author for author, _ in store.posts_with_id(7, 10)] == [2, 5, U64_MAX]
    assert [row.frame for _, row in store.posts_with_id(7, 2)] == [b"by 2", b"by 5"]


def test_outbox_is_walked_newest_first(store: Store) -> None:
    facts = Facts(posts=[(post_key(n, 3), n, n, b"") for n in range(1, 31)])
    facts.posts += [(post_key(n, 4), n, n, b"") for n in range(1, 5)]
    store.write_rows(facts)
    first = store.outbox(3, b"", 20)
    assert [entry.post for entry in first] == list(range(30, 10, -1))
    rest = store.outbox(3, outbox_key(3, first[-1].post), 20)
    assert [entry.post for entry in rest] == list(range(10, 0, -1))
    assert [entry.post for entry in store.outbox_newer(3, b"", 3)] == [1, 2, 3]
    above = store.outbox_newer(3, outbox_key(3, 10), 100)
    assert above == [OutboxEntry(n, n, -1) for n in range(11, 31)]
    assert [entry.post for entry in store.outbox_newer(3, outbox_key(3, 11), 2)] == [12, 13]
    assert store.outbox_newer(3, outbox_key(3, 30), 5) == store.outbox_newer(5, b"", 5) == []
    store.write_rows(Facts(deletes=[(post_key(12, 3), 40), (post_key(99, 3), 41)]))
    assert store.outbox_newer(3, outbox_key(3, 11), 1) == [OutboxEntry(12, 12, 40)]
    assert store.outbox_newer(3, outbox_key(3, 30), 5) == []


def test_toggles_are_kept_both_ways(store: Store) -> None:
    toggles = [
        (1, 7, 100, 5, True, 50),
        (1, 7, 100, 9, False, 0),
        (1, 7, 100, 12, True, FLOOR_NONE),
        (1, 8, 100, 6, True, 60),
        (1, 7, 101, 7, True, 70),
        (2, U64_MAX, 100, 1, True, 1),
    ]
    store.write_rows(Facts(toggles=toggles[3:]))
    store.write_rows(Facts(toggles=toggles[:4]))
    assert store.toggles_between(100, 7) == [
        Toggle(7, 5, True, 50),
        Toggle(7, 9, False, 0),
        Toggle(7, 12, True, FLOOR_NONE),
    ]
    several = store.toggles_of_pairs([(100, 8), (100, 9), (100, 7), (101, 7)])
    assert several[:3] == [[Toggle(8, 6, True, 60)], [], store.toggles_between(100, 7)]
    assert several[3] == [Toggle(7, 7, True, 70)] and store.toggles_of_pairs([]) == []
    assert [t.author for t in store.toggles_of(100, 0, 10)] == [7, 7, 7, 8, U64_MAX]
    assert [t.author for t in store.toggles_of(100, 8, 1)] == [8]
    loaded = [row for chunk in store.toggle_rows(1) for row in chunk.tolist()]
    assert loaded == [
        [7, 100, 5, 1],
        [7, 100, 9, 0],
        [7, 100, 12, 1],
        [7, 101, 7, 1],
        [8, 100, 6, 1],
    ]
    assert [c.dtype for c in store.toggle_rows(2)] == [np.uint64]
    assert list(store.toggle_rows(3)) == []


def test_many_toggles_load_by_partition(store: Store) -> None:
    count = 30_000
    toggles = [(n % PARTITIONS, n // 3, n, n, n % 5 > 0, 0) for n in range(count)]
    store.write_rows(Facts(toggles=toggles))
    for partition in range(PARTITIONS):
        loaded = np.concatenate(list(store.toggle_rows(partition)))
        wanted = sorted([n // 3, n, n, n % 5 > 0] for n in range(partition, count, PARTITIONS))
        assert loaded.tolist() == wanted


def test_newest_relation_counts(store: Store) -> None:
    relations = [
        (1, BLOCKS, 9, 10, True),
        (1, BLOCKS, 9, 20, False),
        (1, MUTES, 8, 11, True),
        (1, BLOCKED_BY, 7, 12, True),
        (2, BLOCKS, 1, 12, True),
    ]
    store.write_rows(Facts(relations=relations))
    assert sorted(store.relations_of(1)) == [(MUTES, 8), (BLOCKED_BY, 7)]
    store.write_rows(Facts(relations=[(1, BLOCKS, 9, 15, True), (1, MUTES, 8, 30, False)]))
    assert store.relations_of(1) == [(BLOCKED_BY, 7)]
    store.write_rows(Facts(relations=[(1, BLOCKS, 9, 40, True), (1, BLOCKS, 9, 35, False)]))
    assert sorted(store.relations_of(1)) == [(BLOCKS, 9), (BLOCKED_BY, 7)]
    assert store.relations_of(2) == [(BLOCKS, 1)]


def test_gaps_and_quarantine_are_kept(store: Store) -> None:
    bad = Record(2, 5, 700, b"\x01bad")
    wide = Gap(1, 10, 20, 100, 200, "retention passed")
    store.write_rows(Facts(quarantined=[(bad, "no msgpack")], gaps=[wide]))
    store.write_rows(Facts(gaps=[wide._replace(last_offset=15)], quarantined=[(bad, "no msgpack")]))
    assert store.quarantined(10) == [(bad, "no msgpack")]
    assert store.quarantined(0) == []
    assert store.gaps() == [wide, Gap(2, 5, 5, 700, 700, "quarantined: no msgpack")]


@pytest.mark.parametrize("atomic", [True, False])
def test_every_step_survives_restart(opens: Opens, atomic: bool) -> None:
    store = opens()
    if atomic and not store.atomic:
        pytest.skip("this backend has no atomic write")
    facts = posted(post_key(7, 3), 10)
    facts.inbox = np.frombuffer(inbox_key(1, 7, 3), dtype=np.uint8).reshape(1, 24)
    facts.positions = {2: (11, 1010)}
    if atomic:
        store.write_all(facts)
    else:
        store.write_rows(facts)
        store.write_inbox(facts.inbox)
        store.write_positions(facts.positions)
    store = opens()
    assert store.positions() == ([0, 0, 11, 0], [0, 0, 1010, 0])
    assert store.inbox_older(1, b"", 20) == inbox_key(1, 7, 3)
    assert store.post_rows([post_key(7, 3)])[0] is not None


def test_readers_beside_the_writer_see_whole_keys(store: Store) -> None:
    import threading

    failures: list[BaseException] = []
    done = threading.Event()
    reader = U64_MAX // 4

    def read() -> None:
        last = 0
        try:
            while not done.is_set():
                count = len(store.inbox_older(reader, b"", 10_000)) // 24
                assert count >= last
                last = count
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    keys = random_keys(RUN_KEYS_MIN * 2, 4, 8)
    for part in range(4):
        store.write_inbox(keys[part::4] if part % 2 else keys[part::200])
    done.set()
    thread.join()
    assert failures == []


def test_what_was_begun_beside_it_is_kept_restart(opens: Opens) -> None:
    store = opens()
    assert store.begun() == {}
    for what, owner in (("markers", b"one"), ("decisions", b"two"), ("markers", b"one")):
        store.note_begun(what, owner)
    assert opens().begun() == {"markers": b"one", "decisions": b"two"}


def test_close_is_idempotent(store: Store) -> None:
    store.close()
    store.close()
