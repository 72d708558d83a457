"""Whom a reader does not see: the cache over the store never shows an old state for new."""

from __future__ import annotations

import random
import threading

from cells.relations import RelationsCache
from engine.keys import BLOCKED_BY, BLOCKS, MUTES


class FakeStore:
    """`relations_of` and nothing else; counts its calls, and lets a test act within one."""

    def __init__(self, relations=None):
        self.relations = relations or {}
        self.calls = 0
        self.between = lambda: None  # after the read, before its answer arrives

    def relations_of(self, owner):
        self.calls += 1
        found = list(self.relations.get(owner, []))
        self.between()
        return found


def test_all_three_classes_hide():
    store = FakeStore({1: [(BLOCKS, 7), (MUTES, 8), (BLOCKED_BY, 9), (MUTES, 7)]})
    assert RelationsCache(store).hidden(1) == {7, 8, 9}


def test_nobody_is_remembered_too():
    store = FakeStore()
    cache = RelationsCache(store)
    assert cache.hidden(1) == frozenset()
    assert cache.hidden(1) == frozenset()
    assert store.calls == 1


def test_remembered_until_forgotten():
    store = FakeStore({1: [(MUTES, 7)], 2: [(MUTES, 8)]})
    cache = RelationsCache(store)
    assert (cache.hidden(1), cache.hidden(2)) == ({7}, {8})
    store.relations = {1: [(MUTES, 9)], 2: []}
    assert (cache.hidden(1), cache.hidden(2)) == ({7}, {8})
    cache.forget(1)
    assert (cache.hidden(1), cache.hidden(2)) == ({9}, {8})
    cache.forget(2)
    assert (cache.hidden(1), cache.hidden(2)) == ({9}, frozenset())
    assert store.calls == 4


def test_forgetting_somebody_unknown_is_nothing():
    cache = RelationsCache(FakeStore())
    cache.forget(99)
    assert cache.hidden(99) == frozenset()


def test_a_read_that_began_before_a_change_is_not_kept_race():
    store = FakeStore({1: [(MUTES, 7)]})
    cache = RelationsCache(store)

    def unmuted_meanwhile():
        store.between = lambda: None
        store.relations = {}
        cache.forget(1)

    store.between = unmuted_meanwhile
    cache.hidden(1)  # whatever it says: it was asked before the change
    assert cache.hidden(1) == frozenset()


def test_a_change_of_another_reader_meanwhile_is_harmless_race():
    store = FakeStore({1: [(MUTES, 7)]})
    cache = RelationsCache(store)
    store.between = lambda: cache.forget(2)
    assert cache.hidden(1) == {7}
    assert cache.hidden(1) == {7}


def test_bounded_by_readers_first_in_first_out():
    store = FakeStore({reader: [(MUTES, reader + 100)] for reader in range(10)})
    cache = RelationsCache(store, readers_max=3)
    for reader in range(10):
        assert cache.hidden(reader) == {reader + 100}
    assert store.calls == 10
    for reader in (9, 8, 7):
        assert cache.hidden(reader) == {reader + 100}
    assert store.calls == 10  # the last three were kept
    assert cache.hidden(6) == {106}
    assert store.calls == 11  # and no more


def test_readers_and_the_worker_at_once_race():
    """A reader who asks after `forget` returned never hears of an older state."""
    store = FakeStore()
    cache = RelationsCache(store, readers_max=4)
    done = threading.Event()
    failures: list[object] = []

    def read(seed):
        chosen = random.Random(seed)
        try:
            while not done.is_set():
                cache.hidden(chosen.randrange(6))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    chosen = random.Random(9)
    for turn in range(1, 1_500):
        reader = chosen.randrange(6)
        store.relations = {**store.relations, reader: [(MUTES, turn)]}
        cache.forget(reader)
        if cache.hidden(reader) != {turn}:
            failures.append((reader, turn))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
