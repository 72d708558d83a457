"""The post cache on Redis: shared by the workers and readers of a cell. Losing it, or any part of
it, at any moment changes no answer, only speed.

| key, behind `firecell:<cell>:<version>:` | value |
| --- | --- |
| `epoch` | random; replaced by every `changed`: a fill that began before it keeps nothing |
| `age` | random; entries of another age are not believed |
| `post:` + key | age, offset i64, the post's JSON as pages show it |

A filler notes the epoch, reads the store, and one script keeps what it read, unless it is there, if
the epoch is still the same: no moment between look and write, whoever else is at work, and a filler
that dies in between leaves nothing. A lost epoch equals no noted one, for it is random and not
counted, so FLUSHALL is safe. A worker changes the epoch and drops the posts in one transaction,
after the store has them. When that fails, or when it starts (its predecessor may have died in
between), it replaces the age first: nothing that was kept before counts any more. Until that has
worked this process believes nothing, and a thread tries again every second.

Time-outs are short, and after a failure nobody in this process asks Redis for a second: a dead
Redis costs a page nothing. Entries die by themselves (REDIS_TTL_S); how much memory they may take
is the server's `maxmemory`. Any number of threads.
"""

from __future__ import annotations

import logging
import secrets
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from cells.cache import NOT_THERE, show
from engine import limits
from engine.errors import Misconfigured
from engine.ports import PostRow, Shown

VERSION = 1
NO_EPOCH = -1  # Redis did not answer: nothing will be kept
_HEAD = struct.Struct(">Qq")
_TOKEN_BITS = 62
_log = logging.getLogger(__name__)

_FILL = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local age = redis.call('GET', KEYS[2])
if not age then age = ARGV[2] redis.call('SET', KEYS[2], age) end
for i = 3, #KEYS do
  if redis.call('GETRANGE', KEYS[i], 0, #age - 1) ~= age then
    redis.call('SET', KEYS[i], age .. ARGV[i + 1], 'EX', ARGV[3])
  end
end
return 1
"""


class RedisCache:
    """`engine.ports.PostCache` on Redis. `writer`: this process is a worker, so what others kept
    before it started is not believed."""

    remote = True

    def __init__(self, url: str, cell: str, *, writer: bool = False) -> None:
        """Connects to nothing yet. Raises Misconfigured (no redis-py, no such URL)."""
        try:
            redis: Any = import_module("redis")
            no_backoff = import_module("redis.backoff").NoBackoff()
            never_again = import_module("redis.retry").Retry(no_backoff, 0)
        except ImportError as error:
            raise Misconfigured(
                "a cache on Redis needs the [redis] extra: pip install 'firecell[redis]'"
            ) from error
        try:
            self._redis: Any = redis.Redis.from_url(
                url,
                socket_connect_timeout=limits.REDIS_CONNECT_S,
                socket_timeout=limits.REDIS_TIMEOUT_S,
                max_connections=limits.REDIS_CONNECTIONS_MAX,
                retry=never_again,
            )
        except ValueError as error:
            raise Misconfigured(f"{url!r} is no cache; write redis://HOST:PORT/0") from error
        self._faults: tuple[type[BaseException], ...] = (redis.RedisError, OSError)
        self._unreadable = (*self._faults, TypeError, ValueError)
        self._script: Any = self._redis.register_script(_FILL)
        self._prefix = f"firecell:{cell}:{VERSION}:".encode()
        self._epoch_key, self._age_key = self._prefix + b"epoch", self._prefix + b"age"
        self._closed_until = 0.0
        self._distrusted = writer
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None
        self._hits = self._misses = self._failures = 0
        if writer:
            self._distrust()

    # --- what readers do -------------------------------------------------------------------------

    def epoch(self) -> int:
        """Changes with every `changed`, of any process; -1 when Redis does not answer."""
        if not self._asks():
            return NO_EPOCH
        try:
            new = secrets.randbits(_TOKEN_BITS)
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(self._epoch_key, b"%d" % new, nx=True)
            pipe.get(self._epoch_key)
            return int(pipe.execute()[1])
        except self._unreadable as error:
            self._failed(error)
            return NO_EPOCH

    def get_many(self, keys: Sequence[bytes]) -> list[Shown | None]:
        """What is kept of the post keys, in their order."""
        nothing: list[Shown | None] = [None] * len(keys)
        if not keys or not self._asks():
            self._misses += len(keys)
            return nothing
        try:
            age, *values = self._redis.mget([self._age_key, *map(self._post, keys)])
        except self._faults as error:
            self._failed(error)
            self._misses += len(keys)
            return nothing
        found = [_unpack(value, age) for value in values] if age else nothing
        misses = found.count(None)
        self._misses += misses
        self._hits += len(found) - misses
        return found

    def compose(
        self, keys: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], limit: int, marker: int
    ) -> None:
        """A page is put together from what `get_many` brings."""

    def fill(
        self, keys: Sequence[bytes], rows: Sequence[PostRow | None], epoch: int
    ) -> list[Shown]:
        """Keep rows that were read at `epoch`; what to show of each either way."""
        shown = [show(row) for row in rows]
        kept = [
            (self._post(key), _pack(entry))
            for key, entry in zip(keys, shown, strict=True)
            if entry is not NOT_THERE  # a post that is not there yet may come
        ]
        if epoch == NO_EPOCH or not kept or not self._asks():
            return shown
        try:
            self._script(
                keys=[self._epoch_key, self._age_key, *(key for key, _ in kept)],
                args=[epoch, _token(), limits.REDIS_TTL_S, *(value for _, value in kept)],
            )
        except self._faults as error:
            self._failed(error)
        return shown

    # --- what the worker does --------------------------------------------------------------------

    def changed(self, keys: Sequence[bytes]) -> None:
        """Forget written posts, from the worker, after that is durable."""
        if self._distrusted or not self._asks():
            self._distrust()
            return
        try:
            pipe = self._redis.pipeline(transaction=True)
            pipe.set(self._epoch_key, b"%d" % secrets.randbits(_TOKEN_BITS))
            if keys:
                pipe.delete(*map(self._post, keys))
            pipe.execute()
        except self._faults as error:
            self._failed(error)
            self._distrust()

    def clear(self) -> None:
        """Believe nothing that was kept so far: changes no answer."""
        self._distrust()
        self._renew()

    def _distrust(self) -> None:
        """What Redis holds may be older than the store: believe nothing until the age is new."""
        with self._lock:
            self._distrusted = True
            if self._renewer is None:
                self._renewer = threading.Thread(
                    target=self._renew_until_done, name="redis-renew", daemon=True
                )
                self._renewer.start()

    def _renew_until_done(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._distrusted:
                    self._renewer = None
                    return
            if not self._renew():
                self._stop.wait(limits.REDIS_OPEN_S)

    def _renew(self) -> bool:
        """Replace age and epoch; whether Redis has done it."""
        with self._lock:
            try:
                pipe = self._redis.pipeline(transaction=True)
                pipe.set(self._age_key, _token())
                pipe.set(self._epoch_key, b"%d" % secrets.randbits(_TOKEN_BITS))
                pipe.execute()
            except self._faults as error:
                self._failed(error)
                return False
            self._distrusted = False  # a change that failed meanwhile waits for the lock
            self._closed_until = 0.0
        return True

    # --- the breaker -----------------------------------------------------------------------------

    def _asks(self) -> bool:
        """Whether Redis is asked at all just now."""
        return not self._distrusted and time.monotonic() >= self._closed_until

    def _failed(self, error: BaseException) -> None:
        """A failure is only a miss; nobody asks for a while."""
        self._failures += 1
        if time.monotonic() >= self._closed_until:
            _log.warning("Redis does not answer (%s): pages read the posts' table", error)
        self._closed_until = time.monotonic() + limits.REDIS_OPEN_S

    def _post(self, key: bytes) -> bytes:
        return self._prefix + b"post:" + key

    def stats(self) -> dict[str, int]:
        """entries and bytes (of the whole Redis; 0 when it does not answer), hits, misses and
        failures of this process."""
        entries = size = 0
        if self._asks():
            try:
                entries = int(self._redis.dbsize())
                size = int(self._redis.info("memory")["used_memory"])
            except self._faults as error:
                self._failed(error)
        return {
            "entries": entries,
            "bytes": size,
            "hits": self._hits,
            "misses": self._misses,
            "failures": self._failures,
        }

    def close(self) -> None:
        """Give the connections back. Idempotent."""
        self._stop.set()
        renewer = self._renewer
        if renewer is not None:
            renewer.join(limits.REDIS_OPEN_S + limits.REDIS_CONNECT_S)
        with suppress(*self._faults):
            self._redis.close()


def _token() -> bytes:
    return secrets.token_bytes(8)


def _pack(entry: Shown) -> bytes:
    """An entry behind its age."""
    return struct.pack(">q", entry.offset) + entry.fragment


def _unpack(value: bytes | None, age: bytes) -> Shown | None:
    """None for an entry of another age, or for none of ours."""
    if value is None or len(value) < _HEAD.size or value[:8] != age:
        return None
    return Shown(_HEAD.unpack_from(value)[1], value[_HEAD.size :])
