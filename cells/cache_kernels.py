"""The compiled half of the in-process post cache (cells/cache.py): a ring of bytes and a hash.

The ring `arena`, u64 words, holds records one behind the other, the oldest at TAIL:

| words | |
| --- | --- |
| 0, 1 | post id, author |
| 2 | words of this record |
| 3... | the fragment of JSON, padded |

A slot of the hash, 4 u64, is one cache line's half: post id, author, offset + 1 (0: empty), and
place << 24 | length of the fragment, both in bytes. Linear probing; a freed slot is filled from
behind. A record whose slot is gone is dead and is passed over when the ring comes round to it.

Each kernel holds the interpreter's lock from start to end, so each is one atomic step: a look-up
beside a change sees it wholly or not at all. `head`, i64 (COLUMNS,), has the addresses and counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types

from cells.kernel_parts import address_of, big_endian, copy_bytes, mix, pointer
from engine.keys import INBOX_KEY_BYTES, POST_KEY_BYTES

U8s = npt.NDArray[np.uint8]
U64s = npt.NDArray[np.uint64]
I64s = npt.NDArray[np.int64]

(
    ARENA,
    ARENA_WORDS,
    SLOTS,
    MASK,
    ENTRIES,  # slots in use
    RECORDS,  # in the ring, dead ones included
    HEAD,  # the word where the next record goes
    TAIL,  # the oldest record's first word
    END,  # wrapped only: behind the last word in use at the ring's upper end
    WRAPPED,  # 1: the ring's content is TAIL..END and 0..HEAD; 0: TAIL..HEAD
    COLUMNS,
) = range(11)

HEADER_WORDS = 3
SLOT_WORDS = 4
LENGTH_BITS = 24  # of a place word; a fragment is shorter than 16 MiB, the arena than 1 TiB
_LENGTH, _SHIFT = np.uint64((1 << LENGTH_BITS) - 1), np.uint64(LENGTH_BITS)
_ONE = np.uint64(1)
_ENDINGS = np.frombuffer(b"true},false},", dtype=np.uint8)
_SEEN, _UNSEEN = len(b"true},"), len(b"false},")


def _array(dtype: Any, readonly: bool = False) -> Any:
    return types.Array(dtype, 1, "C", readonly=readonly)


_u8, _u64, _i64 = types.uint8, types.uint64, types.int64
_head, _bytes = _array(_i64), _array(_u8, readonly=True)
_const_i64 = _array(_i64, readonly=True)
_put_signature = types.void(_head, _bytes, _const_i64, _const_i64, _bytes)
_find_signature = types.Tuple((_array(_i64), _array(_u8)))(_head, _bytes)
_page = types.Tuple((_array(_u8), _i64, _i64))
_compose_signature = _page(_head, _bytes, _const_i64, _i64, _i64)


@njit  # type: ignore[untyped-decorator]
def _slots(head: I64s) -> Any:
    return carray(pointer(head[SLOTS]), (head[MASK] + 1, SLOT_WORDS), np.uint64)


@njit  # type: ignore[untyped-decorator]
def _home(post: int, author: int, mask: int) -> Any:
    return np.int64(mix(post ^ mix(author)) & np.uint64(mask))


@njit  # type: ignore[untyped-decorator]
def _find(slots: U64s, mask: int, post: int, author: int) -> Any:
    """The slot of (post, author), or -1 - the empty one where it belongs."""
    at = _home(post, author, mask)
    while slots[at, 2] != 0:
        if slots[at, 0] == post and slots[at, 1] == author:
            return at
        at = (at + 1) & mask
    return -1 - at


@njit  # type: ignore[untyped-decorator]
def _free(head: I64s, at: int) -> None:
    """Empty a slot; those behind it that can, move up, so that no look-up ends too early."""
    slots, mask = _slots(head), head[MASK]
    hole = at
    at = (at + 1) & mask
    while slots[at, 2] != 0:
        home = _home(slots[at, 0], slots[at, 1], mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            for word in range(SLOT_WORDS):
                slots[hole, word] = slots[at, word]
            hole = at
        at = (at + 1) & mask
    slots[hole, 2] = 0
    head[ENTRIES] -= 1


@njit  # type: ignore[untyped-decorator]
def _drop_oldest(head: I64s) -> None:
    """Take the record at TAIL out of the ring, and its slot if it is not dead."""
    arena = carray(pointer(head[ARENA]), (head[ARENA_WORDS],), np.uint64)
    tail = head[TAIL]
    at = _find(_slots(head), head[MASK], arena[tail], arena[tail + 1])
    if at >= 0 and np.int64(_slots(head)[at, 3] >> _SHIFT) == 8 * (tail + HEADER_WORDS):
        _free(head, at)
    head[TAIL] += np.int64(arena[tail + 2])
    head[RECORDS] -= 1
    if head[WRAPPED] != 0 and head[TAIL] == head[END]:
        head[TAIL], head[WRAPPED] = 0, 0
    if head[RECORDS] == 0:
        head[HEAD], head[TAIL], head[WRAPPED] = 0, 0, 0


@njit  # type: ignore[untyped-decorator]
def _make_room(head: I64s, words: int) -> None:
    """Until `words` fit at HEAD in one piece, which the arena has: drop the oldest."""
    while True:
        if head[WRAPPED] == 0:
            if head[ARENA_WORDS] - head[HEAD] >= words:
                return
            head[END], head[HEAD], head[WRAPPED] = head[HEAD], 0, 1
        if head[TAIL] - head[HEAD] >= words:
            return
        _drop_oldest(head)


@njit(_put_signature, cache=True)  # type: ignore[untyped-decorator]
def put(head: I64s, keys: U8s, offsets: I64s, lengths: I64s, fragments: U8s) -> None:
    """Keep posts: joined keys of 16 bytes, their offsets and fragments. What is there stays; what
    is larger than the arena is left out; the oldest make room."""
    start = 0
    for index in range(len(offsets)):
        length = lengths[index]
        place = start
        start += length
        words = HEADER_WORDS + (length + 7) // 8
        if words > head[ARENA_WORDS] or length >= 1 << LENGTH_BITS:
            continue
        key = address_of(keys) + POST_KEY_BYTES * index
        post, author = ~big_endian(key), big_endian(key + 8)
        if _find(_slots(head), head[MASK], post, author) >= 0:
            continue
        _make_room(head, words)
        while 4 * (head[ENTRIES] + 1) > 3 * (head[MASK] + 1):
            _drop_oldest(head)
        at = head[HEAD]
        arena = carray(pointer(head[ARENA]), (head[ARENA_WORDS],), np.uint64)
        arena[at], arena[at + 1], arena[at + 2] = post, author, np.uint64(words)
        begin = 8 * (at + HEADER_WORDS)
        copy_bytes(head[ARENA] + begin, address_of(fragments) + place, length)
        slots = _slots(head)
        slot = -1 - _find(slots, head[MASK], post, author)
        slots[slot, 0], slots[slot, 1] = post, author
        slots[slot, 2] = np.uint64(offsets[index]) + _ONE
        slots[slot, 3] = (np.uint64(begin) << _SHIFT) | np.uint64(length)
        head[HEAD] += words
        head[RECORDS] += 1
        head[ENTRIES] += 1


@njit(types.void(_head, _bytes), cache=True)  # type: ignore[untyped-decorator]
def forget(head: I64s, keys: U8s) -> None:
    """Forget posts, by joined keys of 16 bytes."""
    for at in range(0, len(keys), POST_KEY_BYTES):
        key = address_of(keys) + at
        slot = _find(_slots(head), head[MASK], ~big_endian(key), big_endian(key + 8))
        if slot >= 0:
            _free(head, slot)


@njit(_find_signature, cache=True)  # type: ignore[untyped-decorator]
def find(head: I64s, keys: U8s) -> Any:
    """Of joined keys of 16 bytes: (offset, bytes of the fragment) each, flat, offset -1 for what is
    not kept; and the fragments, joined."""
    slots = _slots(head)
    count = len(keys) // POST_KEY_BYTES
    found = np.empty(2 * count, dtype=np.int64)
    places = np.empty(count, dtype=np.int64)
    size = 0
    for index in range(count):
        key = address_of(keys) + POST_KEY_BYTES * index
        slot = _find(slots, head[MASK], ~big_endian(key), big_endian(key + 8))
        found[2 * index], found[2 * index + 1] = -1, 0
        if slot >= 0:
            found[2 * index] = np.int64(slots[slot, 2]) - 1
            found[2 * index + 1] = np.int64(slots[slot, 3] & _LENGTH)
            places[index] = np.int64(slots[slot, 3] >> _SHIFT)
            size += found[2 * index + 1]
    fragments = np.empty(size, dtype=np.uint8)
    at = address_of(fragments)
    for index in range(count):
        if found[2 * index] >= 0:
            copy_bytes(at, head[ARENA] + places[index], found[2 * index + 1])
            at += found[2 * index + 1]
    return found, fragments


@njit(types.void(_head, _i64, _i64), cache=True)  # type: ignore[untyped-decorator]
def begin(head: I64s, address: int, mask: int) -> None:
    """Forget everything and use these slots, all of them empty."""
    head[SLOTS], head[MASK] = address, mask
    for column in (ENTRIES, RECORDS, HEAD, TAIL, END, WRAPPED):
        head[column] = 0


@njit(types.void(_head, _i64, _i64), cache=True)  # type: ignore[untyped-decorator]
def move(head: I64s, address: int, mask: int) -> None:
    """Move to other slots, all of them empty."""
    old = _slots(head)
    head[SLOTS], head[MASK] = address, mask
    slots = _slots(head)
    for at in range(len(old)):
        if old[at, 2] != 0:
            slot = -1 - _find(slots, mask, old[at, 0], old[at, 1])
            for word in range(SLOT_WORDS):
                slots[slot, word] = old[at, word]


@njit(_compose_signature, cache=True)  # type: ignore[untyped-decorator]
def compose(head: I64s, keys: U8s, starts: I64s, limit: int, marker: int) -> Any:
    """A page of a slice of inbox keys (24 bytes each), when all that it needs is here.

    `starts`: per key the offset from which the reader follows its author, -1 when not. Gives the
    joined JSON of the first `limit` keys' visible posts, how many those are, and the index of the
    last one. How many is -1 when a post is not kept or is older than its follow: the long way.
    """
    slots, mask = _slots(head), head[MASK]
    count = min(len(keys) // INBOX_KEY_BYTES, limit)
    places = np.empty(count, dtype=np.uint64)
    seen = np.empty(count, dtype=np.bool_)
    taken, last = 0, -1
    size: Any = 0
    for index in range(count):
        if starts[index] < 0:
            continue
        key = address_of(keys) + INBOX_KEY_BYTES * index
        post = ~big_endian(key + 8)
        slot = _find(slots, mask, post, big_endian(key + 16))
        if slot < 0 or starts[index] >= np.int64(slots[slot, 2]):
            return np.empty(0, dtype=np.uint8), -1, -1
        places[taken] = slots[slot, 3]
        seen[taken] = np.int64(post) <= marker
        size += np.int64(places[taken] & _LENGTH) + (_SEEN if seen[taken] else _UNSEEN)
        taken += 1
        last = index
    page = np.empty(max(size - 1, 0), dtype=np.uint8)  # no comma behind the last one
    at: Any = 0
    for index in range(taken):
        length = np.int64(places[index] & _LENGTH)
        copy_bytes(address_of(page) + at, head[ARENA] + np.int64(places[index] >> _SHIFT), length)
        at += length
        start, stop = (0, _SEEN) if seen[index] else (_SEEN, _SEEN + _UNSEEN)
        for byte in range(start, stop - (index + 1 == taken)):
            page[at] = _ENDINGS[byte]
            at += 1
    return page, taken, last
