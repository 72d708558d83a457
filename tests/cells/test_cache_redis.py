"""The cache on Redis when Redis is flushed, stopped, killed: a miss, never an old post."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cells.cache_redis import NO_EPOCH, RedisCache
from engine import limits
from engine.errors import Misconfigured
from engine.keys import post_key
from tests.contract.test_cache import put, row, text
from tests.redis_server import RedisServer

pytestmark = pytest.mark.real
A, B = post_key(1, 7), post_key(2, 7)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


@pytest.fixture
def cache(server: RedisServer) -> Iterator[RedisCache]:
    cache = RedisCache(server.url, "c1")
    yield cache
    cache.close()


def wait_until_asked(cache: RedisCache) -> None:
    deadline = time.monotonic() + 10
    while cache.epoch() == NO_EPOCH:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_flushed_between_epoch_and_fill_keeps_nothing(
    cache: RedisCache, server: RedisServer
) -> None:
    """Nor does a counter that begins anew meet the noted one again."""
    epoch = cache.epoch()
    cache._redis.flushall()
    cache.fill([A], [row("a")], epoch)
    assert cache.get_many([A]) == [None]
    for _ in range(20):
        cache.changed([B])
        cache.fill([A], [row("a")], epoch)
    assert cache.get_many([A]) == [None]


def test_flushed_in_use_is_filled_again(cache: RedisCache) -> None:
    put(cache, A, row("a"))
    cache._redis.flushall()
    assert cache.get_many([A]) == [None]
    put(cache, A, row("a"))
    assert text(cache.get_many([A])[0]) == "a"


def test_cells_that_share_a_server_do_not_share_posts(
    cache: RedisCache, server: RedisServer
) -> None:
    other = RedisCache(server.url, "c2")
    put(cache, A, row("a"))
    assert other.get_many([A]) == [None]
    other.changed([A])
    assert text(cache.get_many([A])[0]) == "a"
    other.close()


def test_entries_go_away_by_themselves(cache: RedisCache) -> None:
    put(cache, A, row("a"))
    left = cache._redis.ttl(cache._post(A))
    assert 0 < left <= limits.REDIS_TTL_S


def test_a_dead_redis_is_only_a_miss_and_costs_nothing(
    cache: RedisCache, server: RedisServer
) -> None:
    put(cache, A, row("a"))
    server.stop()
    started = time.monotonic()
    for _ in range(200):
        assert cache.get_many([A]) == [None]
        assert cache.epoch() == NO_EPOCH
        assert text(cache.fill([A], [row("a")], NO_EPOCH)[0]) == "a"
    assert time.monotonic() - started < 1.0
    assert cache.stats()["entries"] == 0
    server.start()
    wait_until_asked(cache)
    put(cache, A, row("a"))
    assert text(cache.get_many([A])[0]) == "a"


def test_a_change_that_redis_did_not_get_is_made_up_for(
    cache: RedisCache, server: RedisServer
) -> None:
    """A stopped Redis still holds the post when it goes on; the change was written meanwhile."""
    reader = RedisCache(server.url, "c1")
    put(reader, A, row("old"))
    server.signal(signal.SIGSTOP)
    cache.changed([A])
    assert cache.get_many([A]) == [None]
    server.signal(signal.SIGCONT)
    deadline = time.monotonic() + 10
    while text(reader.get_many([A])[0]) == "old":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wait_until_asked(cache)
    assert cache.get_many([A]) == [None]
    reader.close()


def test_a_new_worker_believes_nothing_from_before_it_restart(
    cache: RedisCache, server: RedisServer
) -> None:
    """Its predecessor may have died between the store's write and the change of the cache."""
    put(cache, A, row("old"))
    worker = RedisCache(server.url, "c1", writer=True)
    wait_until_asked(worker)
    assert worker.get_many([A]) == [None] and cache.get_many([A]) == [None]
    put(cache, A, row("new"))
    assert text(worker.get_many([A])[0]) == "new"
    worker.close()


def test_clear_forgets_everything(cache: RedisCache) -> None:
    epoch = cache.epoch()
    put(cache, A, row("a"))
    cache.clear()
    assert cache.get_many([A]) == [None]
    cache.fill([A], [row("a")], epoch)
    assert cache.get_many([A]) == [None]


def test_damaged_entries_are_misses(cache: RedisCache) -> None:
    put(cache, A, row("a"))
    age = cache._redis.get(cache._age_key)
    for value in (b"", age, age + b"1234567", b"\x00" * 40):
        cache._redis.set(cache._post(A), value)
        assert cache.get_many([A]) == [None]


def test_a_wrong_url_is_named() -> None:
    with pytest.raises(Misconfigured, match="redis://HOST:PORT"):
        RedisCache("nonsense://x", "c1")
