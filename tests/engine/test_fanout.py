"""`expand` against a plain sorted set of keys: every shape of ids, duplicates, extra keys."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine import fanout
from engine.errors import Corruption
from engine.keys import inbox_key
from engine.limits import U64_MAX
from engine.runs import ascending
from tests.strategies import edges, looks, post_ids, u64s

READERS = [0, 1, 2, 255, 256, 2**32, 2**63, U64_MAX - 1, U64_MAX]
POSTS = [0, 1, 2**22, 2**62, 2**63 - 2, 2**63 - 1]
readers = u64s | st.sampled_from(READERS)
posts = st.tuples(post_ids | st.sampled_from(POSTS), readers)


@st.composite
def batches(draw):
    """(reader ids, [(post, author, [reader index])], extra keys)."""
    ids = draw(st.lists(readers, min_size=1, max_size=12, unique=True))
    index = st.integers(0, len(ids) - 1)
    followed = st.lists(index, max_size=12, unique=True)
    fans = draw(st.lists(st.tuples(posts, followed), max_size=12))
    extra = draw(st.lists(st.tuples(readers, posts), max_size=8))
    return ids, fans, extra


def expand(ids, fans, extra):
    keys = np.array([list(inbox_key(r, p, a)) for r, (p, a) in extra], dtype=np.uint8)
    followers = [indexes for _, indexes in fans]
    return fanout.expand(
        np.array([post for (post, _), _ in fans], dtype=np.uint64),
        np.array([author for (_, author), _ in fans], dtype=np.uint64),
        np.cumsum([0, *map(len, followers)], dtype=np.int64),
        np.array([index for indexes in followers for index in indexes], dtype=np.uint32),
        np.array(ids, dtype=np.uint64),
        keys.reshape(-1, 24) if extra else None,
    )


def expected(ids, fans, extra):
    wanted = {inbox_key(ids[i], p, a) for (p, a), indexes in fans for i in indexes}
    return sorted(wanted | {inbox_key(r, p, a) for r, (p, a) in extra})


@looks(300)
@given(batches())
@example(([5], [], []))
@example(([U64_MAX], [((0, U64_MAX), [0]), ((0, U64_MAX), [0])], [(U64_MAX, (0, U64_MAX))]))
@example(([0], [((2**63 - 1, 0), [0])], [(0, (2**63 - 1, 0)), (0, (0, 0))]))
def test_expand_is_the_sorted_set_of_keys_fuzz(batch):
    keys = expand(*batch)
    assert keys.dtype == np.uint8 and keys.shape[1:] == (24,)
    assert [row.tobytes() for row in keys] == expected(*batch)


def spread(name, generator):
    """Reader ids whose sorting goes each of its ways."""
    count = 3_000
    if name == "dense":
        return np.arange(count, dtype=np.uint64)
    if name == "random":
        return generator.integers(0, 2**64, count, dtype=np.uint64)
    if name == "one far away":
        ids = np.arange(count, dtype=np.uint64)
        ids[-1] = U64_MAX
        return ids
    if name == "same upper bits, shuffled below":  # too many moves: takes every pass
        ids = generator.permutation(np.arange(count, dtype=np.uint64))
        ids[0] = U64_MAX
        return ids
    if name == "a gap of equal bits":
        ids = np.arange(count, dtype=np.uint64)
        return (ids << np.uint64(50)) | (ids & np.uint64(7))
    if name == "high":
        return np.uint64(U64_MAX) - np.arange(count, dtype=np.uint64)
    return np.array([2**63], dtype=np.uint64)


@pytest.mark.parametrize(
    "name",
    [
        "dense",
        "random",
        "one far away",
        "same upper bits, shuffled below",
        "a gap of equal bits",
        "high",
        "one reader",
    ],
)
def test_many_keys_of_all_kinds_of_ids_are_sorted(name):
    generator = np.random.default_rng(7)
    ids = spread(name, generator)
    sizes = generator.integers(0, min(len(ids), 400), 200)
    followers = [generator.permutation(len(ids))[:size].tolist() for size in sizes]
    who = generator.integers(0, 2**64, 200, dtype=np.uint64).tolist()
    what = generator.integers(0, 2**63, 200, dtype=np.uint64).tolist()
    fans = [((what[i], who[i]), followers[i]) for i in range(200)]
    extra = [(int(generator.choice(ids)), (what[i], who[i])) for i in range(30)]
    keys = expand(ids.tolist(), fans, extra)
    assert ascending(np.ascontiguousarray(keys))
    assert keys.tobytes() == b"".join(expected(ids.tolist(), fans, extra))


def test_settling_gives_up_when_it_would_be_slow():
    backwards = np.arange(100, dtype=np.uint64)[::-1].copy()
    assert not fanout._settle(backwards, np.zeros(100, dtype=np.uint32), 100)
    readers = np.array([1, 5, 3, 5, 3, 9], dtype=np.uint64)
    places = np.arange(6, dtype=np.uint32)
    assert fanout._settle(readers, places, 6)
    assert (readers.tolist(), places.tolist()) == ([1, 3, 3, 5, 5, 9], [0, 2, 4, 1, 3, 5])


def test_the_callers_arrays_stay_as_they_are():
    index = np.array([2, 0, 1], dtype=np.uint32)
    ids = np.array([9, 3, U64_MAX], dtype=np.uint64)
    for array in (index, ids):
        array.flags.writeable = False
    fanout.expand(np.array([1], np.uint64), np.array([7], np.uint64), np.array([0, 3]), index, ids)
    assert index.tolist() == [2, 0, 1] and ids.tolist() == [9, 3, U64_MAX]


@pytest.mark.parametrize(
    ("indptr", "index"),
    [([0, 1], [5]), ([0, 2], [0]), ([0], []), ([1, 1], [0]), ([0, 1, 1], [0])],
)
def test_arrays_that_do_not_fit_are_corruption(indptr, index):
    with pytest.raises(Corruption):
        fanout.expand(
            np.array([1], np.uint64),
            np.array([7], np.uint64),
            np.array(indptr, np.int64),
            np.array(index, np.uint32),
            np.array([10, 11], np.uint64),
        )


@looks(100)
@given(edges(U64_MAX))
def test_swapped_words_are_big_endian(word):
    raw = int(fanout._swap.py_func(np.uint64(word))).to_bytes(8, sys.byteorder)
    assert raw == word.to_bytes(8, "big")


def test_kernels_are_compiled_ahead_and_let_the_lock_go():
    for kernel in (fanout._gather, fanout._pass, fanout._settle, fanout._lay):
        assert kernel.nopython_signatures, "an explicit signature"
        assert kernel.targetoptions["nogil"]
        before = list(kernel.signatures)
        expand([1, 2], [((1, 1), [0, 1])], [(1, (2, 2))])
        assert kernel.signatures == before, "nothing compiles while serving"


def test_threads_expand_beside_each_other():
    generator = np.random.default_rng(3)
    ids = generator.integers(0, 2**64, 5_000, dtype=np.uint64).tolist()
    fans = [((i, 5), generator.permutation(5_000)[:500].tolist()) for i in range(50)]
    wanted = expand(ids, fans, []).tobytes()
    results = []

    def work():
        results.extend(expand(ids, fans, []).tobytes() == wanted for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40
