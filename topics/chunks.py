"""The bytes of appended records, alone in this file. Never change them: they are on disk.

One LMDB value is a *chunk*: the records that one append gave one partition, cut at
CHUNK_RECORDS_MAX and CHUNK_BYTES_MAX. A put costs as much as 30 records' bytes, so a batch is many
times cheaper this way, while a lone event is a chunk of one.

Key: offset of the chunk's LAST record, u64 BE. So the first key at or behind an offset is the
chunk that holds it, and the last key of a partition plus one is the next offset.

| value, all big-endian | content |
| --- | --- |
| u8 | version = 1 |
| u32 | CRC-32C of everything behind it |
| u16 | root partition |
| u32 | number of records n |
| u64 x n | root offset of each record |
| u64 x n | root append time of each, Unix milliseconds |
| u32 x n | length of each frame |
| bytes | the frames, joined |

Columns, so that numbers are packed and unpacked n at a time. Each record carries its root's
position: a relayed copy keeps the root's. Pure; safe from any thread.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast

from crc32c import crc32c

from engine.errors import Corruption, invariant
from engine.limits import CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX
from engine.ports import Record

VERSION = 1
RECORD_BYTES_OVERHEAD = 20  # of one record in its chunk
KEY = struct.Struct(">Q")

_HEAD = struct.Struct(">BI")
_BODY = struct.Struct(">HI")
_make_record = cast(Callable[[Iterable[object]], Record], functools.partial(tuple.__new__, Record))


class Chunk(NamedTuple):
    """A decoded chunk; the three sequences have one element per record."""

    partition: int
    offsets: Sequence[int]
    times_ms: Sequence[int]
    frames: Sequence[bytes]

    def records(self) -> list[Record]:
        """One record each, in order."""
        rows = zip(
            itertools.repeat(self.partition), self.offsets, self.times_ms, self.frames, strict=False
        )
        return list(map(_make_record, rows))


def cut(frames: Sequence[bytes]) -> list[Sequence[bytes]]:
    """`frames` in order, cut into runs that make one chunk each."""
    if len(frames) <= CHUNK_RECORDS_MAX and sum(map(len, frames)) <= CHUNK_BYTES_MAX:
        return [frames]
    runs, start, size = [], 0, 0
    for index, frame in enumerate(frames):
        full = index - start >= CHUNK_RECORDS_MAX or size + len(frame) > CHUNK_BYTES_MAX
        if full and index > start:
            runs.append(frames[start:index])
            start, size = index, 0
        size += len(frame)
    runs.append(frames[start:])
    return runs


def count_max(records: int, frames_bytes: int) -> int:
    """Most chunks that `cut` makes: two neighbours together pass one of the bounds."""
    return 1 + records // CHUNK_RECORDS_MAX + 2 * frames_bytes // CHUNK_BYTES_MAX


def encode_root(partition: int, first_offset: int, time_ms: int, frames: Sequence[bytes]) -> bytes:
    """The chunk of records that are appended here first: one time, consecutive offsets."""
    count = len(frames)
    offsets = struct.pack(f">{count}Q", *range(first_offset, first_offset + count))
    return _join(partition, offsets, KEY.pack(time_ms) * count, frames)


def encode(chunk: Chunk) -> bytes:
    """The bytes of any chunk, such as one of relayed records."""
    count = len(chunk.frames)
    invariant(
        len(chunk.offsets) == count == len(chunk.times_ms), "a chunk's columns differ in length"
    )
    offsets = struct.pack(f">{count}Q", *chunk.offsets)
    times = struct.pack(f">{count}Q", *chunk.times_ms)
    return _join(chunk.partition, offsets, times, chunk.frames)


def _join(partition: int, offsets: bytes, times: bytes, frames: Sequence[bytes]) -> bytes:
    count = len(frames)
    lengths = struct.pack(f">{count}I", *map(len, frames))
    body = b"".join((_BODY.pack(partition, count), offsets, times, lengths, *frames))
    return _HEAD.pack(VERSION, crc32c(body)) + body


def decode(value: bytes) -> Chunk:
    """The chunk of a value; Corruption when a single bit of it is not as written."""
    if len(value) < _HEAD.size + _BODY.size:
        raise Corruption(f"a chunk of {len(value)} bytes")
    version, checksum = _HEAD.unpack_from(value)
    if version != VERSION:
        raise Corruption(f"a chunk of version {version}; this software reads {VERSION}")
    if crc32c(memoryview(value)[_HEAD.size :]) != checksum:
        raise Corruption("a chunk's checksum does not match: the disk returned other bytes")
    partition, count = _BODY.unpack_from(value, _HEAD.size)
    start = _HEAD.size + _BODY.size
    base = start + RECORD_BYTES_OVERHEAD * count
    invariant(base <= len(value), "a chunk is shorter than its columns")
    columns = struct.unpack_from(f">{2 * count}Q{count}I", value, start)
    bounds = list(itertools.accumulate(columns[2 * count :], initial=base))
    invariant(bounds[-1] == len(value), "a chunk's frames do not fill it")
    frames = [value[start:end] for start, end in itertools.pairwise(bounds)]
    return Chunk(partition, columns[:count], columns[count : 2 * count], frames)
