"""The graph against a plain dict of dicts: any order of toggles, merging often, each answer."""

from __future__ import annotations

import contextlib
import threading
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cells.graph import Graph
from cells.kernel_parts import mix
from cells.users import Users
from engine import limits
from engine.errors import Corruption
from engine.homing import mix64, partition_of
from engine.limits import U32_MAX, U64_MAX
from tests.strategies import edges, looks, u64s

USERS = [0, 1, 2, 3, 255, 2**32, 2**63, U64_MAX - 1, U64_MAX]
users = st.sampled_from(USERS)
toggles = st.lists(st.tuples(users, users, st.booleans(), st.integers(1, 2**33)), max_size=80)


@contextlib.contextmanager
def tiny(overlay=3, copies=6):
    """Bounds so small that every few toggles something grows, merges or is dropped."""
    with (
        mock.patch.object(limits, "GRAPH_OVERLAY_EDGES_FIRST", 2),
        mock.patch.object(limits, "GRAPH_OVERLAY_EDGES_MIN", overlay),
        mock.patch.object(limits, "GRAPH_COPIES_EDGES_MAX", copies),
        mock.patch.object(limits, "GRAPH_USERS_FIRST", 2),
        mock.patch.object(limits, "GRAPH_SLICE_USERS", 3),
    ):
        yield


class Model:
    """What the graph has to say, the plain way."""

    def __init__(self):
        self.by_author: dict[int, dict[int, int]] = {}

    def toggle(self, author, reader, follows, offset):
        """Whether anything changed."""
        readers = self.by_author.setdefault(author, {})
        if author == reader or (reader in readers) == follows:
            return False
        if follows:
            readers[reader] = offset
        else:
            del readers[reader]
        return True

    def followers(self, author):
        return self.by_author.get(author, {})

    def interval_from(self, reader, author):
        return 0 if reader == author else self.followers(author).get(reader, -1)


def agree(graph, model):
    """Every answer about every user."""
    for author in USERS:
        partition = partition_of(author, graph.partitions)
        followers = sorted(model.followers(author))
        assert graph.follower_count(author) == len(followers)
        assert graph.followers(author, -1, 100) == followers
        ids = graph.reader_ids[graph.recipients(partition, author)]
        assert sorted(ids.tolist()) == followers
    for reader in USERS:
        starts = [model.interval_from(reader, author) for author in USERS]
        assert graph.interval_from(reader, USERS).tolist() == starts
    assert graph.edges == sum(map(len, model.by_author.values()))


def play(graph, model, changes):
    """Apply to both, at ascending offsets; (the offset of each, whether it changed anything)."""
    offset = 0
    for author, reader, follows, step in changes:
        offset += step
        partition = partition_of(author, graph.partitions)
        change = graph.follow if follows else graph.unfollow
        changed = model.toggle(author, reader, follows, offset)
        assert change(partition, author, reader, offset) == changed
        yield offset


@looks(150)
@given(toggles, st.sampled_from([1, 2, 32]), st.integers(2, 9))
@example([(1, U64_MAX, True, 1), (1, U64_MAX, False, 1), (1, U64_MAX, True, 2**33)], 1, 2)
def test_any_order_of_toggles_gives_what_a_dict_gives_fuzz(changes, partitions, overlay):
    with tiny(overlay):
        graph, model = Graph(partitions), Model()
        for _ in play(graph, model, changes):
            pass
        agree(graph, model)
        graph.freeze([0] * partitions)  # merges what is left
        agree(graph, model)


@pytest.mark.parametrize("partitions", [1, 5])
def test_a_long_life_gives_what_a_dict_gives(partitions):
    generator = np.random.default_rng(partitions)
    picks = generator.integers(0, len(USERS), (20_000, 2)).tolist()
    follows = (generator.random(20_000) < 0.55).tolist()
    changes = [(USERS[a], USERS[r], f, 1) for (a, r), f in zip(picks, follows, strict=True)]
    with tiny(overlay=11):
        graph, model = Graph(partitions), Model()
        for count, _ in enumerate(play(graph, model, changes)):
            if count % 500 == 0:
                agree(graph, model)
        agree(graph, model)


@looks(60)
@given(toggles, st.sampled_from([1, 4]))
def test_recipients_are_those_of_their_moment_for_ever_fuzz(changes, partitions):
    with tiny():
        graph, model = Graph(partitions), Model()
        seen = []
        for count, _ in enumerate(play(graph, model, changes)):
            author = changes[count][0]
            array = graph.recipients(partition_of(author, partitions), author)
            assert not array.flags.writeable or len(array) == 0
            seen.append((array, array.tolist(), set(model.followers(author))))
        for array, indexes, followers in seen:
            assert array.tolist() == indexes
            assert set(graph.reader_ids[array].tolist()) == followers
        indptr, gathered = graph.gather([array for array, _, _ in seen])
        assert (indptr.dtype, gathered.dtype) == (np.int64, np.uint32)
        for at, (_, indexes, _) in enumerate(seen):
            assert gathered[indptr[at] : indptr[at + 1]].tolist() == indexes


@looks(60)
@given(toggles, st.sampled_from([1, 4]), st.integers(1, 7))
def test_loading_the_toggles_gives_the_same_as_living_through_them_restart_fuzz(
    changes, partitions, chunk
):
    with tiny():
        lived, model, rows = Graph(partitions), Model(), []
        for count, offset in enumerate(play(lived, model, changes)):
            author, reader, follows, _ = changes[count]
            rows.append((author, reader, offset, int(follows)))
        loaded = Graph(partitions)
        for partition in range(partitions):
            mine = sorted(row for row in rows if partition_of(row[0], partitions) == partition)
            table = np.array(mine, dtype=np.uint64).reshape(-1, 4)
            chunks = [table[at : at + chunk] for at in range(0, len(table), chunk)]
            loaded.load_partition(partition, chunks)
            assert loaded.end[partition] == max((row[2] + 1 for row in mine), default=0)
        agree(loaded, model)
        later = [(a, r, not f, s + 2**34) for a, r, f, s in changes]
        for _ in play(loaded, model, later):
            pass
        agree(loaded, model)


def test_toggles_below_the_end_change_nothing_and_say_so_restart():
    graph = Graph(1)
    rows = np.array([[7, 1, 10, 1], [7, 2, 11, 1], [7, 2, 20, 0]], dtype=np.uint64)
    graph.load_partition(0, [rows], position=15)
    assert graph.end == [21]
    assert not graph.follow(0, 7, 2, 11)  # in the replay zone: the store's fold decides
    assert not graph.unfollow(0, 7, 1, 20)
    assert graph.followers(7, -1, 9) == [1] and graph.end == [21]
    assert graph.follow(0, 7, 2, 21)
    assert graph.interval_from(2, [7]).tolist() == [21] and graph.end == [22]


def test_a_load_ends_at_the_position_when_that_is_higher_restart():
    graph = Graph(2)
    graph.load_partition(1, [], position=30)
    assert graph.end == [0, 30] and not graph.follow(1, 7, 2, 29) and graph.follow(1, 7, 2, 30)


@pytest.mark.parametrize("swapped", [[1, 0, 2], [0, 2, 1]])
def test_toggles_out_of_key_order_are_corruption(swapped):
    rows = np.array([[7, 1, 10, 1], [7, 2, 11, 1], [7, 2, 20, 0]], dtype=np.uint64)
    with pytest.raises(Corruption):
        Graph(1).load_partition(0, [rows[swapped]])


def test_offsets_further_apart_than_32_bits_are_kept():
    with tiny(overlay=2):
        graph = Graph(1)
        offsets = [1, 2, 2**32, 2**40, 2**62]
        for reader, offset in enumerate(offsets, start=10):
            assert graph.follow(0, 1, reader, offset)
        graph.freeze([0])
        starts = [int(graph.interval_from(reader, [1])[0]) for reader in range(10, 15)]
        assert starts == offsets
        for reader in range(11, 15):
            graph.unfollow(0, 1, reader, 2**62 + reader)
        graph.freeze([0])
        assert graph._bases[0].froms.dtype == np.uint32, "narrow again"
        assert graph.interval_from(10, [1]).tolist() == [1]


def test_pages_of_followers_join_to_all_of_them():
    graph = Graph(1)
    generator = np.random.default_rng(5)
    readers = generator.integers(0, 2**64, 300, dtype=np.uint64).tolist()
    readers += [0, U64_MAX]
    for offset, reader in enumerate(readers):
        graph.follow(0, 1, reader, offset)
    walked, after = [], -1
    while page := graph.followers(1, after, 37):
        walked += page
        after = page[-1]
    assert walked == sorted(readers)
    assert graph.followers(99, -1, 10) == [] and graph.followers(1, U64_MAX, 10) == []


def test_an_author_with_many_changes_in_one_overlay():
    graph = Graph(1)
    for reader in range(1, 5_001):
        graph.follow(0, 9_999, reader, reader)
    graph.freeze([0])
    for reader in range(1, 5_001, 3):
        graph.unfollow(0, 9_999, reader, 5_000 + reader)
    for reader in range(6_000, 9_000):
        graph.follow(0, 9_999, reader, 10_000 + reader)
    wanted = [r for r in range(1, 5_001) if r % 3 != 1] + list(range(6_000, 9_000))
    assert graph.followers(9_999, -1, 10**6) == wanted
    assert sorted(graph.reader_ids[graph.recipients(0, 9_999)].tolist()) == wanted


@looks(100)
@given(st.lists(u64s, max_size=60), st.lists(u64s, max_size=20))
def test_users_keep_their_index_fuzz(known, asked):
    with tiny():
        table = Users()
        indexes = table.index_many(np.array(known, dtype=np.uint64), create=True)
        wanted = {user: at for at, user in enumerate(dict.fromkeys(known))}
        assert indexes.tolist() == [wanted[user] for user in known]
        assert table.ids.tolist() == list(wanted) and len(table) == len(wanted)
        found = table.index_many(np.array(asked, dtype=np.uint64), create=False)
        assert found.tolist() == [wanted.get(user, U32_MAX) for user in asked]
        assert [table.index(user) for user in asked] == [wanted.get(u, -1) for u in asked]
        assert len(table) == len(wanted), "asking creates nobody"


def test_a_user_that_comes_twice_is_corruption():
    with pytest.raises(Corruption):
        Users(np.array([4, 5, 4], dtype=np.uint64))


@looks(100)
@given(edges(U64_MAX))
def test_compiled_and_plain_homing_agree(user):
    assert int(mix(np.uint64(user))) == mix64(user)


def test_memory_stays_below_24_bytes_a_follow():
    generator = np.random.default_rng(11)
    follows, everybody = 1_000_000, 200_000
    ids = generator.integers(0, 2**64, everybody, dtype=np.uint64)
    rank = (everybody * generator.random(follows) ** 3).astype(np.int64)  # few have very many
    rows = np.ones((follows, 4), dtype=np.uint64)
    rows[:, 0], rows[:, 1] = ids[rank], ids[generator.integers(0, everybody, follows)]
    rows[:, 2] = generator.permutation(follows)
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    graph = Graph(32)
    partitions = np.array([partition_of(int(user), 32) for user in np.unique(rows[:, 0])])
    per_row = np.repeat(partitions, np.unique(rows[:, 0], return_counts=True)[1])
    for partition in range(32):
        graph.load_partition(partition, [rows[per_row == partition]])
    assert graph.edges > 900_000
    assert graph.bytes_used() <= 24 * graph.edges
    for at in range(100_000):  # a live cell has overlays, bounded
        reader = int(ids[at % everybody])
        author = int(rows[at * 9, 0])
        graph.follow(partition_of(author, 32), author, reader, follows + at)
    assert graph.bytes_used() <= 24 * graph.edges


def test_readers_look_in_while_the_graph_changes_threads():
    """Reader 1 follows all authors at all times; the others come and go, bases are swapped."""
    with tiny(overlay=16, copies=100):
        graph = Graph(4)
        authors = list(range(100, 140))
        homes = [partition_of(author, 4) for author in authors]
        for offset, (author, home) in enumerate(zip(authors, homes, strict=True)):
            graph.follow(home, author, 1, offset)
        wanted, wrong, done = list(range(40)), [], threading.Event()

        def look():
            while not done.is_set():
                if graph.interval_from(1, authors).tolist() != wanted:
                    wrong.append("interval_from")
                for author in authors:
                    page = graph.followers(author, -1, 1_000)
                    if page[:1] != [1] or page != sorted(set(page)):
                        wrong.append(page)
                    if graph.follower_count(author) < 1:
                        wrong.append("follower_count")

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        generator = np.random.default_rng(1)
        for offset in range(100, 15_000):
            at = int(generator.integers(40))
            change = graph.follow if generator.random() < 0.6 else graph.unfollow
            change(homes[at], authors[at], int(generator.integers(2, 5_000)), offset)
            if offset % 7 == 0:
                kept = graph.recipients(homes[at], authors[at])
                assert 1 in graph.reader_ids[kept]
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong


def test_nothing_compiles_while_serving():
    from cells import cache_kernels, graph_base, graph_kernels

    kernels = [
        value
        for module in (graph_kernels, cache_kernels)
        for name, value in vars(module).items()
        if hasattr(value, "py_func") and value.py_func.__module__ == module.__name__
        if not name.startswith("_")
    ]
    kernels += [graph_base._merge, graph_base._fold]
    before = {kernel: list(kernel.signatures) for kernel in kernels}
    assert len(before) > 15 and all(len(known) == 1 for known in before.values())
    with tiny():
        graph, model = Graph(2), Model()
        for _ in play(graph, model, [(a, r, True, 1) for a in USERS for r in USERS]):
            pass
        agree(graph, model)
    assert before == {kernel: list(kernel.signatures) for kernel in kernels}
    for kernel in kernels:  # those that take addresses hold the interpreter's lock (the contract)
        assert bool(kernel.targetoptions.get("nogil")) == (kernel in kernels[-2:])
