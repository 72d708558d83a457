"""Fan-out: from posts and the indexes of their followers to the sorted inbox keys of a batch.

1. order   posts in the order of keys (~id, author); a post that comes twice has one rank
2. gather  (reader id, rank) pairs, post by post in that order
3. sort    by reader id alone: a stable radix sort keeps the ranks' order within a reader
4. lay     24 bytes per pair, big-endian; equal neighbours once; `extra` keys merged in

No Python per follower: the loops are compiled ahead (explicit signatures, kept on disk beside this
file) and run without the GIL. Pure, and safe from any thread: two calls share nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types

from engine.errors import invariant
from engine.keys import INBOX_KEY_BYTES, Keys
from engine.limits import FANOUT_DIGIT_BITS, FANOUT_SPARE_BITS

U64s = npt.NDArray[np.uint64]
U32s = npt.NDArray[np.uint32]
I64s = npt.NDArray[np.int64]

_WORDS = INBOX_KEY_BYTES // 8
_ID_BITS = 64
_BUCKETS = 1 << FANOUT_DIGIT_BITS


def expand(
    post_ids: U64s,
    authors: U64s,
    indptr: I64s,
    reader_index: U32s,
    reader_ids: U64s,
    extra: Keys | None = None,
) -> Keys:
    """The inbox keys of n posts: u8 (k, 24), strictly ascending in byte order, no key twice.

    `post_ids`, `authors`: u64 (n,). `indptr` i64 (n + 1,) and `reader_index` u32 (m,): post i goes
    to the readers `reader_ids[reader_index[indptr[i]:indptr[i + 1]]]`, in any order; `reader_ids`
    is u64. `extra`: more keys, u8 (e, 24), unsorted, few (backfills, authors' own).
    Raises Corruption when the arrays do not fit together.
    """
    count = len(post_ids)
    invariant(len(authors) == count, "fan-out: as many authors as posts")
    invariant(len(indptr) == count + 1, "fan-out: one more indptr than posts")
    pairs = len(reader_index)
    invariant(bool(indptr[0] == 0 and indptr[-1] == pairs), "fan-out: indptr spans the readers")
    invariant(bool((indptr[1:] >= indptr[:-1]).all()), "fan-out: indptr ascends")
    order, ranks, inverted, by_rank = _rank_posts(_fit(post_ids, "u8"), _fit(authors, "u8"))
    readers = np.empty(pairs, dtype=np.uint64)
    places = np.empty(pairs, dtype=np.uint32)
    varying = _gather(
        order,
        ranks,
        _fit(indptr, "i8"),
        _fit(reader_index, "u4"),
        _fit(reader_ids, "u8"),
        readers,
        places,
        _pair(0, 0),
    )
    invariant(bool(varying[0]), "fan-out: a reader's index lies outside of the users table")
    readers, places = _sort(readers, places, int(varying[1]))
    words = _extra_words(extra)
    laid = np.empty((pairs + len(words), _WORDS), dtype=np.uint64)
    kept = _lay(readers, places, inverted, by_rank, words, laid)
    return laid[:kept].view(np.uint8).reshape(kept, INBOX_KEY_BYTES)


def _fit(values: npt.NDArray[Any], dtype: str) -> Any:
    """Contiguous, aligned and of the dtype that the kernels were compiled for."""
    return np.require(values, dtype=dtype, requirements=["C", "A"])


def _pair(one: int, two: int) -> U64s:
    return np.array([one, two], dtype=np.uint64)


def _rank_posts(post_ids: U64s, authors: U64s) -> tuple[I64s, U32s, U64s, U64s]:
    """(posts in the order of keys, the rank of each in that order, and per rank ~id and author)."""
    inverted = ~post_ids
    order = np.lexsort((authors, inverted))
    inverted, authors = inverted[order], authors[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (inverted[1:] != inverted[:-1]) | (authors[1:] != authors[:-1])
    ranks = (np.cumsum(first) - 1).astype(np.uint32)
    return order, ranks, inverted[first], authors[first]


def _extra_words(extra: Keys | None) -> U64s:
    """The extra keys as native words, u64 (e, 3), ascending."""
    if extra is None or len(extra) == 0:
        return np.empty((0, _WORDS), dtype=np.uint64)
    words: U64s = np.ascontiguousarray(extra).view(">u8").astype(np.uint64)
    return words[np.lexsort((words[:, 2], words[:, 1], words[:, 0]))]


def _sort(readers: U64s, places: U32s, varying: int) -> tuple[U64s, U32s]:
    """Both arrays in the order of readers, stable. `varying`: the bits in which readers differ.

    Bits that are the same in all cost nothing: dense ids take two passes. Ids that are spread over
    many bits are sorted by the upper ones only, as many as tell nearly all readers apart, and the
    few that these do not are put right afterwards. Ids for which that would be slow (many
    that share their upper bits, and one far away) are found out early and take every pass.
    """
    low, high = _lowest_bit(varying), varying.bit_length()
    enough = max(len(readers), 2).bit_length() + FANOUT_SPARE_BITS
    upper = max(low, high - enough)
    if upper > low:
        sorted_readers, sorted_places = _radix(readers, places, varying, upper, high)
        if _settle(sorted_readers, sorted_places, len(readers)):
            return sorted_readers, sorted_places
    return _radix(readers, places, varying, low, high)


def _lowest_bit(value: int) -> int:
    """Index of the lowest bit that is set; 0 for 0."""
    return max((value & -value).bit_length() - 1, 0)


def _radix(readers: U64s, places: U32s, varying: int, low: int, high: int) -> tuple[U64s, U32s]:
    """Stable passes over bits low..high-1; the given arrays stay as they are."""
    passes = -(-(high - low) // FANOUT_DIGIT_BITS)
    if passes == 0:
        return readers, places
    width = -(-(high - low) // passes)
    spare: list[tuple[U64s, U32s]] = []
    source = (readers, places)
    for shift in range(low, high, width):
        if (varying >> shift) & ((1 << width) - 1) == 0:
            continue
        target = spare.pop() if spare else (np.empty_like(readers), np.empty_like(places))
        _pass(source[0], source[1], target[0], target[1], shift, width)
        if source[0] is not readers:
            spare.append(source)
        source = target
    return source


# --- kernels --------------------------------------------------------------------------------------


def _array(dtype: Any, dimensions: int = 1, readonly: bool = False) -> Any:
    return types.Array(dtype, dimensions, "C", readonly=readonly)


_U64, _U32, _I64 = types.uint64, types.uint32, types.int64
_const_u64, _const_u32 = _array(_U64, readonly=True), _array(_U32, readonly=True)
_const_i64 = _array(_I64, readonly=True)
_SHIFT = np.uint64(8), np.uint64(16), np.uint64(32)
_ODD_BYTES, _ODD_PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@njit(inline="always")  # type: ignore[untyped-decorator]
def _swap(word: Any) -> Any:
    """A native word's bytes in the other order (compiled to one instruction)."""
    word = ((word >> _SHIFT[0]) & _ODD_BYTES) | ((word & _ODD_BYTES) << _SHIFT[0])
    word = ((word >> _SHIFT[1]) & _ODD_PAIRS) | ((word & _ODD_PAIRS) << _SHIFT[1])
    return (word >> _SHIFT[2]) | (word << _SHIFT[2])


@njit(  # type: ignore[untyped-decorator]
    [
        _array(_U64)(
            _const_i64,
            _const_u32,
            _const_i64,
            _const_u32,
            _const_u64,
            _array(_U64),
            _array(_U32),
            _array(_U64),
        )
    ],
    cache=True,
    nogil=True,
)
def _gather(
    order: I64s,
    ranks: U32s,
    indptr: I64s,
    reader_index: U32s,
    reader_ids: U64s,
    readers: U64s,
    places: U32s,
    result: U64s,
) -> U64s:
    """Fill `readers` and `places` in the order of posts; result = (1 if all indexes were good,
    the bits in which the readers differ)."""
    known = np.uint64(len(reader_ids))
    every, some = ~np.uint64(0), np.uint64(0)
    out = 0
    for position in range(len(order)):
        rank = ranks[position]
        post = order[position]
        for at in range(indptr[post], indptr[post + 1]):
            index = np.uint64(reader_index[at])
            if index >= known:
                return result
            reader = reader_ids[index]
            readers[out] = reader
            places[out] = rank
            every &= reader
            some |= reader
            out += 1
    result[0] = np.uint64(1)
    result[1] = some & ~every if out > 0 else np.uint64(0)
    return result


@njit(  # type: ignore[untyped-decorator]
    [types.void(_const_u64, _const_u32, _array(_U64), _array(_U32), _I64, _I64)],
    cache=True,
    nogil=True,
)
def _pass(
    readers: U64s, places: U32s, to_readers: U64s, to_places: U32s, shift: int, width: int
) -> None:
    """One stable counting pass over `width` bits from `shift` on."""
    by = np.uint64(shift)
    mask = np.uint64((1 << width) - 1)
    starts: Any = np.zeros(_BUCKETS + 1, dtype=np.int64)
    for at in range(len(readers)):
        starts[np.int64((readers[at] >> by) & mask) + 1] += 1
    for bucket in range(_BUCKETS):
        starts[bucket + 1] += starts[bucket]
    for at in range(len(readers)):
        reader = readers[at]
        digit = np.int64((reader >> by) & mask)
        to = starts[digit]
        starts[digit] = to + 1
        to_readers[to] = reader
        to_places[to] = places[at]


@njit(  # type: ignore[untyped-decorator]
    [types.boolean(_array(_U64), _array(_U32), _I64)], cache=True, nogil=True
)
def _settle(readers: U64s, places: U32s, moves_max: int) -> bool:
    """Insertion sort, stable, for what is nearly sorted; False when it took too many moves."""
    moves = 0
    for at in range(1, len(readers)):
        reader = readers[at]
        if readers[at - 1] <= reader:
            continue
        place = places[at]
        to = at
        while to > 0 and readers[to - 1] > reader:
            readers[to] = readers[to - 1]
            places[to] = places[to - 1]
            to -= 1
        readers[to] = reader
        places[to] = place
        moves += at - to
        if moves > moves_max:
            return False
    return True


@njit(  # type: ignore[untyped-decorator]
    [
        _I64(
            _const_u64,
            _const_u32,
            _const_u64,
            _const_u64,
            _array(_U64, 2, readonly=True),
            _array(_U64, 2),
        )
    ],
    cache=True,
    nogil=True,
)
def _lay(
    readers: U64s, places: U32s, inverted: U64s, authors: U64s, extra: U64s, laid: U64s
) -> int:
    """Merge the sorted pairs with the sorted extra words into `laid`; number of rows written."""
    kept = 0
    next_extra = 0
    one = two = three = np.uint64(0)  # the last key laid
    for at in range(len(readers) + 1):
        ended = at == len(readers)
        if ended:
            reader = post = author = ~np.uint64(0)
        else:
            reader = readers[at]
            post = inverted[places[at]]
            author = authors[places[at]]
        while next_extra < len(extra):
            x, y, z = extra[next_extra, 0], extra[next_extra, 1], extra[next_extra, 2]
            behind = x > reader or (x == reader and (y > post or (y == post and z >= author)))
            if behind and not ended:
                break
            next_extra += 1
            if kept == 0 or x != one or y != two or z != three:
                laid[kept, 0], laid[kept, 1], laid[kept, 2] = _swap(x), _swap(y), _swap(z)
                one, two, three = x, y, z
                kept += 1
        if ended:
            break
        if kept == 0 or reader != one or post != two or author != three:
            laid[kept, 0], laid[kept, 1], laid[kept, 2] = _swap(reader), _swap(post), _swap(author)
            one, two, three = reader, post, author
            kept += 1
    return kept
