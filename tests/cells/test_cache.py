"""The post cache changes no answer: what was written between a read and its fill is not kept."""

from __future__ import annotations

import json
import random
import threading

import numpy as np
import pytest

from cells.cache import NOT_THERE, MemoryCache, show
from cells.cache_kernels import HEADER_WORDS, SLOT_WORDS
from engine.codec import encode
from engine.events import Edit, Post
from engine.keys import inbox_key, post_key
from engine.limits import CACHE_SLOTS_MIN
from engine.ports import PostRow, Shown

NOW = 1_769_860_800_000


def make_row(text="x", post=5, offset=3, deleted=-1, edit=None):
    frame = b"" if deleted >= 0 or offset < 0 else encode(Post(7, post, text=text))
    edit_frame = b"" if edit is None else encode(Edit(7, post, 0, edit))
    return PostRow(offset, NOW, frame, -1 if edit is None else 4, NOW, edit_frame, deleted)


SLOTS = 8 * SLOT_WORDS * CACHE_SLOTS_MIN  # bytes that every cache has


def key_of(name):
    """A post key of its own for each name."""
    return post_key(int.from_bytes(name, "big"), 7)


A, B, K, X = (key_of(name) for name in (b"a", b"b", b"k", b"x"))


def size(shown):
    """Bytes of one record."""
    return 8 * HEADER_WORDS + -(-len(shown.fragment) // 8) * 8


def put(cache, key, row):
    (shown,) = cache.fill([key], [row], cache.epoch())
    return shown


def kept_of(cache, keys):
    """How many are kept, which is what the cache says itself."""
    kept = [shown for shown in cache.get_many(keys) if shown is not None]
    assert cache.stats()["entries"] == len(kept)
    return kept


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
    assert put(cache, K, row) == Shown(-1, b"")
    assert cache.get_many([K]) == [None]
    assert cache.stats()["entries"] == 0


# --- keeping ---


def test_kept_and_found_in_the_order_asked():
    cache = MemoryCache()
    filled = cache.fill([A, B], [make_row("a"), make_row("b")], cache.epoch())
    assert cache.get_many([B, X, A, B]) == [filled[1], None, filled[0], filled[1]]
    assert cache.get_many([]) == []
    used = size(filled[0]) + size(filled[1])
    assert cache.stats() == {"entries": 2, "bytes": used + SLOTS, "hits": 3, "misses": 1}


def test_filled_twice_counts_once():
    """The first stays: both were read at the epoch of now, so they are the same."""
    cache = MemoryCache()
    first = put(cache, K, make_row("x"))
    used = cache.stats()["bytes"]
    cache.fill([K, K], [make_row("x"), make_row("x")], cache.epoch())
    assert kept_of(cache, [K]) == [first] and cache.stats()["bytes"] == used


def test_changed_forgets():
    cache = MemoryCache()
    put(cache, A, make_row("a"))
    kept = put(cache, B, make_row("b"))
    cache.changed([A, A, X])
    assert cache.get_many([A, B]) == [None, kept]
    assert kept_of(cache, [A, B, X]) == [kept]


def test_clear_forgets_everything_and_stops_running_fills():
    cache = MemoryCache()
    put(cache, A, make_row("a"))
    epoch = cache.epoch()
    cache.clear()
    assert (cache.stats()["entries"], cache.stats()["bytes"]) == (0, SLOTS)
    cache.fill([A], [make_row("a")], epoch)
    assert cache.get_many([A]) == [None]


def test_a_fill_that_began_before_a_change_keeps_nothing_race():
    """The filler read the old row, the worker wrote, and only then the filler comes to keep it."""
    cache = MemoryCache()
    epoch = cache.epoch()
    old = make_row("old")
    cache.changed([A])
    shown = cache.fill([A, B], [old, make_row("b")], epoch)
    assert [json.loads(s.fragment + b"true}")["text"] for s in shown] == ["old", "b"]
    assert cache.get_many([A, B]) == [None, None]
    put(cache, A, make_row("new"))
    assert b'"new"' in cache.get_many([A])[0].fragment


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
    put(cache, K, alive)
    cache.changed([K])  # the delete is durable
    cache.fill([K], [alive], epoch)
    assert cache.get_many([K]) == [None]
    assert put(cache, K, make_row(deleted=9)) is NOT_THERE


# --- the bound ---


def test_bounded_by_bytes_first_in_first_out():
    one = size(show(make_row("x" * 100)))
    cache = MemoryCache(SLOTS + 10 * one)
    keys = [key_of(b"%03d" % i) for i in range(30)]
    for key in keys:
        put(cache, key, make_row("x" * 100))
        assert cache.stats()["bytes"] <= SLOTS + 10 * one
    assert [shown is not None for shown in cache.get_many(keys)] == [False] * 20 + [True] * 10
    assert len(kept_of(cache, keys)) == 10


def test_one_fill_beyond_the_bound():
    one = size(show(make_row()))
    cache = MemoryCache(SLOTS + 3 * one)
    keys = [key_of(b"%03d" % i) for i in range(10)]
    shown = cache.fill(keys, [make_row()] * 10, cache.epoch())
    assert len(shown) == 10  # all are shown ...
    assert [s is not None for s in cache.get_many(keys)] == [False] * 7 + [True] * 3  # 3 are kept


@pytest.mark.parametrize("bytes_max", [0, 1, SLOTS, SLOTS + 250])
def test_a_post_bigger_than_the_cache(bytes_max):
    cache = MemoryCache(bytes_max)
    assert put(cache, K, make_row("big" * 100)).offset == 3
    assert cache.stats()["entries"] == 0 and cache.get_many([K]) == [None]


def test_more_posts_than_slots_at_first():
    """The hash grows with its entries; small posts in a small cache drop the oldest instead."""
    keys = [post_key(post, 7) for post in range(3 * CACHE_SLOTS_MIN)]
    rows = [make_row("", post=post) for post in range(len(keys))]
    large, small = MemoryCache(), MemoryCache(SLOTS + size(show(rows[-1])) * len(keys))
    for cache in (large, small):
        for start in range(0, len(keys), 100):
            cache.fill(keys[start : start + 100], rows[start : start + 100], cache.epoch())
    assert len(kept_of(large, keys)) == len(keys)
    left = [shown is not None for shown in small.get_many(keys)]
    assert left == sorted(left) and CACHE_SLOTS_MIN // 2 < sum(left) < len(keys)


def test_like_a_dict_whatever_happens():
    """Against a model: puts of all sizes, changes and clears, round the ring many times."""
    chosen = random.Random(4)
    cache = MemoryCache(SLOTS + 20_000)
    keys = [post_key(post, chosen.choice([3, 2**64 - 1])) for post in range(60)]
    sizes = dict.fromkeys(keys, 0)  # the store
    asked_for: set[bytes] = set()  # since the last change: only these may be kept
    most = 0
    for _ in range(4_000):
        asked = chosen.sample(keys, chosen.randint(0, 8))
        step = chosen.random()
        if step < 0.7:
            rows = [make_row("x" * sizes[key]) for key in asked]
            cache.fill(asked, rows, cache.epoch())
            asked_for.update(asked)
        elif step < 0.99:
            cache.changed(asked)
            asked_for.difference_update(asked)
            sizes |= {key: chosen.choice([0, 1, 7, 300, 3_000]) for key in asked}
        else:
            cache.clear()
            asked_for.clear()
        found = dict(zip(keys, cache.get_many(keys), strict=True))
        kept = {key: shown for key, shown in found.items() if shown is not None}
        assert kept == {key: show(make_row("x" * sizes[key])) for key in kept}
        assert kept.keys() <= asked_for and cache.stats()["entries"] == len(kept)
        assert cache.stats()["bytes"] <= SLOTS + 20_000
        most = max(most, len(kept))
    assert most > 20


# --- whole pages ---


def compose(cache, keys, starts, limit, marker):
    raw = np.frombuffer(b"".join(keys), dtype=np.uint8)
    page = cache.compose(raw, np.array(starts, dtype=np.int64), limit, marker)
    return page if page is None else (bytes(page[0]), *page[1:])


def test_a_page_is_what_its_posts_joined_are():
    """Against the plain definition, over random slices: hidden ones, older ones, missing ones."""
    chosen = random.Random(5)
    cache = MemoryCache()
    author = 2**63 + 9
    posts = list(range(100, 40, -1))
    rows = [make_row("x" * (post % 7), post=post, offset=post) for post in posts]
    cache.fill([post_key(post, author) for post in posts], rows, cache.epoch())
    for _ in range(500):
        count, limit = chosen.randint(0, 30), chosen.randint(1, 25)
        asked = sorted(chosen.sample(posts, count), reverse=True)
        starts = [chosen.choice([0, 0, 0, 0, post, -1]) for post in asked]
        marker = chosen.choice([-1, 0, 70, 2**63 - 1])
        if asked and chosen.random() < 0.2:
            asked[-1], starts[-1] = 7, 0  # not kept
        if asked and chosen.random() < 0.2:
            starts[0] = asked[0] + 1  # from before the follow
        among = list(zip(asked, starts, strict=True))[:limit]
        shown = [(index, post) for index, (post, start) in enumerate(among) if start >= 0]
        page = compose(cache, [inbox_key(5, p, author) for p in asked], starts, limit, marker)
        if any(post == 7 or start > post for post, start in among if start >= 0):
            assert page is None
            continue
        found = cache.get_many([post_key(post, author) for _, post in shown])
        wanted = b",".join(
            one.fragment + (b"true}" if post <= marker else b"false}")
            for one, (_, post) in zip(found, shown, strict=True)
        )
        assert page == (wanted, len(shown), shown[-1][0] if shown else -1)
        assert len(json.loads(b"[" + wanted + b"]")) == len(shown)


# --- all at once ---


def test_fillers_and_the_worker_at_once_race():
    """After `changed` returned nothing older is ever found, whatever fillers are doing."""
    cache = MemoryCache(SLOTS + 20 * 500)
    keys = [key_of(b"%d" % i) for i in range(8)]
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
    kept_of(cache, keys)
