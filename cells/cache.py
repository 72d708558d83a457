"""The in-process post cache: bounded by bytes, first in, first out.

Posts lie in one ring of bytes with a hash beside it (cells/cache_kernels.py), so that a page is
put together by one compiled call, and a hundred thousand posts are no work for the garbage
collector. Fan-out thread and readers share it: changes under one lock, look-ups without (a kernel
is atomic under the GIL). It is filled on read: encoding a post costs more than the fan-out may
spend, and a post that is written again (a retry, a replay) must not replace the first.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from cells import cache_kernels as kernels
from cells.cache_kernels import I64s, U8s
from engine.limits import CACHE_BYTES_DEFAULT, CACHE_SLOTS_MIN, CACHE_SLOTS_SHARE
from engine.ports import PostRow, Shown
from engine.wire import post_json

NOT_THERE = Shown(-1, b"")
_WORD = 8


def show(row: PostRow | None) -> Shown:
    """What pages need of a row; NOT_THERE for none, a tombstone, or an edit without its post."""
    if row is None or row.delete_offset >= 0 or row.offset < 0:
        return NOT_THERE
    return Shown(row.offset, post_json(row)[:-1] + b',"seen":')


class MemoryCache:
    """`engine.ports.PostCache` in this process. Keys are post keys, 16 bytes."""

    remote = False

    def __init__(self, bytes_max: int = CACHE_BYTES_DEFAULT) -> None:
        most = bytes_max // CACHE_SLOTS_SHARE // (_WORD * kernels.SLOT_WORDS)
        self._slots_max = max(1 << max(most.bit_length() - 1, 0), CACHE_SLOTS_MIN)
        slots_bytes = self._slots_max * _WORD * kernels.SLOT_WORDS
        self._arena = np.empty(max(bytes_max - slots_bytes, 0) // _WORD, dtype=np.uint64)
        self._head = np.zeros(kernels.COLUMNS, dtype=np.int64)
        self._head[kernels.ARENA] = self._arena.ctypes.data
        self._head[kernels.ARENA_WORDS] = len(self._arena)
        self._epoch = 0
        self._lock = threading.Lock()
        self._hits = 0
        self._misses = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        slots = np.zeros((CACHE_SLOTS_MIN, kernels.SLOT_WORDS), dtype=np.uint64)
        kernels.begin(self._head, slots.ctypes.data, CACHE_SLOTS_MIN - 1)
        self._slots = slots  # only now may old ones go

    def epoch(self) -> int:
        """Changes with every `changed`."""
        return self._epoch

    def get_many(self, keys: Sequence[bytes]) -> list[Shown | None]:
        """What is kept of the post keys, in their order."""
        if not keys:
            return []
        found, fragments = kernels.find(self._head, _joined(keys))
        data, pairs = fragments.tobytes(), iter(found.tolist())
        shown: list[Shown | None] = []
        at = 0
        for offset, length in zip(pairs, pairs, strict=True):
            shown.append(None if offset < 0 else Shown(offset, data[at : at + length]))
            at += length
        misses = shown.count(None)
        self._misses += misses
        self._hits += len(shown) - misses
        return shown

    def compose(
        self, keys: U8s, starts: I64s, limit: int, marker: int
    ) -> tuple[memoryview, int, int] | None:
        """The posts of a slice of inbox keys, as `engine.ports.PostCache` says."""
        page, taken, last = kernels.compose(self._head, keys, starts, limit, marker)
        if taken < 0:
            return None
        self._hits += taken
        return page.data, taken, last

    def fill(
        self, keys: Sequence[bytes], rows: Sequence[PostRow | None], epoch: int
    ) -> list[Shown]:
        """Keep rows that were read at `epoch`; what to show of each either way."""
        shown = [show(row) for row in rows]
        # a post that is not there yet may come: it is not kept
        kept = [(key, one) for key, one in zip(keys, shown, strict=True) if one.offset >= 0]
        if not kept:
            return shown
        fragments = [one.fragment for _, one in kept]
        arrays = (
            _joined([key for key, _ in kept]),
            np.array([one.offset for _, one in kept], dtype=np.int64),
            np.array([len(fragment) for fragment in fragments], dtype=np.int64),
            _joined(fragments),
        )
        with self._lock:
            if self._epoch == epoch:
                self._grow(int(self._head[kernels.ENTRIES]) + len(kept))
                kernels.put(self._head, *arrays)
        return shown

    def _grow(self, entries: int) -> None:
        """Slots for so many entries, as far as they may grow: beyond, the oldest make room."""
        slots = len(self._slots)
        while 2 * entries > slots and slots < self._slots_max:
            slots *= 2
        if slots > len(self._slots):
            grown = np.zeros((slots, kernels.SLOT_WORDS), dtype=np.uint64)
            kernels.move(self._head, grown.ctypes.data, slots - 1)
            self._slots = grown  # only now may the old ones go

    def changed(self, keys: Sequence[bytes]) -> None:
        """Forget written posts, from the worker, after that is durable."""
        with self._lock:
            self._epoch += 1
            if keys:
                kernels.forget(self._head, _joined(keys))

    def clear(self) -> None:
        """Forget everything: changes no answer."""
        with self._lock:
            self._epoch += 1
            self._begin_anew()

    def stats(self) -> dict[str, int]:
        """entries; bytes in use: what was forgotten counts until its place is used again; hits,
        misses."""
        head = self._head.tolist()
        words = head[kernels.HEAD] - head[kernels.TAIL]
        if head[kernels.WRAPPED]:
            words += head[kernels.END]
        return {
            "entries": head[kernels.ENTRIES],
            "bytes": words * _WORD + self._slots.nbytes,
            "hits": self._hits,
            "misses": self._misses,
        }


def _joined(parts: Sequence[bytes]) -> U8s:
    """(n,) u8: the bytes of all parts."""
    return np.frombuffer(b"".join(parts), dtype=np.uint8)
