"""A sorted run for HBase: the bytes of an HFile (version 3), laid out from inbox keys by numba.

| part of the file | bytes |
| --- | --- |
| data blocks | header 33; HFILE_BLOCK_ENTRIES keys in FAST_DIFF; a CRC-32 per 16,384 bytes |
| root data index | per data block: offset i64, size i32, its first key with its length |
| meta index, file info | empty; a few named values as protobuf behind `PBUF` |
| trailer | 4,096 bytes: where the parts lie, as protobuf; version 3.3 |

A key is: row length 24, the row, family length 1, the family, no qualifier, timestamp, type 4
(put): 37 bytes. A data block begins with the encoding's id (4) and what it would measure without.
Its first record holds its whole key; the others share with the key before: flags (all is the same
but the row and the last byte of the timestamp), the number of key bytes shared, the rest of the
row, that last byte. Neighbours share the reader and the front of the id: some 16 bytes a key
instead of 45, which nobody has to send, check, store and read again. All integers are big-endian.
Golden bytes: tests/engine/test_hfiles.py; the proof that HBase reads them:
tests/cells/test_hbase_loader_real.py.

Pure: the caller brings times and files. Safe from any thread; two calls share nothing. Laying out
and checking the order release the GIL.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from engine.errors import invariant
from engine.keys import INBOX_KEY_BYTES, Keys
from engine.limits import HFILE_BLOCK_ENTRIES, HFILE_SLAB_BLOCKS
from engine.runs import ascending

_HEADER = struct.Struct(">8siiqbii")
_KEY_TAIL = struct.Struct(">b1sqb")
_INDEX_ENTRY = struct.Struct(">qib")
_U32 = struct.Struct(">I")
_PUT, _CRC32, _NO_COMPRESSION = 4, 1, 2
_FAST_DIFF_ID, _ENCODING = 4, b"FAST_DIFF"
_CHECKED_BYTES = 2**14
_TRAILER_BYTES = 2**12
_KEY_BYTES = 2 + INBOX_KEY_BYTES + 1 + 1 + 8 + 1
_PLAIN_BYTES = 8 + _KEY_BYTES  # of one record without the encoding
_FIRST_BYTES = 4 + _KEY_BYTES  # of a block's first record: flags, three lengths, the key
_RECORD_BYTES_MAX = 3 + INBOX_KEY_BYTES  # of any other: flags, bytes shared, row, timestamp's last
_HEADER_BYTES = _HEADER.size
_HEAD_BYTES = _HEADER_BYTES + 2 + 4  # of a block, with the encoding's id and the plain size
_SAME_HEAD = 7 + 8 + 16 + 32 + 64  # 7 bytes of the timestamp, key length, value length, type, value
_VERSION = 3 * 2**24 + 3
_COMPARATOR = b"org.apache.hadoop.hbase.CellComparatorImpl"
Bytes = npt.NDArray[np.uint8]


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
    first_key = np.frombuffer(_full_key(keys[0].tobytes(), family, time_ms), dtype=np.uint8)
    slab_keys = HFILE_BLOCK_ENTRIES * HFILE_SLAB_BLOCKS
    slab = np.empty(_bytes_most(min(len(keys), slab_keys)), dtype=np.uint8)
    view = memoryview(slab.data)
    sizes = np.empty(-(-len(keys) // HFILE_BLOCK_ENTRIES), dtype=np.int64)
    blocks, previous, offset = 0, -1, 0
    for first in range(0, len(keys), slab_keys):
        part = keys[first : first + slab_keys]
        room = sizes[blocks : blocks + HFILE_SLAB_BLOCKS]
        count = _lay_out(part, HFILE_BLOCK_ENTRIES, first_key, slab, room)
        start = 0
        for size in sizes[blocks : blocks + count].tolist():
            _seal(view[start : start + size], previous)
            previous = offset + start
            start += size
        blocks += count
        offset += start
        yield view[:start]
    yield _tail(keys, sizes, family, time_ms)


def _bytes_most(count: int) -> int:
    """Room for the data blocks of `count` keys that share nothing."""
    blocks = -(-count // HFILE_BLOCK_ENTRIES)
    most = _HEAD_BYTES + _FIRST_BYTES + HFILE_BLOCK_ENTRIES * _RECORD_BYTES_MAX
    return blocks * _with_checksums(most)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _lay_out(
    keys: Keys, entries: int, first_key: Bytes, out: Bytes, sizes: npt.NDArray[np.int64]
) -> Any:
    """The data blocks of `keys`, `entries` in each, into `out`, header and checksums left open;
    sets the size of each with its checksums; their number."""
    at = blocks = row = 0
    while row < len(keys):
        start = at
        count = min(entries, len(keys) - row)
        at += _HEADER_BYTES
        plain = count * _PLAIN_BYTES
        out[at], out[at + 1] = 0, _FAST_DIFF_ID
        for byte in range(4):
            out[at + 2 + byte] = (plain >> (24 - 8 * byte)) & 0xFF
        at += 6
        out[at], out[at + 1], out[at + 2], out[at + 3] = 0, _KEY_BYTES, 0, 0
        at += 4
        for byte in range(_KEY_BYTES):
            out[at + byte] = first_key[byte]
        for byte in range(INBOX_KEY_BYTES):
            out[at + 2 + byte] = keys[row, byte]
        at += _KEY_BYTES
        for next_row in range(row + 1, row + count):
            shared = 0
            while keys[next_row, shared] == keys[next_row - 1, shared]:
                shared += 1
            out[at], out[at + 1] = _SAME_HEAD, 2 + shared  # the row's length is shared, too
            at += 2
            for byte in range(shared, INBOX_KEY_BYTES):
                out[at] = keys[next_row, byte]
                at += 1
            out[at] = first_key[_KEY_BYTES - 2]
            at += 1
        row += count
        checked = at - start
        at += 4 * ((checked + _CHECKED_BYTES - 1) // _CHECKED_BYTES)
        sizes[blocks] = at - start
        blocks += 1
    return blocks


def _seal(block: memoryview, previous: int) -> None:
    """Write header and checksums of a data block; `previous`: where the one before begins."""
    checked = _checked_bytes(len(block))
    _HEADER.pack_into(block, 0, *_header(b"DATABLKE", checked - _HEADER.size, previous))
    _put_checksums(block, checked)


def _with_checksums(size: int) -> int:
    return size + _U32.size * -(-size // _CHECKED_BYTES)


def _checked_bytes(size: int) -> int:
    """The bytes that checksums cover, of a block of `size` bytes with them."""
    return size - _U32.size * -(-size // (_CHECKED_BYTES + _U32.size))


def _header(magic: bytes, data_bytes: int, previous: int) -> tuple[Any, ...]:
    """The fields of a block's header; `data_bytes` without header and checksums."""
    size = _HEADER.size + data_bytes
    on_disk = _with_checksums(size) - _HEADER.size
    return magic, on_disk, data_bytes, previous, _CRC32, _CHECKED_BYTES, size


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
    block[:size] = _HEADER.pack(*_header(magic, len(data), -1)) + data
    _put_checksums(memoryview(block), size)
    return bytes(block)


def _full_key(row: bytes, family: bytes, time_ms: int) -> bytes:
    head = struct.pack(">h", INBOX_KEY_BYTES)
    return head + row + _KEY_TAIL.pack(1, family, time_ms, _PUT)


def _tail(keys: Keys, sizes: npt.NDArray[np.int64], family: bytes, time_ms: int) -> bytes:
    """Everything behind the data blocks, whose sizes with checksums are `sizes`."""
    firsts = keys[::HFILE_BLOCK_ENTRIES].tobytes()
    offsets = np.concatenate(([0], np.cumsum(sizes))).tolist()
    index = bytearray()
    for number, size in enumerate(sizes.tolist()):
        row = firsts[number * INBOX_KEY_BYTES : (number + 1) * INBOX_KEY_BYTES]
        index += _INDEX_ENTRY.pack(offsets[number], size, _KEY_BYTES)
        index += _full_key(row, family, time_ms)
    open_at = offsets[-1]
    root = _block(b"IDXROOT2", bytes(index))
    meta = _block(b"IDXROOT2", b"")
    info = _block(b"FILEINF2", _file_info(keys, family, time_ms))
    info_at = open_at + len(root) + len(meta)
    numbers = {
        1: info_at,
        2: open_at,
        3: len(index),
        4: info_at + len(info),
        5: len(sizes),
        6: 0,
        7: len(keys),
        8: 1,
        9: 0,
        10: offsets[-2],
    }
    fields = b"".join(_varint(field << 3) + _varint(value) for field, value in numbers.items())
    fields += _bytes_field(11, _COMPARATOR) + _varint(12 << 3) + _varint(_NO_COMPRESSION)
    trailer = b'TRABLK"$' + _varint(len(fields)) + fields
    trailer = trailer.ljust(_TRAILER_BYTES - _U32.size, b"\x00") + _U32.pack(_VERSION)
    return root + meta + info + trailer


def _file_info(keys: Keys, family: bytes, time_ms: int) -> bytes:
    """Named values, names ascending."""
    values = {
        b"DATA_BLOCK_ENCODING": _ENCODING,
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
