"""A sorted run: the bytes of a RocksDB table file (SST), laid out from inbox keys by numpy.

| part of the file | bytes |
| --- | --- |
| data blocks | RUN_BLOCK_ENTRIES entries of 35 bytes each, a restart point per entry |
| properties block | what RocksDB demands of an adopted file (`_properties`) |
| metaindex block | `rocksdb.properties` -> handle |
| index block | last internal key of each data block -> handle |
| footer | 53 bytes: checksum type, handles, version 2, magic |

An entry is `00 20 00`, the user key (24), `01 00 00 00 00 00 00 00` (type put, sequence 0). Every
block is followed by its compression type (0: none) and its masked CRC-32C. All integers are
little-endian. The whole format, tried and measured, is in the design notes (sorted runs); golden
bytes: tests/engine/test_runs_golden.py; the proof that RocksDB reads it: tests/cells.

Because full data blocks are all of one length, one slab of them is prepared once and only keys and
checksums are written over it: no call per key. Pure: the caller brings the file object. Safe from
any thread; two calls share nothing. The large copies and the order check release the GIL.
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

ENTRY_BYTES = 35
TRAILER_BYTES = 5
_ENTRY_HEAD = bytes([0, INBOX_KEY_BYTES + 8, 0])  # shared 0, key 32, value 0
_ENTRY_TAIL = b"\x01" + bytes(7)
_MAGIC = 0x88E241B785F4CFF7
_FORMAT_VERSION = 2
_CHECKSUM_CRC32C = 1
_MASK_DELTA = 0xA282EAD8
_NO_COLUMN_FAMILY = 2**31 - 1
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


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
    full_count, rest = divmod(len(keys), RUN_BLOCK_ENTRIES)
    for first in range(0, full_count, RUN_SLAB_BLOCKS):
        if first == 0:
            slab = _Slab(min(full_count, RUN_SLAB_BLOCKS), RUN_BLOCK_ENTRIES)
        count = min(RUN_SLAB_BLOCKS, full_count - first)
        start = first * RUN_BLOCK_ENTRIES
        yield slab.fill(keys[start : start + count * RUN_BLOCK_ENTRIES], count)
    if rest:
        yield _Slab(1, rest).fill(keys[len(keys) - rest :], 1)
    yield _tail(keys, full_count, rest)


def ascending(keys: Keys) -> bool:
    """Whether `keys`, u8 (n, 24) and contiguous, ascend strictly in byte order."""
    return bool(_ascending(keys.view("<u8").reshape(-1, INBOX_KEY_BYTES // 8)))


_EIGHT, _SIXTEEN, _HALF = np.uint64(8), np.uint64(16), np.uint64(32)
_ODD_BYTES, _ODD_PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@numba.njit(inline="always")
def _swap(word: Any) -> Any:
    """A little-endian word's bytes in big-endian order (compiled to one instruction)."""
    word = ((word >> _EIGHT) & _ODD_BYTES) | ((word & _ODD_BYTES) << _EIGHT)
    word = ((word >> _SIXTEEN) & _ODD_PAIRS) | ((word & _ODD_PAIRS) << _SIXTEEN)
    return (word >> _HALF) | (word << _HALF)


@numba.njit(cache=True, nogil=True)
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


def _block_bytes(entries: int) -> int:
    """Length of a data block without its trailer."""
    return entries * (ENTRY_BYTES + _U32.size) + _U32.size


class _Slab:
    """Data blocks in one buffer with everything but keys and checksums in place."""

    def __init__(self, blocks: int, entries: int) -> None:
        self.entries = entries
        self.stride = _block_bytes(entries) + TRAILER_BYTES
        restarts = np.arange(0, entries * ENTRY_BYTES, ENTRY_BYTES, dtype="<u4").tobytes()
        entry = _ENTRY_HEAD + bytes(INBOX_KEY_BYTES) + _ENTRY_TAIL
        block = entry * entries + restarts + _U32.pack(entries) + bytes(TRAILER_BYTES)
        self.buffer = bytearray(block * blocks)
        self.keys: npt.NDArray[np.void] = np.ndarray(
            (blocks, entries),
            dtype=f"V{INBOX_KEY_BYTES}",
            buffer=self.buffer,
            offset=len(_ENTRY_HEAD),
            strides=(self.stride, ENTRY_BYTES),
        )

    def fill(self, keys: Keys, blocks: int) -> memoryview:
        """Lay `keys` over the first `blocks` blocks; their bytes, valid until the next fill."""
        self.keys[:blocks] = keys.view(f"V{INBOX_KEY_BYTES}").reshape(blocks, self.entries)
        view = memoryview(self.buffer)[: blocks * self.stride]
        checksum_at = self.stride - _U32.size
        for start in range(0, len(view), self.stride):
            end = start + checksum_at
            _U32.pack_into(view, end, _masked(crc32c(view[start:end])))
        return view


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
    out += restarts + _U32.pack(len(entries)) + b"\x00"
    return bytes(out) + _U32.pack(_masked(crc32c(out)))


def _tail(keys: Keys, full_count: int, rest: int) -> bytes:
    """Everything behind the data blocks."""
    full_bytes = _block_bytes(RUN_BLOCK_ENTRIES)
    stride = full_bytes + TRAILER_BYTES
    full_size = _varint(full_bytes)
    last_keys = keys[RUN_BLOCK_ENTRIES - 1 :: RUN_BLOCK_ENTRIES].tobytes()
    index = [
        (
            last_keys[INBOX_KEY_BYTES * n : INBOX_KEY_BYTES * (n + 1)] + _ENTRY_TAIL,
            _varint(n * stride) + full_size,
        )
        for n in range(full_count)
    ]
    data_bytes = full_count * stride
    if rest:
        handle = _handle(data_bytes, _block_bytes(rest))
        index.append((keys[-1].tobytes() + _ENTRY_TAIL, handle))
        data_bytes += _block_bytes(rest) + TRAILER_BYTES
    index_block = _block(index)
    properties = _block(_properties(len(keys), len(index), data_bytes, len(index_block)))
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
        "rocksdb.fixed.key.length": INBOX_KEY_BYTES + 8,
        "rocksdb.index.size": index_bytes,
        "rocksdb.merge.operands": 0,
        "rocksdb.num.data.blocks": blocks,
        "rocksdb.num.entries": entries,
        "rocksdb.num.range-deletions": 0,
        "rocksdb.raw.key.size": entries * (INBOX_KEY_BYTES + 8),
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
