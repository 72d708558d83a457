"""The contract of the port `PostCache`: every backend passes the same tests.

What is kept changes no answer: nothing that was read before a change is found after it.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cells.cache import MemoryCache
from cells.cache_redis import RedisCache
from engine.codec import encode
from engine.events import Post
from engine.keys import post_key
from engine.ports import PostCache, PostRow, Shown
from tests.redis_server import RedisServer

NOW = 1_769_860_800_000
BACKENDS = ["memory", pytest.param("redis", marks=pytest.mark.real)]
Opens = Callable[[], PostCache]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=BACKENDS)
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """Opens the same cache as often as wanted; on Redis each is another process's."""
    opened: list[PostCache] = []
    if request.param == "memory":
        one = MemoryCache()
        yield lambda: one
        return
    server = RedisServer(tmp_path / "redis")

    def redis() -> PostCache:
        opened.append(RedisCache(server.url, "c1"))
        return opened[-1]

    yield redis
    for cache in opened:
        cache.close()
    server.stop()


@pytest.fixture
def cache(opens: Opens) -> PostCache:
    return opens()


def row(text: str = "x", deleted: int = -1, offset: int = 3) -> PostRow:
    frame = b"" if deleted >= 0 or offset < 0 else encode(Post(7, 5, text=text))
    return PostRow(offset, NOW, frame, -1, 0, b"", deleted)


def text(shown: Shown | None) -> str | None:
    if shown is None:
        return None
    found: str = json.loads(shown.fragment + b"true}")["text"]
    return found


def put(cache: PostCache, key: bytes, what: PostRow | None) -> Shown:
    return cache.fill([key], [what], cache.epoch())[0]


A, B, C = (post_key(number, 7) for number in (1, 2, 3))


def test_kept_and_found_in_the_order_asked(opens: Opens) -> None:
    cache = opens()
    filled = cache.fill([A, B], [row("a", offset=12), row("b")], cache.epoch())
    assert [text(shown) for shown in filled] == ["a", "b"] and filled[0].offset == 12
    for reader in (cache, opens()):
        assert reader.get_many([B, C, A, B]) == [filled[1], None, filled[0], filled[1]]
        assert reader.get_many([]) == []
    assert {"entries", "bytes", "hits", "misses"} <= cache.stats().keys()


@pytest.mark.parametrize("what", [None, row(deleted=4), row(offset=-1)])
def test_what_is_not_there_is_not_kept(cache: PostCache, what: PostRow | None) -> None:
    assert put(cache, A, what) == Shown(-1, b"")
    assert cache.get_many([A]) == [None]


def test_changed_forgets_what_was_written(opens: Opens) -> None:
    worker, reader = opens(), opens()
    put(reader, A, row("a"))
    kept = put(reader, B, row("b"))
    worker.changed([A, A, C])
    assert reader.get_many([A, B]) == [None, kept]


def test_epoch_changes_with_every_change(opens: Opens) -> None:
    worker, reader = opens(), opens()
    seen = {reader.epoch()}
    assert reader.epoch() in seen
    for keys in ([A], [], [B]):
        worker.changed(keys)
        seen.add(reader.epoch())
    assert len(seen) == 4


def test_a_fill_that_began_before_a_change_keeps_nothing_race(opens: Opens) -> None:
    worker, reader = opens(), opens()
    epoch = reader.epoch()
    worker.changed([A])
    shown = reader.fill([A, B], [row("old"), row("b")], epoch)
    assert [text(one) for one in shown] == ["old", "b"]
    assert reader.get_many([A, B]) == [None, None]
    put(reader, A, row("new"))
    assert text(worker.get_many([A])[0]) == "new"


def test_fillers_and_the_worker_at_once_race(opens: Opens) -> None:
    """After `changed` returned nothing older is ever found, whatever fillers are doing."""
    keys = [post_key(number, 7) for number in range(1, 7)]
    table = dict.fromkeys(keys, 0)
    done = threading.Event()
    failures: list[object] = []

    def fill(seed: int, cache: PostCache) -> None:
        chosen = random.Random(seed)
        try:
            while not done.is_set():
                asked = chosen.sample(keys, 3)
                epoch = cache.epoch()
                rows = [row(str(table[key])) for key in asked]
                if chosen.random() < 0.3:
                    time.sleep(0.001)
                cache.fill(asked, rows, epoch)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=fill, args=(seed, opens())) for seed in range(3)]
    for thread in threads:
        thread.start()
    worker = opens()
    chosen = random.Random(9)
    for turn in range(1, 300):
        key = chosen.choice(keys)
        table[key] = turn
        worker.changed([key])
        for at, found in zip(keys, worker.get_many(keys), strict=True):
            if found is not None and text(found) != str(table[at]):
                failures.append((at, text(found), table[at]))
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
