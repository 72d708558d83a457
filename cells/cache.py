"""The in-process post cache: bounded by bytes, first in, first out.

Fan-out thread and readers share it: changes under one lock, look-ups without (a dict look-up is
atomic under the GIL). It is filled on read: encoding a post costs more than the fan-out may spend,
and a post that is written again (a retry, a replay) must not replace the first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from engine.limits import CACHE_BYTES_DEFAULT, CACHE_ENTRY_BYTES_OVERHEAD
from engine.ports import PostRow, Shown
from engine.wire import post_json

NOT_THERE = Shown(-1, b"")


def show(row: PostRow | None) -> Shown:
    """What pages need of a row; NOT_THERE for none, a tombstone, or an edit without its post."""
    if row is None or row.delete_offset >= 0 or row.offset < 0:
        return NOT_THERE
    return Shown(row.offset, post_json(row)[:-1] + b',"seen":')


class MemoryCache:
    """`engine.ports.PostCache` in this process."""

    remote = False

    def __init__(self, bytes_max: int = CACHE_BYTES_DEFAULT) -> None:
        self._bytes_max = bytes_max
        self._entries: OrderedDict[bytes, Shown] = OrderedDict()
        self._bytes = 0
        self._epoch = 0
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0

    def epoch(self) -> int:
        """Changes with every `changed`."""
        return self._epoch

    def get_many(self, keys: Sequence[bytes]) -> list[Shown | None]:
        """What is kept of the post keys, in their order."""
        get = self._entries.get
        shown = [get(key) for key in keys]
        misses = shown.count(None)
        self._misses += misses
        self._hits += len(shown) - misses
        return shown

    def fill(
        self, keys: Sequence[bytes], rows: Sequence[PostRow | None], epoch: int
    ) -> list[Shown]:
        """Keep rows that were read at `epoch`; what to show of each either way."""
        shown = [show(row) for row in rows]
        with self._lock:
            if self._epoch == epoch:
                for key, entry in zip(keys, shown, strict=True):
                    if entry is not NOT_THERE:  # a post that is not there yet may come
                        self._keep(key, entry)
                self._evict()
        return shown

    def changed(self, keys: Sequence[bytes]) -> None:
        """Forget written posts, from the worker, after that is durable."""
        with self._lock:
            self._epoch += 1
            for key in keys:
                entry = self._entries.pop(key, None)
                if entry is not None:
                    self._bytes -= _size(entry)

    def clear(self) -> None:
        """Forget everything: changes no answer."""
        with self._lock:
            self._epoch += 1
            self._entries.clear()
            self._bytes = 0

    def stats(self) -> dict[str, int]:
        """entries, bytes, hits, misses."""
        return {
            "entries": len(self._entries),
            "bytes": self._bytes,
            "hits": self._hits,
            "misses": self._misses,
        }

    def _keep(self, key: bytes, entry: Shown) -> None:
        old = self._entries.get(key)
        if old is not None:
            self._bytes -= _size(old)
        self._entries[key] = entry
        self._bytes += _size(entry)

    def _evict(self) -> None:
        while self._bytes > self._bytes_max and self._entries:
            _, entry = self._entries.popitem(last=False)
            self._bytes -= _size(entry)


def _size(entry: Shown) -> int:
    return len(entry.fragment) + CACHE_ENTRY_BYTES_OVERHEAD
