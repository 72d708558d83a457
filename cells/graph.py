"""The graph: followers by author, homed in this cell, in memory, partition by partition.

Each partition is a *base* that never changes (cells/graph_base.py) and a small *overlay* of edges
that changed since, bounded; a full one is merged into a new base. Readers are dense u32 indexes
(cells/users.py). The toggles in the store are the truth, a snapshot file makes a start fast
(cells/graph_file.py).

Concurrency: one thread writes (`follow`, `unfollow`, `load_partition`, `recipients`, `freeze`,
`save`). Any thread may look in beside it without a lock (`interval_from`, `interval_of_keys`,
`followers`, `follower_count`, `reader_ids`): a look-up is one compiled call that holds the
interpreter's lock, so it sees each change wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cells import graph_file, graph_kernels
from cells.graph_base import Base, base_of, folded, merged
from cells.graph_file import Frozen
from cells.users import Users
from engine import limits
from engine.errors import invariant
from engine.homing import partition_of
from engine.keys import INBOX_KEY_BYTES

U8s = npt.NDArray[np.uint8]
U64s = npt.NDArray[np.uint64]
U32s = npt.NDArray[np.uint32]
I64s = npt.NDArray[np.int64]

_AUTHORS_OF_KEYS = (16, INBOX_KEY_BYTES)  # first byte, and bytes from one to the next
_NOBODY = np.empty(0, dtype=np.uint32)
_NO_BASE = base_of(np.empty(0, np.uint64), _NOBODY, np.empty(0, np.uint64))


class _Overlay:
    """Room for changed edges of one partition; what the arrays hold: cells/graph_kernels.py."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.authors = np.empty(room, dtype=np.uint64)
        self.readers = np.empty(room, dtype=np.uint32)
        self.froms = np.empty(room, dtype=np.int64)
        self.places = np.empty(room, dtype=np.int32)
        self.chain = np.empty(room, dtype=np.int32)
        slots = 1 << (int(room / limits.GRAPH_USERS_LOAD_MAX) - 1).bit_length()
        self.pairs = np.zeros(slots, dtype=np.int32)
        self.heads = np.zeros(slots, dtype=np.int32)

    def grown(self, room: int) -> _Overlay:
        """A larger one with the same entries; its slots are filled by publishing it."""
        overlay = _Overlay(room)
        for name in ("authors", "readers", "froms", "places"):
            getattr(overlay, name)[: self.room] = getattr(self, name)
        return overlay

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (value for value in vars(self).values() if isinstance(value, np.ndarray))
        return sum(array.nbytes for array in arrays)


class Graph:
    """Followers of every author, as far as they are at home here.

    `end[partition]`: toggles below this offset are in the graph already and change nothing.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.end = [0] * partitions
        self._users = Users()
        self._table = np.zeros((partitions, graph_kernels.COLUMNS), dtype=np.int64)
        self._bases = [_NO_BASE] * partitions
        first_room = limits.GRAPH_OVERLAY_EDGES_FIRST
        self._overlays = [_Overlay(first_room) for _ in range(partitions)]
        self._copies: list[dict[int, U32s]] = [{} for _ in range(partitions)]
        self._copied_edges = 0
        for partition in range(partitions):
            self._publish(partition, _NO_BASE, self._overlays[partition], 0)

    # --- changing: one thread ---

    def follow(self, partition: int, author: int, reader: int, offset: int) -> bool:
        """Reader follows author from `offset` on; whether that opened an interval.

        A repeated follow opens nothing, nor does one of oneself, nor one below `end[partition]`:
        there the fold of the stored toggles decides. Offsets of a partition must ascend.
        """
        code = self._toggle(partition, author, reader, offset, True)
        return code == graph_kernels.OPENED

    def unfollow(self, partition: int, author: int, reader: int, offset: int) -> bool:
        """Reader follows author no more; whether that closed an interval."""
        code = self._toggle(partition, author, reader, offset, False)
        return code == graph_kernels.CLOSED

    def _toggle(self, partition: int, author: int, reader: int, offset: int, follows: bool) -> int:
        if offset < self.end[partition] or author == reader:
            return graph_kernels.NOTHING
        code = self._change(partition, author, reader, offset, follows)
        self.end[partition] = offset + 1
        return code

    def mend(self, partition: int, author: int, reader: int, start: int) -> None:
        """Make one edge what the fold of its stored toggles says, wherever they lie: followed from
        `start` on; -1: not followed. For replays that found a toggle damaged."""
        self._change(partition, author, reader, 0, False)
        if start >= 0:
            self._change(partition, author, reader, start, True)

    def _change(self, partition: int, author: int, reader: int, offset: int, follows: bool) -> int:
        call = (self._users.head, self._table, partition, author, reader, offset, follows)
        code: int = graph_kernels.toggle(*call)
        while code >= graph_kernels.USERS_FULL:
            if code == graph_kernels.USERS_FULL:
                self._users.grow()
            else:
                self._make_room(partition)
            code = graph_kernels.toggle(*call)
        if self._copies[partition]:
            self._forget_copy(partition, author)
        return code

    def _make_room(self, partition: int) -> None:
        """A full overlay doubles up to its bound; then it is merged."""
        overlay = self._overlays[partition]
        share = int(limits.GRAPH_OVERLAY_SHARE * len(self._bases[partition].readers))
        room_max = max(limits.GRAPH_OVERLAY_EDGES_MIN, share)
        if overlay.room >= room_max:
            self._merge(partition)
        else:
            larger = overlay.grown(min(2 * overlay.room, room_max))
            self._publish(partition, self._bases[partition], larger, overlay.room)

    def _merge(self, partition: int) -> None:
        """Overlay -> base."""
        count = int(self._table[partition, graph_kernels.OVER_COUNT])
        overlay = self._overlays[partition]
        base = merged(
            self._bases[partition],
            overlay.authors[:count],
            overlay.readers[:count],
            overlay.froms[:count],
            overlay.places[:count],
        )
        edges = int(self._table[partition, graph_kernels.EDGES])
        invariant(len(base.readers) == edges, "merging neither loses nor makes follows")
        self._replace(partition, base)

    def _replace(self, partition: int, base: Base) -> None:
        """A new base and an empty overlay."""
        self._publish(partition, base, _Overlay(limits.GRAPH_OVERLAY_EDGES_FIRST), 0)
        self._copied_edges -= sum(map(len, self._copies[partition].values()))
        self._copies[partition].clear()

    def _publish(self, partition: int, base: Base, overlay: _Overlay, count: int) -> None:
        """Let all look-ups see these arrays; only then let go of the ones before."""
        fresh = base is not self._bases[partition]
        edges = len(base.readers) if fresh else self._table[partition, graph_kernels.EDGES]
        addresses = [
            array.ctypes.data for array in (base.authors, base.indptr, base.readers, base.froms)
        ]
        row = np.array(
            [
                addresses[0], len(base.authors), *addresses[1:], base.first,
                base.froms.itemsize == 8, edges,
                overlay.authors.ctypes.data, overlay.readers.ctypes.data,
                overlay.froms.ctypes.data, overlay.places.ctypes.data, overlay.chain.ctypes.data,
                count, overlay.room,
                overlay.pairs.ctypes.data, overlay.heads.ctypes.data, len(overlay.pairs) - 1,
            ],
            dtype=np.int64,
        )  # fmt: skip
        graph_kernels.publish(self._table, partition, row)
        self._bases[partition], self._overlays[partition] = base, overlay

    def load_partition(
        self, partition: int, chunks: Iterable[npt.NDArray[np.uint64]], position: int = 0
    ) -> None:
        """Replace a partition by the fold of stored toggles: u64 (n, 4) rows of author, reader,
        offset, follows (0 or 1), in key order over all chunks.

        `end[partition]` becomes the highest offset + 1, or `position` if that is more.
        """
        edges, end = folded(chunks)
        edges = edges[edges[:, 0] != edges[:, 1]]
        authors = np.ascontiguousarray(edges[:, 0])
        readers = self._users.index_many(np.ascontiguousarray(edges[:, 1]), create=True)
        rows = np.zeros(len(authors), dtype=np.uint64)
        np.cumsum(authors[1:] != authors[:-1], out=rows[1:])
        order = np.argsort((rows << np.uint64(32)) | readers)
        self._replace(partition, base_of(authors, readers[order], edges[:, 2][order]))
        self.end[partition] = max(end, position)

    # --- fan-out: the same thread ---

    def recipients(self, partition: int, author: int) -> U32s:
        """The author's followers at this moment: reader indexes, u32, in no order that means
        anything. The array never changes, whatever is followed later."""
        start, stop, newest = graph_kernels.find_row(self._table, partition, author)
        if newest < 0:
            return self._bases[partition].readers[start:stop] if stop > start else _NOBODY
        copies = self._copies[partition]
        copy = copies.get(author)
        if copy is None:
            copy = graph_kernels.copy_followers(self._table, partition, author)
            copy.flags.writeable = False
            self._keep_copy(partition, author, copy)
        return copy

    def _keep_copy(self, partition: int, author: int, copy: U32s) -> None:
        if self._copied_edges + len(copy) > limits.GRAPH_COPIES_EDGES_MAX:
            for copies in self._copies:
                copies.clear()
            self._copied_edges = 0
        self._copies[partition][author] = copy
        self._copied_edges += len(copy)

    def _forget_copy(self, partition: int, author: int) -> None:
        copy = self._copies[partition].pop(author, None)
        if copy is not None:
            self._copied_edges -= len(copy)

    @staticmethod
    def gather(recipients: Sequence[U32s]) -> tuple[I64s, U32s]:
        """Many `recipients` in one: (indptr i64 (n + 1,), reader indexes u32)."""
        indptr = np.zeros(len(recipients) + 1, dtype=np.int64)
        np.cumsum([len(readers) for readers in recipients], out=indptr[1:])
        return indptr, np.concatenate(recipients) if recipients else _NOBODY

    # --- looking in: any thread ---

    @property
    def reader_ids(self) -> U64s:
        """Reader index -> user id, u64. What is added later does not change this array."""
        return self._users.ids

    def interval_from(self, reader: int, authors: Sequence[int] | U64s) -> I64s:
        """Per author the offset from which `reader` follows now, i64; -1: does not follow; 0 for
        the reader, as everybody follows themselves from the beginning."""
        raw = np.ascontiguousarray(authors, dtype=np.uint64).astype(">u8").view(np.uint8)
        starts: I64s = graph_kernels.intervals(self._users.head, self._table, reader, raw, 0, 8)
        return starts

    def interval_of_keys(self, reader: int, keys: U8s) -> I64s:
        """`interval_from` of the authors of joined inbox keys, u8 (24 n,)."""
        starts: I64s = graph_kernels.intervals(
            self._users.head, self._table, reader, keys, *_AUTHORS_OF_KEYS
        )
        return starts

    def followers(self, author: int, after_reader: int, limit: int) -> list[int]:
        """At most `limit` ids above `after_reader` (-1: from the first), ascending."""
        partition = partition_of(author, self.partitions)
        indexes = graph_kernels.copy_followers(self._table, partition, author)
        ids = self._users.ids[indexes]
        if after_reader >= 0:
            ids = ids[ids > np.uint64(after_reader)]
        if len(ids) > limit:
            ids = np.partition(ids, limit)[:limit]
        ids.sort()
        found: list[int] = ids.tolist()
        return found

    def follower_count(self, author: int) -> int:
        """How many follow the author now."""
        partition = partition_of(author, self.partitions)
        return int(graph_kernels.count_followers(self._table, partition, author))

    @property
    def edges(self) -> int:
        """Follows in all partitions."""
        edges: I64s = self._table[:, graph_kernels.EDGES]
        return int(edges.sum())

    @property
    def readers(self) -> int:
        """Users that ever followed somebody."""
        return len(self._users)

    def bytes_used(self) -> int:
        """Memory of everything: bases, overlays, users, copies, in bytes."""
        arrays: list[Any] = [self._users, self._table, *self._bases, *self._overlays]
        used: int = sum(array.nbytes for array in arrays)
        return used + self._copied_edges * _NOBODY.itemsize

    # --- snapshots ---

    def freeze(self, positions: Sequence[int], stamp: str = "") -> Frozen:
        """The graph as it is, for `graph_file.write` in any thread; merges all overlays.

        `positions`: next offsets that it covers, all partitions. `stamp`: firehose, cell, home.
        """
        invariant(len(positions) == self.partitions, "a snapshot names all partitions")
        for partition in range(self.partitions):
            if self._table[partition, graph_kernels.OVER_COUNT]:
                self._merge(partition)
        bases, ends = list(self._bases), list(self.end)
        return Frozen(self._users.ids, bases, ends, list(positions), stamp)

    def save(self, path: Path, positions: Sequence[int], stamp: str = "") -> int:
        """`freeze` and write; bytes of the file. Raises DiskFull, Unavailable."""
        return graph_file.write(path, self.freeze(positions, stamp))

    @classmethod
    def load(cls, path: Path, stamp: str = "") -> tuple[Graph, list[int]] | None:
        """(graph, the positions it was saved with: read the log from there); None when there is no
        snapshot that is good, whole and of the same stamp."""
        frozen = graph_file.read(path, stamp)
        if frozen is None:
            return None
        graph = cls(len(frozen.bases))
        graph._users = Users(frozen.ids)
        graph.end = list(map(max, frozen.ends, frozen.positions))
        for partition, base in enumerate(frozen.bases):
            graph._replace(partition, base)
        return graph, list(frozen.positions)
