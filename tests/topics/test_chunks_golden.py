"""The bytes of chunks: golden vectors that may never change, round trips, and any damage found."""

from __future__ import annotations

import random

import pytest

from engine.errors import Corruption
from engine.limits import CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX
from engine.ports import Record
from topics import chunks
from topics.chunks import Chunk

GOLDEN = (
    "01" "0e213788"  # version, CRC-32C
    "0007" "00000002"  # root partition, records
    "0000000000000101" "0000000000000102"  # root offsets
    "00000199c82cc000" "00000199c82cc000"  # root times
    "00000001" "00000002"  # lengths
    "61" "6263"
)  # fmt: skip


def test_golden() -> None:
    value = chunks.encode_root(7, 0x101, 1_760_000_000_000, [b"a", b"bc"])
    assert value.hex() == GOLDEN
    assert chunks.decode(bytes.fromhex(GOLDEN)).records() == [
        Record(7, 0x101, 1_760_000_000_000, b"a"),
        Record(7, 0x102, 1_760_000_000_000, b"bc"),
    ]


def test_relayed_records_keep_their_roots_positions() -> None:
    chunk = Chunk(3, (5, 9, 2**64 - 1), (1, 2, 2**63), [b"", b"x", bytes(500)])
    value = chunks.encode(chunk)
    decoded = chunks.decode(value)
    assert decoded == chunk
    assert [record.offset for record in decoded.records()] == [5, 9, 2**64 - 1]
    same = chunks.encode(Chunk(1, (4, 5), (9, 9), [b"a", b"b"]))
    assert same == chunks.encode_root(1, 4, 9, [b"a", b"b"])


def test_any_changed_or_missing_byte_is_found_fuzz() -> None:
    rng = random.Random(1)
    value = chunks.encode_root(1, 10, 20, [rng.randbytes(rng.randrange(40)) for _ in range(9)])
    for place in range(len(value)):
        damaged = bytearray(value)
        damaged[place] ^= 1 << rng.randrange(8)
        with pytest.raises(Corruption):
            chunks.decode(bytes(damaged))
        with pytest.raises(Corruption):
            chunks.decode(value[:place])
    with pytest.raises(Corruption):
        chunks.decode(value + b"\0")


def test_cut_keeps_order_and_bounds_fuzz() -> None:
    rng = random.Random(2)
    for _ in range(200):
        lengths = rng.choice([[1], [0, 200], [200, 70_000], [30_000]])
        frames = [bytes(rng.choice(lengths)) for _ in range(rng.choice([1, 2, 255, 256, 257, 900]))]
        runs = chunks.cut(frames)
        assert [frame for run in runs for frame in run] == frames
        assert len(runs) <= chunks.count_max(len(frames), sum(map(len, frames)))
        for run in runs:
            assert 1 <= len(run) <= CHUNK_RECORDS_MAX
            assert len(run) == 1 or sum(map(len, run)) <= CHUNK_BYTES_MAX
