"""Read markers on LMDB: born in the cell, so a database of their own, synced before answered (I7).

Key: the reader, u64 big-endian. Value: version byte 1, then the newest seen post id, u64
big-endian. Advancing is a maximum, so devices may report in any order.

Any number of threads may call at once. Those that advance together share one synced commit: each
leaves its wish in the waiting batch, and the first to get the commit lock writes them all.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import lmdb

from cells.synced import SyncedDatabase, translate
from engine.errors import Corruption, FirecellError
from engine.limits import MARKERS_MAP_BYTES, MARKERS_READERS_MAX, RESTORE_MARKERS

VERSION = 1
_KEY = struct.Struct(">Q")
_VALUE = struct.Struct(">BQ")


class _Batch:
    """Wishes that share a commit, and what came of them."""

    def __init__(self) -> None:
        self.wishes: dict[int, int] = {}
        self.in_force: dict[int, int] = {}
        self.fault: FirecellError | None = None
        self.done = False


class EmbeddedMarkers(SyncedDatabase):
    """`engine.ports.Markers` on LMDB. Use `EmbeddedMarkers.open`."""

    what = "markers"
    map_bytes = MARKERS_MAP_BYTES
    readers_max = MARKERS_READERS_MAX

    def __init__(self, environment: lmdb.Environment) -> None:
        """Over an open environment; `open` makes one."""
        super().__init__(environment)
        self._waiting = _Batch()
        self._waiting_lock = threading.Lock()

    @classmethod
    def check(cls, key: bytes, value: bytes) -> None:
        """Corruption when it is no marker."""
        if len(key) != _KEY.size:
            raise Corruption(f"a marker's key has {len(key)} bytes, not {_KEY.size}")
        _unpack(value)

    def get(self, reader: int) -> int | None:
        """The marker in force, a post id; None when nothing was marked yet."""
        try:
            with self._opened().begin(buffers=False) as transaction:
                value = transaction.get(_KEY.pack(reader))
        except lmdb.Error as error:
            raise translate(error, "read a marker") from error
        return None if value is None else _unpack(value)

    def advance(self, reader: int, post: int) -> int:
        """Move forward only; the marker in force, durable on return. Raises DiskFull,
        Unavailable, Corruption: then nothing was promised, and trying again is safe."""
        with self._waiting_lock:
            batch = self._waiting
            batch.wishes[reader] = max(post, batch.wishes.get(reader, 0))
        with self._commit_lock:
            if not batch.done:
                with self._waiting_lock:
                    self._waiting = _Batch()  # `batch` is closed: nobody adds to it now
                self._commit(batch)
        if batch.fault is not None:
            raise batch.fault
        return batch.in_force[reader]

    def _commit(self, batch: _Batch) -> None:
        try:
            with self._opened().begin(write=True) as transaction:
                for reader, post in batch.wishes.items():
                    key = _KEY.pack(reader)
                    value = transaction.get(key)
                    before = -1 if value is None else _unpack(value)
                    if post > before:
                        transaction.put(key, _VALUE.pack(VERSION, post))
                    batch.in_force[reader] = max(before, post)
        except lmdb.Error as error:
            batch.fault = translate(error, "write markers")
        except FirecellError as error:
            batch.fault = error
        finally:
            batch.done = True

    def all(self) -> Iterator[tuple[int, int]]:
        """(reader, marker) of everybody, as they are when the walk begins."""
        try:
            with self._opened().begin(buffers=False) as transaction:
                for key, value in self._pairs(transaction):
                    yield _KEY.unpack(key)[0], _unpack(value)
        except lmdb.Error as error:
            raise translate(error, "read the markers") from error

    def advance_many(self, markers: Sequence[tuple[int, int]]) -> None:
        """`advance` for many (reader, post), in one commit."""
        batch = _Batch()
        batch.wishes.update(markers)
        with self._commit_lock:
            self._commit(batch)
        if batch.fault is not None:
            raise batch.fault


def add_all(
    markers: Iterable[tuple[int, int]],
    advance_many: Callable[[Sequence[tuple[int, int]]], None],
) -> None:
    """Give all of (reader, post) to `advance_many`, RESTORE_MARKERS at once."""
    left = iter(markers)
    while some := list(islice(left, RESTORE_MARKERS)):
        advance_many(some)


def _unpack(value: bytes) -> int:
    if len(value) != _VALUE.size or value[0] != VERSION:
        raise Corruption(
            f"a marker of {len(value)} bytes is not of version {VERSION}: use the software that"
            " wrote it, or restore the markers' folder"
        )
    post: int = _VALUE.unpack(value)[1]
    return post
