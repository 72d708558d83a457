"""A sorted run: the bytes of a RocksDB table file (SST), laid out from inbox keys by numba.

| part of the file | bytes |
| --- | --- |
| data blocks | RUN_BLOCK_ENTRIES entries each, a restart point every 16 |
| properties block | what RocksDB demands of an adopted file (`_properties`) |
| metaindex block | `rocksdb.properties` -> handle |
| index block | last internal key of each data block -> handle |
| footer | 53 bytes: checksum type, handles, version 2, magic |

An entry is: bytes shared with the key before (0 at a restart point), bytes that follow, 0 (no
value), then the rest of the user key (24) and `01 00 00 00 00 00 00 00` (type put, sequence 0).
Neighbours in a run share the reader and the front of the id: 25 bytes a key instead of 39 without
sharing, for the same time (measured: 2 M keys in 60 ms). A block ends with its restart offsets and
their number; behind it stand its compression type (0: none) and its masked CRC-32C. All integers
are little-endian. Golden bytes: tests/engine/test_runs_golden.py; the proof that RocksDB reads
them: tests/cells/test_store_embedded_runs.py.

Pure: the caller brings the file object. Safe from any thread; two calls share nothing. Laying out
and checking the order release the GIL.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from engine.errors import invariant
from engine.keys import INBOX_KEY_BYTES, Keys
from engine.limits import RUN_BLOCK_ENTRIES, RUN_SLAB_BLOCKS

TRAILER_BYTES = 5
RESTART_ENTRIES = 16  # between two restart points: a seek steps through half as many
_INTERNAL_TAIL = b"\x01" + bytes(7)
_INTERNAL_BYTES = INBOX_KEY_BYTES + len(_INTERNAL_TAIL)
_MAGIC = 0x88E241B785F4CFF7
_FORMAT_VERSION = 2
_CHECKSUM_CRC32C = 1
_MASK_DELTA = 0xA282EAD8
_NO_COLUMN_FAMILY = 2**31 - 1
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
Bytes = npt.NDArray[np.uint8]


class Writable(Protocol):
    """What `write_run` needs of a file."""

    def write(self, data: Any, /) -> object:
        """Take all of `data`, a bytes-like object that is only valid during the call."""


def write_run(keys: Keys, file: Writable) -> int:
    """Write the run of `keys`, u8 (n, 24), n >= 1, strictly ascending; number of bytes written.

    Raises Corruption when the keys are not strictly ascending: RocksDB would not notice.
    """
    written = 0
    for chunk in run_chunks(keys):
        file.write(chunk)
        written += len(chunk)
    return written


def run_chunks(keys: Keys) -> Iterator[memoryview | bytes]:
    """The bytes of a run, in order; a chunk is valid until the next one is asked for."""
    invariant(len(keys) > 0, "a sorted run has at least one key")
    keys = np.ascontiguousarray(keys)
    invariant(ascending(keys), "the keys of a sorted run ascend strictly")
    slab_keys = RUN_BLOCK_ENTRIES * RUN_SLAB_BLOCKS
    slab = np.empty(_bytes_most(min(len(keys), slab_keys)), dtype=np.uint8)
    view = memoryview(slab.data)
    sizes = np.empty(-(-len(keys) // RUN_BLOCK_ENTRIES), dtype=np.int64)
    blocks = 0
    for first in range(0, len(keys), slab_keys):
        count = _lay_out(keys, first, slab, sizes[blocks : blocks + RUN_SLAB_BLOCKS])
        start = 0
        for size in sizes[blocks : blocks + count].tolist():
            end = start + size - _U32.size
            _U32.pack_into(view, end, _masked(crc32c(view[start:end])))
            start += size
        blocks += count
        yield view[:start]
    yield _tail(keys, sizes)


def _bytes_most(count: int) -> int:
    """Room for the data blocks of `count` keys that share nothing."""
    blocks = -(-count // RUN_BLOCK_ENTRIES)
    restarts = blocks * (RUN_BLOCK_ENTRIES // RESTART_ENTRIES + 2)
    return count * (_INTERNAL_BYTES + 3) + restarts * _U32.size + blocks * TRAILER_BYTES


def ascending(keys: Keys) -> bool:
    """Whether `keys`, u8 (n, 24) and contiguous, ascend strictly in byte order."""
    return bool(_ascending(keys.view("<u8").reshape(-1, INBOX_KEY_BYTES // 8)))


_EIGHT, _SIXTEEN, _HALF = np.uint64(8), np.uint64(16), np.uint64(32)
_ODD_BYTES, _ODD_PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _swap(word: Any) -> Any:
    """A little-endian word's bytes in big-endian order (compiled to one instruction)."""
    word = ((word >> _EIGHT) & _ODD_BYTES) | ((word & _ODD_BYTES) << _EIGHT)
    word = ((word >> _SIXTEEN) & _ODD_PAIRS) | ((word & _ODD_PAIRS) << _SIXTEEN)
    return (word >> _HALF) | (word << _HALF)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ascending(words: npt.NDArray[np.uint64]) -> bool:
    for row in range(1, len(words)):
        for word in range(3):
            one, two = words[row - 1, word], words[row, word]
            if one != two:
                if _swap(one) > _swap(two):
                    return False
                break
        else:
            return False
    return True


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _put_u32(out: Any, at: Any, value: Any) -> Any:
    for byte in range(4):
        out[at + byte] = (value >> (8 * byte)) & 0xFF
    return at + 4


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _put_varint(out: Any, at: Any, value: Any) -> Any:
    while value >= 0x80:
        out[at] = value & 0x7F | 0x80
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@numba.njit(inline="always")  # type: ignore[untyped-decorator]
def _put_key(out: Any, at: Any, keys: Any, row: Any, shared: Any) -> Any:
    """The internal key of `row` from byte `shared` on."""
    for byte in range(shared, INBOX_KEY_BYTES):
        out[at] = keys[row, byte]
        at += 1
    out[at] = 1
    for byte in range(1, 8):
        out[at + byte] = 0
    return at + 8


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _lay_out(keys: Keys, first: int, out: Bytes, sizes: npt.NDArray[np.int64]) -> int:
    """Data blocks from row `first` on into `out`, their checksums left open; as many as `sizes`
    has room for. Sets the size of each, trailer included; their number."""
    restarts = np.empty(RUN_BLOCK_ENTRIES, np.int64)
    at = blocks = 0
    row = first
    while row < len(keys) and blocks < len(sizes):
        start = at
        count = min(RUN_BLOCK_ENTRIES, len(keys) - row)
        restart_count = 0
        for entry in range(count):
            shared = 0
            if entry % RESTART_ENTRIES == 0:
                restarts[restart_count] = at - start
                restart_count += 1
            else:
                while keys[row, shared] == keys[row - 1, shared]:
                    shared += 1
            out[at] = shared
            out[at + 1] = _INTERNAL_BYTES - shared
            out[at + 2] = 0
            at = _put_key(out, at + 3, keys, row, shared)
            row += 1
        for restart in range(restart_count):
            at = _put_u32(out, at, restarts[restart])
        at = _put_u32(out, at, restart_count)
        out[at] = 0  # not compressed
        at += TRAILER_BYTES
        sizes[blocks] = at - start
        blocks += 1
    return blocks


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _lay_index(keys: Keys, sizes: npt.NDArray[np.int64], out: Bytes) -> Any:
    """The index block's entries and restarts into `out`; number of bytes."""
    restarts = np.empty(len(sizes), np.int64)
    at = offset = 0
    for block in range(len(sizes)):
        size = sizes[block] - TRAILER_BYTES
        restarts[block] = at
        out[at] = 0
        out[at + 1] = _INTERNAL_BYTES
        last = min((block + 1) * RUN_BLOCK_ENTRIES, len(keys)) - 1
        handle = _put_key(out, at + 3, keys, last, 0)
        end = _put_varint(out, _put_varint(out, handle, offset), size)
        out[at + 2] = end - handle
        at = end
        offset += sizes[block]
    for block in range(len(sizes)):
        at = _put_u32(out, at, restarts[block])
    return _put_u32(out, at, len(sizes))


def _masked(crc: int) -> int:
    """RocksDB's mask, so that checksums of data with checksums in it stay strong."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _handle(offset: int, size: int) -> bytes:
    return _varint(offset) + _varint(size)


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """A block with its trailer, a restart point per entry."""
    out = bytearray()
    restarts = bytearray()
    for key, value in entries:
        restarts += _U32.pack(len(out))
        out += b"\x00" + _varint(len(key)) + _varint(len(value)) + key + value
    return _sealed(bytes(out + restarts + _U32.pack(len(entries))))


def _sealed(body: bytes) -> bytes:
    """A block's body with its trailer."""
    body += b"\x00"  # not compressed
    return body + _U32.pack(_masked(crc32c(body)))


def _tail(keys: Keys, sizes: npt.NDArray[np.int64]) -> bytes:
    """Everything behind the data blocks, whose sizes with trailers are `sizes`."""
    data_bytes = int(sizes.sum())
    room = np.empty(len(sizes) * (_INTERNAL_BYTES + 32) + _U32.size, dtype=np.uint8)
    index_block = _sealed(room[: _lay_index(keys, sizes, room)].tobytes())
    properties = _block(_properties(len(keys), len(sizes), data_bytes, len(index_block)))
    properties_handle = _handle(data_bytes, len(properties) - TRAILER_BYTES)
    metaindex = _block([(b"rocksdb.properties", properties_handle)])
    metaindex_at = data_bytes + len(properties)
    handles = _handle(metaindex_at, len(metaindex) - TRAILER_BYTES) + _handle(
        metaindex_at + len(metaindex), len(index_block) - TRAILER_BYTES
    )
    footer = bytes([_CHECKSUM_CRC32C]) + handles.ljust(40, b"\x00")
    footer += _U32.pack(_FORMAT_VERSION) + _U64.pack(_MAGIC)
    return properties + metaindex + index_block + footer


def _properties(
    entries: int, blocks: int, data_bytes: int, index_bytes: int
) -> list[tuple[bytes, bytes]]:
    """What RocksDB demands or shows of an adopted file, in key order."""
    numbers = {
        "rocksdb.column.family.id": _NO_COLUMN_FAMILY,
        "rocksdb.data.size": data_bytes,
        "rocksdb.deleted.keys": 0,
        "rocksdb.filter.size": 0,
        "rocksdb.fixed.key.length": _INTERNAL_BYTES,
        "rocksdb.index.size": index_bytes,
        "rocksdb.merge.operands": 0,
        "rocksdb.num.data.blocks": blocks,
        "rocksdb.num.entries": entries,
        "rocksdb.num.range-deletions": 0,
        "rocksdb.raw.key.size": entries * _INTERNAL_BYTES,
        "rocksdb.raw.value.size": 0,
    }
    values = {name: _varint(number) for name, number in numbers.items()}
    values |= {
        "rocksdb.block.based.table.index.type": _U32.pack(0),
        "rocksdb.block.based.table.prefix.filtering": b"0",
        "rocksdb.block.based.table.whole.key.filtering": b"0",
        "rocksdb.comparator": b"leveldb.BytewiseComparator",
        "rocksdb.external_sst_file.global_seqno": _U64.pack(0),
        "rocksdb.external_sst_file.version": _U32.pack(2),
        "rocksdb.format.version": _varint(_FORMAT_VERSION),
    }
    return sorted((name.encode(), value) for name, value in values.items())
