"""The post cache changes no answer: what was written between a read and its fill is not kept."""

from __future__ import annotations

import json
import random
import threading

import pytest

from cells.cache import NOT_THERE, MemoryCache, show
from engine.codec import encode
from engine.events import Edit, Post
from engine.limits import CACHE_ENTRY_BYTES_OVERHEAD
from engine.ports import PostRow, Shown

NOW = 1_769_860_800_000


def make_row(text="x", post=5, offset=3, deleted=-1, edit=None):
    frame = b"" if deleted >= 0 or offset < 0 else encode(Post(7, post, text=text))
    edit_frame = b"" if edit is None else encode(Edit(7, post, 0, edit))
    return PostRow(offset, NOW, frame, -1 if edit is None else 4, NOW, edit_frame, deleted)


def size(shown):
    return len(shown.fragment) + CACHE_ENTRY_BYTES_OVERHEAD


def put(cache, key, row):
    (shown,) = cache.fill([key], [row], cache.epoch())
    return shown


def check_bytes(cache, keys):
    kept = [shown for shown in cache.get_many(keys) if shown is not None]
    assert cache.stats()["bytes"] == sum(size(shown) for shown in kept)
    assert cache.stats()["entries"] == len(kept)


# --- what is shown of a row ---


def test_shown_is_the_posts_json_open_at_the_end():
    shown = show(make_row("hi", offset=12))
    assert shown.offset == 12
    assert shown.fragment.endswith(b',"edited_at":null,"seen":')
    post = json.loads(shown.fragment + b"true}")
    assert (post["id"], post["text"], post["seen"]) == ("5", "hi", True)


def test_an_edit_shows():
    post = json.loads(show(make_row("old", edit="new")).fragment + b"false}")
    assert (post["text"], post["edited_at"]) == ("new", "2026-01-31T12:00:00.000Z")


@pytest.mark.parametrize(
    "row",
    [
        None,
        make_row(deleted=4),
        make_row(deleted=0),
        make_row(offset=-1),
        make_row(offset=-1, edit="an edit that came before its post"),
        make_row(offset=-1, deleted=0),
    ],
)
def test_nothing_to_show(row):
    """None, tombstones, and edits without their post: not shown, and never kept."""
    assert show(row) is NOT_THERE
    cache = MemoryCache()
    assert put(cache, b"k", row) == Shown(-1, b"")
    assert cache.get_many([b"k"]) == [None]
    assert cache.stats()["bytes"] == 0


# --- keeping ---


def test_kept_and_found_in_the_order_asked():
    cache = MemoryCache()
    filled = cache.fill([b"a", b"b"], [make_row("a"), make_row("b")], cache.epoch())
    assert cache.get_many([b"b", b"x", b"a", b"b"]) == [filled[1], None, filled[0], filled[1]]
    assert cache.get_many([]) == []
    assert cache.stats() == {
        "entries": 2,
        "bytes": size(filled[0]) + size(filled[1]),
        "hits": 3,
        "misses": 1,
    }


def test_filled_twice_counts_once():
    cache = MemoryCache()
    for text in ("short", "a longer text", "s"):
        put(cache, b"k", make_row(text))
        check_bytes(cache, [b"k"])
    cache.fill([b"k", b"k"], [make_row("one"), make_row("another")], cache.epoch())
    check_bytes(cache, [b"k"])


def test_changed_forgets():
    cache = MemoryCache()
    put(cache, b"a", make_row("a"))
    kept = put(cache, b"b", make_row("b"))
    cache.changed([b"a", b"a", b"never seen"])
    assert cache.get_many([b"a", b"b"]) == [None, kept]
    check_bytes(cache, [b"a", b"b"])


def test_clear_forgets_everything_and_stops_running_fills():
    cache = MemoryCache()
    put(cache, b"a", make_row("a"))
    epoch = cache.epoch()
    cache.clear()
    assert cache.stats()["entries"] == cache.stats()["bytes"] == 0
    cache.fill([b"a"], [make_row("a")], epoch)
    assert cache.get_many([b"a"]) == [None]


def test_a_fill_that_began_before_a_change_keeps_nothing_race():
    """The filler read the old row, the worker wrote, and only then the filler comes to keep it."""
    cache = MemoryCache()
    epoch = cache.epoch()
    old = make_row("old")
    cache.changed([b"a"])
    shown = cache.fill([b"a", b"b"], [old, make_row("b")], epoch)
    assert [json.loads(s.fragment + b"true}")["text"] for s in shown] == ["old", "b"]
    assert cache.get_many([b"a", b"b"]) == [None, None]
    put(cache, b"a", make_row("new"))
    assert b'"new"' in cache.get_many([b"a"])[0].fragment


def test_a_change_of_nothing_is_a_change_too():
    """The epoch is about the store, not about what happens to be kept."""
    cache = MemoryCache()
    epoch = cache.epoch()
    cache.changed([])
    assert cache.epoch() != epoch


def test_deleted_is_never_kept_by_a_late_fill_race():
    """I6: no cache resurrects."""
    cache = MemoryCache()
    epoch = cache.epoch()
    alive = make_row("alive")
    put(cache, b"k", alive)
    cache.changed([b"k"])  # the delete is durable
    cache.fill([b"k"], [alive], epoch)
    assert cache.get_many([b"k"]) == [None]
    assert put(cache, b"k", make_row(deleted=9)) is NOT_THERE


# --- the bound ---


def test_bounded_by_bytes_first_in_first_out():
    one = size(show(make_row("x" * 100)))
    cache = MemoryCache(bytes_max=10 * one)
    keys = [b"%03d" % i for i in range(30)]
    for key in keys:
        put(cache, key, make_row("x" * 100))
        assert cache.stats()["bytes"] <= 10 * one
    assert [shown is not None for shown in cache.get_many(keys)] == [False] * 20 + [True] * 10
    check_bytes(cache, keys)


def test_one_fill_beyond_the_bound():
    one = size(show(make_row()))
    cache = MemoryCache(bytes_max=3 * one)
    keys = [b"%03d" % i for i in range(10)]
    shown = cache.fill(keys, [make_row()] * 10, cache.epoch())
    assert len(shown) == 10  # all are shown ...
    assert [s is not None for s in cache.get_many(keys)] == [False] * 7 + [True] * 3  # 3 are kept


@pytest.mark.parametrize("bytes_max", [0, 1, 250])
def test_a_post_bigger_than_the_cache(bytes_max):
    cache = MemoryCache(bytes_max)
    assert put(cache, b"k", make_row("big")).offset == 3
    assert cache.stats()["entries"] == cache.stats()["bytes"] == 0


def test_overhead_is_counted():
    """So that a million empty posts do not cost a million times nothing."""
    cache = MemoryCache()
    shown = put(cache, b"k", make_row(""))
    assert cache.stats()["bytes"] == len(shown.fragment) + CACHE_ENTRY_BYTES_OVERHEAD


# --- all at once ---


def test_fillers_and_the_worker_at_once_race():
    """After `changed` returned nothing older is ever found, whatever fillers are doing."""
    cache = MemoryCache(bytes_max=20 * 700)
    keys = [b"%d" % i for i in range(8)]
    table = {key: 0 for key in keys}  # the store: key -> version
    done = threading.Event()
    failures: list[object] = []

    def version(shown):
        return int(json.loads(shown.fragment + b"true}")["text"])

    def fill(seed):
        chosen = random.Random(seed)
        try:
            while not done.is_set():
                asked = chosen.sample(keys, 3)
                epoch = cache.epoch()
                rows = [make_row(str(table[key])) for key in asked]
                cache.fill(asked, rows, epoch)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=fill, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    chosen = random.Random(9)
    for turn in range(1, 400):
        key = chosen.choice(keys)
        table[key] = turn
        cache.changed([key])
        for found, at in zip(cache.get_many(keys), keys, strict=True):
            if found is not None and version(found) != table[at]:
                failures.append((at, version(found), table[at]))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    check_bytes(cache, keys)
