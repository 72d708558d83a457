"""The base of one partition: its follow edges in compressed sparse rows, never changed in place.

| array | holds |
| --- | --- |
| authors | u64, ascending: who has followers here |
| indptr | u32 (authors + 1): author i's edges are indptr[i]:indptr[i + 1] |
| readers | u32 indexes into the users table, ascending within an author |
| froms | u32: the offset of the follow less `first`; u64 when they span more than that |

So an edge takes 8 bytes, an author 12. A changed base is a new one (`merged`): whoever holds the
old one goes on undisturbed. The compiled loops here run without the interpreter's lock and may run
beside everything; they share nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit, types

from engine.errors import invariant
from engine.limits import U32_MAX

U64s = npt.NDArray[np.uint64]
U32s = npt.NDArray[np.uint32]
I64s = npt.NDArray[np.int64]


class Base(NamedTuple):
    """The arrays above; `first` is the offset that `froms` count from."""

    authors: U64s
    indptr: U32s
    readers: U32s
    froms: npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
    first: int

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.authors.nbytes + self.indptr.nbytes + self.readers.nbytes + self.froms.nbytes

    def offsets(self) -> U64s:
        """The offset of the follow of each edge, u64."""
        offsets: U64s = self.froms.astype(np.uint64)
        offsets += np.uint64(self.first)
        return offsets


def base_of(authors: U64s, readers: U32s, offsets: U64s) -> Base:
    """The base of edges (author, reader index, offset), ascending by (author, reader)."""
    edges = len(authors)
    invariant(edges <= U32_MAX // 2, f"{edges} follows in one partition: use more partitions")
    starts = np.flatnonzero(authors[1:] != authors[:-1]) + 1 if edges else np.empty(0, np.int64)
    indptr = np.zeros(len(starts) + (2 if edges else 1), dtype=np.uint32)
    indptr[1 : len(starts) + 1] = starts
    indptr[-1] = edges
    first = int(offsets.min()) if edges else 0
    span = int(offsets.max()) - first if edges else 0
    deltas = offsets - np.uint64(first)
    froms = deltas.astype(np.uint32) if span <= U32_MAX else deltas
    return _sealed(Base(authors[indptr[:-1]], indptr, np.array(readers), froms, first))


def _sealed(base: Base) -> Base:
    """Nobody writes to these arrays any more: views of them are given away."""
    for array in (base.authors, base.indptr, base.readers, base.froms):
        array.flags.writeable = False
    return base


def merged(
    base: Base, authors: U64s, readers: U32s, froms: I64s, places: npt.NDArray[np.int32]
) -> Base:
    """`base` with changes: edges (author, reader index) that hold from `froms`, -1: no more.
    `places` says where the edge is in the base, -1: it is not."""
    old = np.flatnonzero(places >= 0)
    old = old[np.argsort(places[old])]
    new = np.flatnonzero((places < 0) & (froms >= 0))
    new = new[np.lexsort((readers[new], authors[new]))]
    room = len(base.readers) + len(new)
    to_authors, to_readers = np.empty(room, dtype=np.uint64), np.empty(room, dtype=np.uint32)
    to_offsets = np.empty(room, dtype=np.uint64)
    edges = _merge(
        base.authors,
        base.indptr,
        base.readers,
        base.offsets(),
        places[old].astype(np.int64),
        froms[old],
        authors[new],
        readers[new],
        froms[new].astype(np.uint64),
        to_authors,
        to_readers,
        to_offsets,
    )
    return base_of(to_authors[:edges], to_readers[:edges], to_offsets[:edges])


def folded(chunks: Iterable[npt.NDArray[np.uint64]]) -> tuple[U64s, int]:
    """Toggle rows, u64 (n, 4): author, reader, offset, follows, in key order over all chunks ->
    (edges that are open now, u64 (m, 3): author, reader, offset; the highest offset + 1).

    Raises Corruption when the rows are out of order.
    """
    state = np.zeros(6, dtype=np.uint64)
    parts: list[U64s] = []
    end = 0
    for chunk in chunks:
        rows: U64s = np.require(chunk, dtype=np.uint64, requirements=["C", "A"])
        edges = np.empty((len(rows), 3), dtype=np.uint64)
        count = _fold(rows, state, edges)
        invariant(count >= 0, "follow toggles of a partition come in key order")
        parts.append(edges[:count].copy())
        end = max(end, int(rows[:, 2].max()) + 1 if len(rows) else 0)
    if state[4]:
        parts.append(state[[1, 2, 5]].reshape(1, 3))
    return np.concatenate([np.empty((0, 3), dtype=np.uint64), *parts]), end


# --- kernels --------------------------------------------------------------------------------------


def _array(dtype: Any, dimensions: int = 1, readonly: bool = False) -> Any:
    return types.Array(dtype, dimensions, "C", readonly=readonly)


_u64, _u32, _i64 = types.uint64, types.uint32, types.int64
_const_u64, _const_u32 = _array(_u64, readonly=True), _array(_u32, readonly=True)
_const_i64 = _array(_i64, readonly=True)


@njit(  # type: ignore[untyped-decorator]
    _i64(
        _const_u64, _const_u32, _const_u32, _const_u64,
        _const_i64, _const_i64,
        _const_u64, _const_u32, _const_u64,
        _array(_u64), _array(_u32), _array(_u64),
    ),
    cache=True,
    nogil=True,
)  # fmt: skip
def _merge(
    authors: U64s, indptr: U32s, readers: U32s, froms: U64s,
    places: I64s, place_froms: I64s,
    new_authors: U64s, new_readers: U32s, new_froms: U64s,
    to_authors: U64s, to_readers: U32s, to_froms: U64s,
) -> int:  # fmt: skip
    """A base and its changes -> edges (author, reader, from) in order; how many.

    `places` (ascending) are base edges with another from, -1: gone; the new edges ascend by
    (author, reader) and are not in the base.
    """
    out, change, new = 0, 0, 0
    for row in range(len(authors) + 1):
        ended = row == len(authors)
        author = authors[row] if not ended else np.uint64(0)
        while new < len(new_authors) and (ended or new_authors[new] < author):
            to_authors[out], to_readers[out] = new_authors[new], new_readers[new]
            to_froms[out] = new_froms[new]
            out, new = out + 1, new + 1
        if ended:
            break
        for place in range(indptr[row], indptr[row + 1]):
            reader, start = readers[place], froms[place]
            while (
                new < len(new_authors) and new_authors[new] == author and new_readers[new] < reader
            ):
                to_authors[out], to_readers[out] = author, new_readers[new]
                to_froms[out] = new_froms[new]
                out, new = out + 1, new + 1
            if change < len(places) and places[change] == place:
                changed = place_froms[change]
                change += 1
                if changed < 0:
                    continue
                start = np.uint64(changed)
            to_authors[out], to_readers[out], to_froms[out] = author, reader, start
            out += 1
        while new < len(new_authors) and new_authors[new] == author:
            to_authors[out], to_readers[out] = author, new_readers[new]
            to_froms[out] = new_froms[new]
            out, new = out + 1, new + 1
    return out


@njit(  # type: ignore[untyped-decorator]
    _i64(_array(_u64, 2, readonly=True), _array(_u64), _array(_u64, 2)), cache=True, nogil=True
)
def _fold(toggles: U64s, state: U64s, edges: U64s) -> int:
    """Toggle rows (author, reader, offset, follows) in key order -> edges (author, reader, from).

    How many edges were completed, -1 when the rows are out of order. `state`, u64 (6,), goes
    from chunk to chunk: any seen, author, reader, last offset, open, from; the last pair stays
    in it. An interval opens at the first follow after the last unfollow.
    """
    out = 0
    for at in range(len(toggles)):
        author, reader = toggles[at, 0], toggles[at, 1]
        offset, follows = toggles[at, 2], toggles[at, 3]
        same = state[0] == 1 and author == state[1] and reader == state[2]
        if state[0] == 1:
            ahead = author > state[1] or (author == state[1] and reader > state[2])
            if not (ahead or (same and offset > state[3])):
                return -1
        if not same:
            if state[0] == 1 and state[4] == 1:
                edges[out, 0], edges[out, 1], edges[out, 2] = state[1], state[2], state[5]
                out += 1
            state[0], state[1], state[2], state[4] = 1, author, reader, 0
        state[3] = offset
        if follows == 0:
            state[4] = 0
        elif state[4] == 0:
            state[4], state[5] = 1, offset
    return out
