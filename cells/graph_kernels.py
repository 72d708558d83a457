"""The graph's compiled inner loops, over arrays that live in one row of numbers per partition.

A kernel here gets the *addresses* of a partition's arrays from `table`, i64 (partitions, COLUMNS),
and those of the users table from `head`, i64 (5,), so that one call of some 0.3 us serves any
partition. Who may touch what, and when:

- Kernels without `nogil` hold the interpreter's lock from start to end. Each is therefore one
  atomic step: a look-up sees a change wholly or not at all, without any lock of ours.
- A row of `table` changes only inside such a kernel (`publish`, `toggle`), and an array is let go
  only after its row has been published anew. So every address in the table is good.
- Kernels that let go of that lock (cells/graph_base.py) take arrays, never addresses.

All signatures are explicit and the compiled code is kept on disk: nothing compiles while serving.
Their parts are in this file, and in kernel_parts, which never changes: the compiler's cache notices
changes of a kernel's own file only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types

from cells.kernel_parts import address_of, big_endian, mix, pointer

U8s = npt.NDArray[np.uint8]
U64s = npt.NDArray[np.uint64]
U32s = npt.NDArray[np.uint32]
I64s = npt.NDArray[np.int64]

# --- columns of the users' head (users_*) and of a partition's row in the table
USERS_SLOTS, USERS_MASK, USERS_IDS, USERS_COUNT, USERS_ROOM = range(5)
(
    BASE_AUTHORS,  # u64, ascending: who has followers in the base
    BASE_ROWS,  # how many
    BASE_INDPTR,  # u32 (rows + 1)
    BASE_READERS,  # u32, ascending within an author
    BASE_FROMS,  # offsets less BASE_FIRST: u32, or u64 when BASE_WIDE
    BASE_FIRST,
    BASE_WIDE,
    EDGES,  # followers of all authors now, overlay included
    OVER_AUTHORS,  # u64 per entry
    OVER_READERS,  # u32
    OVER_FROMS,  # i64; -1: follows no more
    OVER_PLACES,  # i32: index of the same edge in the base; -1: not there
    OVER_CHAIN,  # i32: the author's entry before this one; -1: none
    OVER_COUNT,
    OVER_ROOM,
    OVER_PAIRS,  # i32 slots by (author, reader): entry + 1; 0: empty
    OVER_HEADS,  # i32 slots by author: its newest entry + 1; 0: empty
    OVER_MASK,
    COLUMNS,
) = range(19)

NOTHING, OPENED, CLOSED, USERS_FULL, OVERLAY_FULL = range(5)  # what `toggle` answers
MISSING = -1  # no such user, author or edge

_HALF = np.uint64(32)


def _array(dtype: Any, dimensions: int = 1, readonly: bool = False) -> Any:
    return types.Array(dtype, dimensions, "C", readonly=readonly)


_u64, _u32, _i64, _bool = types.uint64, types.uint32, types.int64, types.boolean
_table, _head = _array(_i64, 2), _array(_i64)
_toggle_signature = _i64(_head, _table, _i64, _u64, _u64, _i64, _bool)
_const_u64, _const_i64 = _array(_u64, readonly=True), _array(_i64, readonly=True)
_bytes = _array(types.uint8, readonly=True)
_intervals_signature = _array(_i64)(_head, _table, _u64, _bytes, _i64, _i64)


# --- small parts, compiled into their callers ----------------------------------------------------


@njit  # type: ignore[untyped-decorator]
def _find_user(head: I64s, user: int) -> Any:
    """The user's index, or -1 - the empty slot where it belongs."""
    mask = head[USERS_MASK]
    slots = carray(pointer(head[USERS_SLOTS]), (mask + 1,), np.uint32)
    ids = carray(pointer(head[USERS_IDS]), (head[USERS_ROOM],), np.uint64)
    slot = np.int64(mix(user) & np.uint64(mask))
    while True:
        index = np.int64(slots[slot]) - 1
        if index < 0:
            return -1 - slot
        if ids[index] == user:
            return index
        slot = (slot + 1) & mask


@njit  # type: ignore[untyped-decorator]
def _make_user(head: I64s, user: int) -> Any:
    """The user's index, new if need be; MISSING when there is no room."""
    index = _find_user(head, user)
    if index >= 0:
        return index
    count = head[USERS_COUNT]
    if count == head[USERS_ROOM]:
        return MISSING
    slots = carray(pointer(head[USERS_SLOTS]), (head[USERS_MASK] + 1,), np.uint32)
    ids = carray(pointer(head[USERS_IDS]), (head[USERS_ROOM],), np.uint64)
    ids[count] = user
    slots[-1 - index] = count + 1
    head[USERS_COUNT] = count + 1
    return count


@njit  # type: ignore[untyped-decorator]
def _find_author(row: I64s, author: int) -> Any:
    """The author's row in the base, or MISSING. Without branches, so that several can overlap."""
    rows = row[BASE_ROWS]
    if rows == 0:
        return MISSING
    authors = carray(pointer(row[BASE_AUTHORS]), (rows,), np.uint64)
    start = np.int64(0)
    length = rows
    while length > 1:
        half = length >> 1
        start = start + half if authors[start + half] <= author else start
        length -= half
    return start if authors[start] == author else MISSING


@njit  # type: ignore[untyped-decorator]
def _find_edge(row: I64s, author: int, reader: int) -> Any:
    """Place of (author, reader index) in the base, or MISSING."""
    at = _find_author(row, author)
    if at < 0:
        return MISSING
    indptr = carray(pointer(row[BASE_INDPTR]), (row[BASE_ROWS] + 1,), np.uint32)
    start, stop = np.int64(indptr[at]), np.int64(indptr[at + 1])
    readers = carray(pointer(row[BASE_READERS]), (stop,), np.uint32)
    length = stop - start
    while length > 1:
        half = length >> 1
        start = start + half if np.int64(readers[start + half]) <= reader else start
        length -= half
    return start if length == 1 and np.int64(readers[start]) == reader else MISSING


@njit  # type: ignore[untyped-decorator]
def _from_of(row: I64s, place: int) -> Any:
    """The offset from which the edge at `place` holds."""
    if row[BASE_WIDE] != 0:
        wide = carray(pointer(row[BASE_FROMS]), (place + 1,), np.uint64)
        return row[BASE_FIRST] + np.int64(wide[place])
    narrow = carray(pointer(row[BASE_FROMS]), (place + 1,), np.uint32)
    return row[BASE_FIRST] + np.int64(narrow[place])


@njit  # type: ignore[untyped-decorator]
def _find_entry(row: I64s, author: int, reader: int) -> Any:
    """The overlay's entry of (author, reader index), or -1 - the empty slot where it belongs."""
    mask = row[OVER_MASK]
    room = row[OVER_ROOM]
    pairs = carray(pointer(row[OVER_PAIRS]), (mask + 1,), np.int32)
    authors = carray(pointer(row[OVER_AUTHORS]), (room,), np.uint64)
    readers = carray(pointer(row[OVER_READERS]), (room,), np.uint32)
    slot = np.int64(mix(mix(author) + np.uint64(reader)) & np.uint64(mask))
    while True:
        entry = np.int64(pairs[slot]) - 1
        if entry < 0:
            return -1 - slot
        if authors[entry] == author and np.int64(readers[entry]) == reader:
            return entry
        slot = (slot + 1) & mask


@njit  # type: ignore[untyped-decorator]
def _head_slot(row: I64s, author: int) -> Any:
    """The slot of OVER_HEADS that is the author's, or the empty one where it belongs. The upper
    half of the hash: its lower bits are the same for all authors of a partition."""
    mask = row[OVER_MASK]
    heads = carray(pointer(row[OVER_HEADS]), (mask + 1,), np.int32)
    authors = carray(pointer(row[OVER_AUTHORS]), (row[OVER_ROOM],), np.uint64)
    slot = np.int64((mix(author) >> _HALF) & np.uint64(mask))
    while heads[slot] != 0 and authors[heads[slot] - 1] != author:
        slot = (slot + 1) & mask
    return slot


@njit  # type: ignore[untyped-decorator]
def _add_entry(row: I64s, author: int, reader: int, start: int, place: int, slot: int) -> None:
    """Append an entry; there is room, and `slot` of OVER_PAIRS is the empty one for it."""
    room, mask, entry = row[OVER_ROOM], row[OVER_MASK], row[OVER_COUNT]
    head_slot = _head_slot(row, author)
    carray(pointer(row[OVER_AUTHORS]), (room,), np.uint64)[entry] = author
    carray(pointer(row[OVER_READERS]), (room,), np.uint32)[entry] = reader
    carray(pointer(row[OVER_FROMS]), (room,), np.int64)[entry] = start
    carray(pointer(row[OVER_PLACES]), (room,), np.int32)[entry] = place
    heads = carray(pointer(row[OVER_HEADS]), (mask + 1,), np.int32)
    carray(pointer(row[OVER_CHAIN]), (room,), np.int32)[entry] = heads[head_slot] - 1
    heads[head_slot] = entry + 1
    carray(pointer(row[OVER_PAIRS]), (mask + 1,), np.int32)[slot] = entry + 1
    row[OVER_COUNT] = entry + 1


# --- users ----------------------------------------------------------------------------------------


@njit(_i64(_head, _u64), cache=True)  # type: ignore[untyped-decorator]
def find_user(head: I64s, user: int) -> Any:
    """The user's index, or MISSING."""
    index = _find_user(head, user)
    return index if index >= 0 else MISSING


@njit(_i64(_head, _const_u64, _array(_u32), _bool), cache=True)  # type: ignore[untyped-decorator]
def index_users(head: I64s, users: U64s, indexes: U32s, create: bool) -> Any:
    """Indexes of `users`; 2^32-1 for one that is not there. How many were done before the table
    had no more room."""
    for at in range(len(users)):
        if create:
            index = _make_user(head, users[at])
            if index < 0:
                return at
        else:
            index = _find_user(head, users[at])
        indexes[at] = index if index >= 0 else 0xFFFFFFFF
    return len(users)


@njit(types.void(_head, _const_i64), cache=True)  # type: ignore[untyped-decorator]
def grow_users(head: I64s, grown: I64s) -> None:
    """Move to larger arrays, whose head is `grown`: ids are copied, empty slots filled."""
    count = head[USERS_COUNT]
    ids = carray(pointer(head[USERS_IDS]), (count,), np.uint64)
    for column in range(len(head)):
        head[column] = grown[column]
    to_ids = carray(pointer(head[USERS_IDS]), (head[USERS_ROOM],), np.uint64)
    slots = carray(pointer(head[USERS_SLOTS]), (head[USERS_MASK] + 1,), np.uint32)
    for index in range(count):
        to_ids[index] = ids[index]
        slots[-1 - _find_user(head, ids[index])] = index + 1
        head[USERS_COUNT] = index + 1


# --- one partition --------------------------------------------------------------------------------


@njit(types.void(_table, _i64, _const_i64), cache=True)  # type: ignore[untyped-decorator]
def publish(table: I64s, partition: int, row: I64s) -> None:
    """A partition's new arrays, all at once. Entries of the overlay that they have room for and
    that OVER_COUNT counts are put into the (empty) slots."""
    at = table[partition]
    for column in range(COLUMNS):
        at[column] = row[column]
    count = row[OVER_COUNT]
    authors = carray(pointer(row[OVER_AUTHORS]), (count,), np.uint64)
    readers = carray(pointer(row[OVER_READERS]), (count,), np.uint32)
    froms = carray(pointer(row[OVER_FROMS]), (count,), np.int64)
    places = carray(pointer(row[OVER_PLACES]), (count,), np.int32)
    at[OVER_COUNT] = 0
    for entry in range(count):
        author, reader = authors[entry], np.int64(readers[entry])
        slot = -1 - _find_entry(at, author, reader)
        _add_entry(at, author, reader, froms[entry], np.int64(places[entry]), slot)


@njit(_toggle_signature, cache=True)  # type: ignore[untyped-decorator]
def toggle(
    head: I64s, table: I64s, partition: int, author: int, reader: int, offset: int, follows: bool
) -> Any:
    """Follow or unfollow: NOTHING, OPENED or CLOSED; or, with nothing changed, what is full."""
    index = _find_user(head, reader)
    if index < 0:
        if not follows:
            return NOTHING
        index = _make_user(head, reader)
        if index < 0:
            return USERS_FULL
    row = table[partition]
    froms = carray(pointer(row[OVER_FROMS]), (row[OVER_ROOM],), np.int64)
    entry = _find_entry(row, author, index)
    place = _find_edge(row, author, index) if entry < 0 else np.int64(MISSING)
    followed = froms[entry] >= 0 if entry >= 0 else place >= 0
    if followed == follows:
        return NOTHING
    start = offset if follows else np.int64(MISSING)
    if entry >= 0:
        froms[entry] = start
    elif row[OVER_COUNT] == row[OVER_ROOM]:
        return OVERLAY_FULL
    else:
        _add_entry(row, author, index, start, place, -1 - entry)
    row[EDGES] += 1 if follows else -1
    return OPENED if follows else CLOSED


@njit(_intervals_signature, cache=True)  # type: ignore[untyped-decorator]
def intervals(head: I64s, table: I64s, reader: int, raw: U8s, first: int, step: int) -> I64s:
    """Per author the offset from which `reader` follows now; MISSING: does not; 0 for oneself. The
    authors are big-endian in `raw`, one at `first` and each `step` bytes after: an inbox's keys."""
    count = max((len(raw) - first - 8) // step + 1, 0)
    starts = np.full(count, MISSING, dtype=np.int64)
    index = _find_user(head, reader)
    partitions = np.uint64(len(table))
    for at in range(count):
        author = big_endian(address_of(raw) + first + step * at)
        if author == reader:
            starts[at] = 0
            continue
        if index < 0:
            continue
        row = table[np.int64(mix(author) % partitions)]
        if row[OVER_COUNT] > 0:
            entry = _find_entry(row, author, index)
            if entry >= 0:
                froms = carray(pointer(row[OVER_FROMS]), (row[OVER_ROOM],), np.int64)
                starts[at] = froms[entry]
                continue
        place = _find_edge(row, author, index)
        if place >= 0:
            starts[at] = _from_of(row, place)
    return starts


@njit(types.UniTuple(_i64, 3)(_table, _i64, _u64), cache=True)  # type: ignore[untyped-decorator]
def find_row(table: I64s, partition: int, author: int) -> Any:
    """(start, stop) of the author's readers in the base, and its newest overlay entry."""
    row = table[partition]
    newest = np.int64(MISSING)
    if row[OVER_COUNT] > 0:
        heads = carray(pointer(row[OVER_HEADS]), (row[OVER_MASK] + 1,), np.int32)
        newest = np.int64(heads[_head_slot(row, author)]) - 1
    at = _find_author(row, author)
    if at < 0:
        return np.int64(0), np.int64(0), newest
    indptr = carray(pointer(row[BASE_INDPTR]), (row[BASE_ROWS] + 1,), np.uint32)
    return np.int64(indptr[at]), np.int64(indptr[at + 1]), newest


@njit(_i64(_table, _i64, _u64), cache=True)  # type: ignore[untyped-decorator]
def count_followers(table: I64s, partition: int, author: int) -> Any:
    """How many follow the author now."""
    row = table[partition]
    start, stop, entry = find_row(table, partition, author)
    count = stop - start
    if entry >= 0:
        froms = carray(pointer(row[OVER_FROMS]), (row[OVER_ROOM],), np.int64)
        places = carray(pointer(row[OVER_PLACES]), (row[OVER_ROOM],), np.int32)
        chain = carray(pointer(row[OVER_CHAIN]), (row[OVER_ROOM],), np.int32)
        while entry >= 0:
            count += np.int64(froms[entry] >= 0) - np.int64(places[entry] >= 0)
            entry = np.int64(chain[entry])
    return count


@njit(_array(_u32)(_table, _i64, _u64), cache=True)  # type: ignore[untyped-decorator]
def copy_followers(table: I64s, partition: int, author: int) -> U32s:
    """The author's followers now, as reader indexes: the base's that stay, then the new ones."""
    row = table[partition]
    start, stop, newest = find_row(table, partition, author)
    result = np.empty(count_followers(table, partition, author), dtype=np.uint32)
    base = carray(pointer(row[BASE_READERS]), (stop,), np.uint32)
    froms = carray(pointer(row[OVER_FROMS]), (row[OVER_ROOM],), np.int64)
    places = carray(pointer(row[OVER_PLACES]), (row[OVER_ROOM],), np.int32)
    readers = carray(pointer(row[OVER_READERS]), (row[OVER_ROOM],), np.uint32)
    chain = carray(pointer(row[OVER_CHAIN]), (row[OVER_ROOM],), np.int32)
    gone: Any = 0
    entry = newest
    while entry >= 0:
        gone += np.int64(froms[entry] < 0 and places[entry] >= 0)
        entry = np.int64(chain[entry])
    left = np.empty(gone + 1, dtype=np.int64)
    left[gone] = stop
    back, out = 0, len(result)
    entry = newest
    while entry >= 0:
        if places[entry] < 0 and froms[entry] >= 0:
            out -= 1
            result[out] = readers[entry]
        elif places[entry] >= 0 and froms[entry] < 0:
            left[back] = places[entry]
            back += 1
        entry = np.int64(chain[entry])
    left[:gone].sort()
    out = 0
    for at in range(gone + 1):
        for place in range(start, left[at]):
            result[out] = base[place]
            out += 1
        start = left[at] + 1
    return result
