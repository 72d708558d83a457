"""A sorted run for HBase: the bytes of an HFile (version 3), laid out from inbox keys by numpy.

| part of the file | bytes |
| --- | --- |
| data blocks | header 33, HFILE_BLOCK_ENTRIES records of 45 bytes, a CRC-32 per 16,384 bytes |
| root data index | per data block: offset i64, size i32, its first key with its length |
| meta index, file info | empty; a few named values as protobuf behind `PBUF` |
| trailer | 4,096 bytes: where the parts lie, as protobuf; version 3.3 |

A record is a KeyValue: key length 37, value length 0, row length 24, the row, family length 1, the
family, no qualifier, timestamp, type 4 (put). All integers are big-endian. The whole format, tried
and measured, is in the design notes (sorted runs); golden bytes: tests/engine/test_hfiles.py; the
proof that HBase reads it: tests/cells/test_store_hbase.py.

Like engine/runs.py one slab of blocks is prepared once, and only keys, back references and
checksums are written over it. Pure: the caller brings times and files. Safe from any thread.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine.errors import invariant
from engine.keys import INBOX_KEY_BYTES, Keys
from engine.limits import HFILE_BLOCK_ENTRIES, HFILE_SLAB_BLOCKS
from engine.runs import ascending

_HEADER = struct.Struct(">8siiqbii")
_KEY_HEAD = struct.Struct(">iih")
_KEY_TAIL = struct.Struct(">b1sqb")
_INDEX_ENTRY = struct.Struct(">qib")
_U32 = struct.Struct(">I")
_PUT, _CRC32, _NO_COMPRESSION = 4, 1, 2
_CHECKED_BYTES = 2**14
_TRAILER_BYTES = 2**12
_KEY_BYTES = 2 + INBOX_KEY_BYTES + 1 + 1 + 8 + 1
RECORD_BYTES = 8 + _KEY_BYTES
_VERSION = 3 << 24 | 3
_COMPARATOR = b"org.apache.hadoop.hbase.CellComparatorImpl"


def cut(keys: Keys, starts: Sequence[bytes]) -> list[Keys]:
    """`keys`, u8 (n, 24), ascending, in the parts that lie between region starts (ascending, of any
    length; b"" is the first region's). Empty parts are left out."""
    rows = np.ascontiguousarray(keys).view(f"V{INBOX_KEY_BYTES}").ravel()
    edges = [0]
    for start in starts:
        edges.append(bisect_left(rows, start, edges[-1], key=_row_bytes))
    edges.append(len(keys))
    return [keys[a:b] for a, b in pairwise(edges) if b > a]


def _row_bytes(row: np.void) -> bytes:
    return row.tobytes()


def hfile_chunks(keys: Keys, family: bytes, time_ms: int) -> Iterator[memoryview | bytes]:
    """The bytes of an HFile of `keys`, u8 (n, 24), n >= 1, strictly ascending, all in the one-byte
    `family` with timestamp `time_ms`; a chunk is valid until the next one is asked for.

    Raises Corruption when the keys are not strictly ascending: HBase would not notice.
    """
    invariant(len(keys) > 0, "an HFile has at least one key")
    invariant(len(family) == 1, "the family's name is one byte")
    keys = np.ascontiguousarray(keys)
    invariant(ascending(keys), "the keys of an HFile ascend strictly")
    full_count, rest = divmod(len(keys), HFILE_BLOCK_ENTRIES)
    for first in range(0, full_count, HFILE_SLAB_BLOCKS):
        if first == 0:
            blocks = min(full_count, HFILE_SLAB_BLOCKS)
            slab = _Slab(blocks, HFILE_BLOCK_ENTRIES, family, time_ms)
        count = min(HFILE_SLAB_BLOCKS, full_count - first)
        start = first * HFILE_BLOCK_ENTRIES
        part = keys[start : start + count * HFILE_BLOCK_ENTRIES]
        yield slab.fill(part, count, first * slab.stride, slab.stride)
    stride = block_bytes(HFILE_BLOCK_ENTRIES)
    if rest:
        last = _Slab(1, rest, family, time_ms)
        yield last.fill(keys[len(keys) - rest :], 1, full_count * stride, stride)
    yield _tail(keys, full_count, rest, family, time_ms)


def block_bytes(entries: int) -> int:
    """Length of a data block with its header and checksums."""
    return _with_checksums(_HEADER.size + entries * RECORD_BYTES)


def _with_checksums(size: int) -> int:
    return size + _U32.size * -(-size // _CHECKED_BYTES)


def _header(magic: bytes, data_bytes: int, previous: int) -> bytes:
    """A block's header; `data_bytes` without header and checksums."""
    size = _HEADER.size + data_bytes
    on_disk = _with_checksums(size) - _HEADER.size
    return _HEADER.pack(magic, on_disk, data_bytes, previous, _CRC32, _CHECKED_BYTES, size)


class _Slab:
    """Data blocks in one buffer with everything but keys, back references, checksums in place."""

    def __init__(self, blocks: int, entries: int, family: bytes, time_ms: int) -> None:
        self.entries = entries
        self.checked = _HEADER.size + entries * RECORD_BYTES  # bytes that checksums cover
        self.stride = block_bytes(entries)
        head = _KEY_HEAD.pack(_KEY_BYTES, 0, INBOX_KEY_BYTES)
        record = head + bytes(INBOX_KEY_BYTES) + _KEY_TAIL.pack(1, family, time_ms, _PUT)
        block = _header(b"DATABLK*", entries * RECORD_BYTES, -1) + record * entries
        self.buffer = bytearray(block.ljust(self.stride, b"\x00") * blocks)
        self.keys: npt.NDArray[np.void] = np.ndarray(
            (blocks, entries),
            dtype=f"V{INBOX_KEY_BYTES}",
            buffer=self.buffer,
            offset=_HEADER.size + len(head),
            strides=(self.stride, RECORD_BYTES),
        )
        self.previous: npt.NDArray[np.int64] = np.ndarray(
            (blocks,), dtype=">i8", buffer=self.buffer, offset=16, strides=(self.stride,)
        )

    def fill(self, keys: Keys, blocks: int, offset: int, back: int) -> memoryview:
        """Lay `keys` over the first `blocks` blocks, the first of which begins at `offset` of the
        file, `back` bytes behind the one before it; their bytes, valid until the next fill."""
        self.keys[:blocks] = keys.view(f"V{INBOX_KEY_BYTES}").reshape(blocks, self.entries)
        self.previous[:blocks] = np.arange(blocks) * self.stride + (offset - back)
        if offset == 0:
            self.previous[0] = -1
        view = memoryview(self.buffer)[: blocks * self.stride]
        for start in range(0, len(view), self.stride):
            _put_checksums(view[start : start + self.stride], self.checked)
        return view


def _put_checksums(block: memoryview, size: int) -> None:
    """Write the checksums of the first `size` bytes of `block` behind them."""
    at = size
    for start in range(0, size, _CHECKED_BYTES):
        crc = zlib.crc32(block[start : min(start + _CHECKED_BYTES, size)])
        _U32.pack_into(block, at, crc)
        at += _U32.size


def _block(magic: bytes, data: bytes) -> bytes:
    """A block of the load-on-open section."""
    size = _HEADER.size + len(data)
    block = bytearray(_with_checksums(size))
    block[:size] = _header(magic, len(data), -1) + data
    _put_checksums(memoryview(block), size)
    return bytes(block)


def _full_key(row: bytes, family: bytes, time_ms: int) -> bytes:
    head = struct.pack(">h", INBOX_KEY_BYTES)
    return head + row + _KEY_TAIL.pack(1, family, time_ms, _PUT)


def _tail(keys: Keys, full_count: int, rest: int, family: bytes, time_ms: int) -> bytes:
    """Everything behind the data blocks."""
    stride = block_bytes(HFILE_BLOCK_ENTRIES)
    firsts = keys[::HFILE_BLOCK_ENTRIES].tobytes()
    index = bytearray()
    for number in range(full_count + bool(rest)):
        size = stride if number < full_count else block_bytes(rest)
        row = firsts[number * INBOX_KEY_BYTES : (number + 1) * INBOX_KEY_BYTES]
        index += _INDEX_ENTRY.pack(number * stride, size, _KEY_BYTES)
        index += _full_key(row, family, time_ms)
    blocks = full_count + bool(rest)
    open_at = full_count * stride + (block_bytes(rest) if rest else 0)
    root = _block(b"IDXROOT2", bytes(index))
    meta = _block(b"IDXROOT2", b"")
    info = _block(b"FILEINF2", _file_info(keys, family, time_ms))
    info_at = open_at + len(root) + len(meta)
    numbers = {
        1: info_at,
        2: open_at,
        3: len(index),
        4: info_at + len(info),
        5: blocks,
        6: 0,
        7: len(keys),
        8: 1,
        9: 0,
        10: (blocks - 1) * stride,
    }
    fields = b"".join(_varint(field << 3) + _varint(value) for field, value in numbers.items())
    fields += _bytes_field(11, _COMPARATOR) + _varint(12 << 3) + _varint(_NO_COMPRESSION)
    trailer = b'TRABLK"$' + _varint(len(fields)) + fields
    trailer = trailer.ljust(_TRAILER_BYTES - _U32.size, b"\x00") + _U32.pack(_VERSION)
    return root + meta + info + trailer


def _file_info(keys: Keys, family: bytes, time_ms: int) -> bytes:
    """Named values, names ascending."""
    values = {
        b"hfile.AVG_KEY_LEN": _U32.pack(_KEY_BYTES),
        b"hfile.AVG_VALUE_LEN": _U32.pack(0),
        b"hfile.COMPARATOR": _COMPARATOR,
        b"hfile.CREATE_TIME_TS": struct.pack(">q", time_ms),
        b"hfile.LASTKEY": _full_key(keys[-1].tobytes(), family, time_ms),
    }
    pairs = b"".join(
        _bytes_field(1, _bytes_field(1, name) + _bytes_field(2, value))
        for name, value in sorted(values.items())
    )
    return b"PBUF" + _varint(len(pairs)) + pairs


def _bytes_field(number: int, value: bytes) -> bytes:
    """A protobuf field that holds bytes."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
