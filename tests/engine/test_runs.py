"""Sorted runs: layout, order check, chunking. That RocksDB reads them is tested in tests/cells."""

from __future__ import annotations

import io
import struct
from itertools import pairwise

import numpy as np
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Corruption
from engine.keys import INBOX_KEY_BYTES, Keys
from engine.limits import RUN_BLOCK_ENTRIES, RUN_SLAB_BLOCKS
from engine.runs import ascending, run_chunks, write_run
from tests.strategies import looks


def keys_of(values: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, INBOX_KEY_BYTES)


def counting(count: int, start: int = 0) -> Keys:
    return keys_of([(start + n).to_bytes(INBOX_KEY_BYTES, "big") for n in range(count)])


def run_bytes(keys: Keys) -> bytes:
    return b"".join(bytes(chunk) for chunk in run_chunks(keys))


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def handle(data: bytes, at: int) -> tuple[int, int, int]:
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def block(data: bytes, offset: int, size: int) -> list[tuple[bytes, bytes]]:
    """The entries of a block, read by the format's rules; its checksum is checked."""
    body, kind = data[offset : offset + size], data[offset + size]
    assert kind == 0
    (stored,) = struct.unpack_from("<I", data, offset + size + 1)
    crc = crc32c(data[offset : offset + size + 1])
    assert stored == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    (count,) = struct.unpack_from("<I", body, size - 4)
    restarts = struct.unpack_from(f"<{count}I", body, size - 4 - 4 * count)
    entries: list[tuple[bytes, bytes]] = []
    at, key, seen = 0, b"", []
    while at < size - 4 - 4 * count:
        start = at
        shared, at = varint(body, at)
        key_size, at = varint(body, at)
        value_size, at = varint(body, at)
        if shared == 0:
            seen.append(start)
        key = key[:shared] + body[at : at + key_size]
        entries.append((key, body[at + key_size :][:value_size]))
        at += key_size + value_size
    assert at == size - 4 - 4 * count
    assert set(restarts) <= set(seen) and restarts[0] == 0
    return entries


def read_back(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """(joined user keys, properties) of a run, found from its footer as RocksDB does."""
    footer = data[-53:]
    assert footer[0] == 1
    assert footer[-12:] == struct.pack("<IQ", 2, 0x88E241B785F4CFF7)
    meta_at, meta_size, at = handle(footer, 1)
    index_at, index_size, _ = handle(footer, at)
    (properties_entry,) = block(data, meta_at, meta_size)
    assert properties_entry[0] == b"rocksdb.properties"
    properties_at, properties_size, _ = handle(properties_entry[1], 0)
    properties = block(data, properties_at, properties_size)
    assert properties == sorted(properties)
    found, next_at = [], 0
    for last_key, value in block(data, index_at, index_size):
        data_at, data_size, _ = handle(value, 0)
        assert data_at == next_at
        next_at = data_at + data_size + 5
        entries = block(data, data_at, data_size)
        assert entries[-1][0] == last_key
        for key, nothing in entries:
            assert nothing == b"" and key[24:] == b"\x01" + bytes(7)
            found.append(key[:24])
    return b"".join(found), dict(properties)


EDGES = [
    1,
    2,
    RUN_BLOCK_ENTRIES - 1,
    RUN_BLOCK_ENTRIES,
    RUN_BLOCK_ENTRIES + 1,
    RUN_BLOCK_ENTRIES * RUN_SLAB_BLOCKS,
    RUN_BLOCK_ENTRIES * (RUN_SLAB_BLOCKS + 3) + 5,
]


@pytest.mark.parametrize("count", EDGES)
def test_run_holds_its_keys_at_every_edge(count: int) -> None:
    keys = counting(count, start=2**70)
    data = run_bytes(keys)
    found, properties = read_back(data)
    assert found == keys.tobytes()
    assert varint(properties[b"rocksdb.num.entries"], 0)[0] == count
    blocks = -(-count // RUN_BLOCK_ENTRIES)
    assert varint(properties[b"rocksdb.num.data.blocks"], 0)[0] == blocks


@looks(60)
@given(st.sets(st.binary(min_size=24, max_size=24), min_size=1, max_size=400))
def test_any_keys_come_back(values: set[bytes]) -> None:
    keys = keys_of(sorted(values))
    assert read_back(run_bytes(keys))[0] == keys.tobytes()


def test_neighbours_share_their_front() -> None:
    count = RUN_BLOCK_ENTRIES * 10
    alike = keys_of([bytes(20) + n.to_bytes(4, "big") for n in range(count)])
    spread = keys_of([n.to_bytes(4, "big") + bytes(20) for n in range(count)])
    assert len(run_bytes(alike)) < 0.6 * len(run_bytes(spread))
    worst = keys_of([bytes([n]) + bytes(23) for n in range(256)])
    assert len(run_bytes(worst)) < 256 * 36 + 2_000


def test_write_run_says_how_much_it_wrote() -> None:
    file = io.BytesIO()
    written = write_run(counting(1_000), file)
    assert written == len(file.getvalue()) and file.getvalue() == run_bytes(counting(1_000))


def test_keys_that_are_a_view_are_laid_out_alike() -> None:
    keys = counting(5_000)
    assert run_bytes(keys[::7]) == run_bytes(keys[::7].copy())


@looks(100)
@given(st.lists(st.binary(min_size=24, max_size=24), min_size=1, max_size=30))
def test_ascending_is_strict_byte_order(values: list[bytes]) -> None:
    expected = all(one < two for one, two in pairwise(values))
    assert ascending(keys_of(values)) is expected
    assert ascending(keys_of(sorted(set(values))))


@pytest.mark.parametrize("byte", range(24))
def test_ascending_looks_at_every_byte(byte: int) -> None:
    low, high = bytearray(b"\x7f" * 24), bytearray(b"\x7f" * 24)
    high[byte] = 0x80
    assert ascending(keys_of([bytes(low), bytes(high)]))
    assert not ascending(keys_of([bytes(high), bytes(low)]))
    assert not ascending(keys_of([bytes(low), bytes(low)]))


@pytest.mark.parametrize("values", [[], [b"a" * 24, b"a" * 24], [b"b" * 24, b"a" * 24]])
def test_empty_or_disordered_keys_are_refused(values: list[bytes]) -> None:
    keys = keys_of(values) if values else np.empty((0, 24), dtype=np.uint8)
    with pytest.raises(Corruption):
        run_bytes(keys)
