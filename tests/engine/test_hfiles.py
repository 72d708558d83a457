"""The bytes of an HFile: read back by an independent reader of the format, and golden.

That HBase itself reads them is shown in tests/cells/test_hbase_loader_real.py.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from engine import hfiles, limits
from engine.errors import Corruption
from engine.hfiles import cut, hfile_chunks
from engine.keys import inbox_key, inbox_keys

TIME = 1_769_860_800_000


def some_keys(count: int) -> np.ndarray:
    numbers = np.arange(count, dtype=np.uint64)
    return inbox_keys(numbers // np.uint64(7), np.uint64(2**60) - numbers, numbers * numbers)


def whole(keys: np.ndarray) -> bytes:
    return b"".join(bytes(chunk) for chunk in hfile_chunks(keys, b"f", TIME))


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> dict[int, list[int | bytes]]:
    found: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        head, at = varint(data, at)
        value: int | bytes
        value, at = varint(data, at)
        if head & 7 == 2:
            size = value
            value, at = data[at : at + size], at + size
        found.setdefault(head >> 3, []).append(value)
    return found


def read_block(data: bytes, at: int) -> tuple[bytes, bytes, int, int]:
    """(magic, data, offset of the previous block, end); checks lengths and checksums."""
    magic, on_disk, size, previous, kind, step, checked = struct.unpack_from(">8siiqbii", data, at)
    assert (kind, step, checked) == (1, 16_384, 33 + size)
    end = at + 33 + on_disk
    sums = data[at + checked : end]
    body = data[at : at + checked]
    parts = [body[start : start + step] for start in range(0, checked, step)]
    assert sums == b"".join(struct.pack(">I", zlib.crc32(part)) for part in parts)
    return magic, body[33:], previous, end


def read_records(data: bytes) -> list[bytes]:
    """The rows of a FAST_DIFF block; checks everything that all keys have alike."""
    encoding, plain = struct.unpack_from(">hi", data)
    assert encoding == 4 and data[6:10] == bytes([0, 37, 0, 0])
    key = data[10:47]
    rows, at = [], 47
    while True:
        assert struct.unpack_from(">h", key) == (24,)
        assert struct.unpack_from(">b1sqb", key, 26) == (1, b"f", TIME, 4)
        rows.append(key[2:26])
        if at == len(data):
            break
        flags, shared = data[at], data[at + 1]
        assert flags == 127 and 2 <= shared < 26 and data[at + 2] != key[shared]
        end = at + 2 + 26 - shared
        key = key[:shared] + data[at + 2 : end] + key[26:35] + data[end : end + 1] + key[36:]
        at = end + 1
    assert plain == 45 * len(rows)
    return rows


@pytest.mark.parametrize("count", [1, 4, 5, 14, 15, 16, 100])
def test_every_part_reads_back(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hfiles, "HFILE_BLOCK_ENTRIES", 5)
    monkeypatch.setattr(hfiles, "HFILE_SLAB_BLOCKS", 3)
    check(some_keys(count), 5)


def test_full_size_blocks_read_back() -> None:
    check(some_keys(limits.HFILE_BLOCK_ENTRIES * 2 + 9), limits.HFILE_BLOCK_ENTRIES)


def check(keys: np.ndarray, entries: int) -> None:
    data = whole(keys)
    trailer = data[-4096:]
    assert trailer[:8] == b'TRABLK"$' and trailer[-4:] == b"\x03\x00\x00\x03"
    size, at = varint(trailer, 8)
    found = {number: values[0] for number, values in fields(trailer[at : at + size]).items()}
    blocks = -(-len(keys) // entries)
    assert (found[5], found[6], found[7], found[8], found[12]) == (blocks, 0, len(keys), 1, 2)
    magic, index, _, at = read_block(data, int(found[2]))
    assert magic == b"IDXROOT2" and found[3] == len(index)
    rows: list[bytes] = []
    expected_previous, place = -1, 0
    for number in range(blocks):
        offset, on_disk, key_size = struct.unpack_from(">qib", index, number * 50)
        assert (offset, key_size) == (place, 37)
        magic, body, previous, place = read_block(data, offset)
        assert magic == b"DATABLKE" and previous == expected_previous
        assert on_disk == place - offset
        expected_previous = offset
        records = read_records(body)
        assert index[number * 50 + 13 :][2:26] == records[0]
        rows += records
    assert (found[9], found[10]) == (0, expected_previous)
    assert place == found[2] and b"".join(rows) == keys.tobytes()
    magic, meta, _, at = read_block(data, at)
    assert (magic, meta) == (b"IDXROOT2", b"") and at == found[1]
    magic, info, _, at = read_block(data, at)
    assert magic == b"FILEINF2" and info[:4] == b"PBUF" and at == len(data) - 4096
    size, start = varint(info, 4)
    entries: Any = fields(info[start : start + size])[1]
    pairs = [fields(pair) for pair in entries]
    named = {pair[1][0]: pair[2][0] for pair in pairs}
    assert list(named) == sorted(named) and named[b"DATA_BLOCK_ENCODING"] == b"FAST_DIFF"
    assert named[b"hfile.LASTKEY"][2:26] == rows[-1]  # type: ignore[index]


def test_bytes_stay_golden() -> None:
    """HBase keeps such files for ever: another byte is another format."""
    data = whole(some_keys(3_000))
    assert len(data) == GOLDEN_BYTES
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256


GOLDEN_BYTES = 44_257
GOLDEN_SHA256 = "d7a7ea4264d870dc7813b558213a67d386d025f4e4375d876731690f5e44f027"


@pytest.mark.parametrize("order", [[1, 0], [0, 0]])
def test_keys_that_do_not_ascend_are_refused(order: list[int]) -> None:
    with pytest.raises(Corruption):
        whole(some_keys(5)[order])
    with pytest.raises(Corruption):
        whole(some_keys(0))


def test_cut_at_region_boundaries() -> None:
    keys = np.concatenate([some_keys(70), inbox_keys(*[np.array([2**63], dtype=np.uint64)] * 3)])
    rows = [key.tobytes() for key in keys]
    boundary = rows[40]
    starts = [b"", b"\x00" * 7 + b"\x03", boundary, boundary + b"\x00", b"\x70", b"\xff" * 30]
    parts = cut(keys, starts)
    assert b"".join(part.tobytes() for part in parts) == keys.tobytes()
    assert [len(part) for part in parts] == [21, 19, 1, 29, 1]
    assert parts[1][0].tobytes() >= inbox_key(3, 2**63 - 1, 0)[:8]
    assert cut(keys[:0], starts) == []
    assert [len(part) for part in cut(keys, [b""])] == [71]
