"""One segment of the embedded firehose: a folder with an LMDB environment for a span of time.

| in the folder | content |
| --- | --- |
| segment.json | number, first offset per partition, time of the record before: never changes |
| data.mdb | one sub-database per partition (chunks by last offset), and `state` |
| lock.mdb | LMDB's writer lock and reader slots |

`state` holds one record, the *tail*: sealed or not, last append time, next offset per partition.
It is written by the transaction that appends, so it is never torn from the records; every append
checks it against the last key. A sealed segment never changes again: whoever finds it sealed goes
on to the next one, whose first offsets are the sealed tail's.

Several processes and threads may append and read at once: LMDB serializes the writers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import msgspec

from engine.errors import Corruption, Misconfigured, TooLarge, invariant
from engine.limits import (
    APPEND_PAGES_PER_PARTITION,
    FORMAT_VERSION,
    LMDB_READERS_CHECK_APPENDS,
    SEGMENT_FILL,
)
from engine.ports import Record
from topics import chunks, environments
from topics.environments import Opened, SharedEnvironment

HEADER_FILE = "segment.json"
DATA_FILE = "data.mdb"  # LMDB's name
_STATE = b"state"
_TAIL_KEY = b"tail"
_TAIL_HEAD = struct.Struct(">B?Q")


class SegmentHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What never changes of a segment: the content of `segment.json`."""

    format: int
    identity: str
    number: int
    map_bytes: int
    created_ms: int
    last_ms: int  # append time of the last record before this segment
    first: tuple[int, ...]  # per partition the first offset


class Tail(NamedTuple):
    """Where a segment ends."""

    sealed: bool
    last_ms: int
    ends: tuple[int, ...]


class Appended(NamedTuple):
    """One append: its time, and per touched partition the offset of its first record."""

    time_ms: int
    first: dict[int, int]


def folder_name(number: int) -> str:
    """The folder of segment `number`; names sort as numbers do."""
    return f"{number:016d}"


def create_segment(folder: Path, header: SegmentHeader) -> None:
    """Make the segment in `folder` (all segments), whole or not at all. Structure lock held."""

    def fill(transaction: lmdb.Transaction[bytes], databases: list[Any]) -> None:
        _write_tail(transaction, databases[-1], Tail(False, header.last_ms, header.first))

    environments.create_environment(
        folder / folder_name(header.number),
        header.map_bytes,
        _names(len(header.first)),
        fill,
        {HEADER_FILE: msgspec.json.encode(header)},
    )


def read_header(folder: Path, number: int) -> SegmentHeader:
    """Header of segment `number`. FileNotFoundError when it is gone; Corruption, Misconfigured."""
    path = folder / folder_name(number) / HEADER_FILE
    content = path.read_bytes()
    try:
        header = msgspec.json.decode(content, type=SegmentHeader)
    except msgspec.MsgspecError as error:
        raise Corruption(f"{path} is damaged: {error}. Restore the folder from a backup") from None
    if header.format != FORMAT_VERSION:
        raise Misconfigured(
            f"{path} has format {header.format}; this software reads {FORMAT_VERSION}:"
            " use the version that wrote it"
        )
    invariant(header.number == number, f"{path} says that it is segment {header.number}")
    return header


class Segment:
    """An open segment. Any thread; `close` when no call is under way."""

    def __init__(self, folder: Path, header: SegmentHeader) -> None:
        self.header = header
        self._path = folder / folder_name(header.number)
        self._appends = 0
        self._environment: SharedEnvironment = environments.open_shared(
            self._path, header.map_bytes, _names(len(header.first))
        )

    def close(self) -> None:
        """Give the environment back."""
        environments.release(self._environment)

    def tail(self) -> Tail:
        """Where the segment ends now."""
        with self._environment.use() as opened, opened.begin() as transaction:
            return self._read_tail(transaction, opened.databases[-1])

    def append(
        self, frames: Mapping[int, Sequence[bytes]], clock: Callable[[], int], segment_ms: int
    ) -> Appended | None:
        """Append frames per partition in one synced transaction; None when the segment is sealed,
        by this call (old or full) or before. TooLarge when even an empty one has no room."""
        with self._environment.use() as opened:
            self._look_for_killed_readers(opened)
            try:
                with opened.begin(write=True) as transaction:
                    return self._append(opened, transaction, frames, clock, segment_ms)
            except lmdb.MapFullError:
                self._seal_full(opened)
                return None

    def seal_if_old(self, now_ms: int, segment_ms: int) -> bool:
        """Seal when there are records and it is `segment_ms` old; whether it is sealed now."""
        with self._environment.use() as opened, opened.begin(write=True) as transaction:
            tail = self._read_tail(transaction, opened.databases[-1])
            now_ms = max(now_ms, tail.last_ms)
            if tail.sealed or not self._is_old(tail, now_ms, segment_ms):
                return tail.sealed
            _write_tail(transaction, opened.databases[-1], tail._replace(sealed=True))
            return True

    def read(self, partition: int, offset: int, records_max: int, bytes_max: int) -> list[Record]:
        """Records from `offset` on within the bounds, at least one if the segment has any there."""
        found: list[Record] = []
        room = bytes_max
        with self._environment.use() as opened, opened.begin() as transaction:
            cursor = transaction.cursor(opened.databases[partition])
            more = cursor.set_range(chunks.KEY.pack(offset))
            while more and len(found) < records_max:
                first, chunk = self._chunk_at(cursor)
                skip = offset + len(found) - first
                invariant(
                    0 <= skip < len(chunk.frames),
                    f"{self._path}: partition {partition} has a hole at {offset + len(found)}",
                )
                taken = _fitting(chunk.frames, skip, records_max - len(found), room, not found)
                end = skip + taken
                found += chunks.Chunk(
                    chunk.partition,
                    chunk.offsets[skip:end],
                    chunk.times_ms[skip:end],
                    chunk.frames[skip:end],
                ).records()
                room -= sum(map(len, chunk.frames[skip:end]))
                if end < len(chunk.frames):
                    break
                more = cursor.next()
        return found

    def first_at(self, partition: int, time_ms: int) -> int:
        """First offset of the segment with a time of `time_ms` or later, else its end."""
        with self._environment.use() as opened, opened.begin() as transaction:
            tail = self._read_tail(transaction, opened.databases[-1])
            cursor = transaction.cursor(opened.databases[partition])
            low, high = self.header.first[partition], tail.ends[partition]
            while low < high:
                invariant(
                    cursor.set_range(chunks.KEY.pack((low + high) // 2)),
                    f"{self._path}: partition {partition} ends before its tail says",
                )
                first, chunk = self._chunk_at(cursor)
                earlier = sum(time < time_ms for time in chunk.times_ms)
                if earlier == len(chunk.frames):
                    low = first + earlier
                elif earlier:
                    return first + earlier
                else:
                    high = first
            return low

    def _append(
        self,
        opened: Opened,
        transaction: lmdb.Transaction[bytes],
        frames: Mapping[int, Sequence[bytes]],
        clock: Callable[[], int],
        segment_ms: int,
    ) -> Appended | None:
        state = opened.databases[-1]
        tail = self._read_tail(transaction, state)
        if tail.sealed:
            return None
        now_ms = max(clock(), tail.last_ms)
        used = sum(tail.ends) > sum(self.header.first)
        fits = self._fits(opened, frames)
        if not fits and not used:
            raise TooLarge(
                f"a batch of {sum(len(f) for run in frames.values() for f in run)} bytes does not"
                f" fit into a segment of {self.header.map_bytes}: append smaller batches"
            )
        if not fits or self._is_old(tail, now_ms, segment_ms):
            _write_tail(transaction, state, tail._replace(sealed=True))
            return None
        ends = list(tail.ends)
        first: dict[int, int] = {}
        for partition, run in frames.items():
            first[partition] = ends[partition]
            cursor = transaction.cursor(opened.databases[partition])
            ends[partition] = self._put(cursor, partition, ends[partition], now_ms, run)
        _write_tail(transaction, state, Tail(False, now_ms, tuple(ends)))
        return Appended(now_ms, first)

    def _put(
        self,
        cursor: lmdb.Cursor[bytes],
        partition: int,
        next_offset: int,
        now_ms: int,
        frames: Sequence[bytes],
    ) -> int:
        """Put one partition's frames behind its last key; the next offset after them."""
        last = self.header.first[partition] - 1
        if cursor.last():
            last = chunks.KEY.unpack(cursor.key())[0]
        invariant(
            last + 1 == next_offset,
            f"{self._path}: partition {partition} ends at {last}, its tail says {next_offset}",
        )
        items = []
        for run in chunks.cut(frames):
            value = chunks.encode_root(partition, next_offset, now_ms, run)
            next_offset += len(run)
            items.append((chunks.KEY.pack(next_offset - 1), value))
        put = cursor.putmulti(items, overwrite=False, append=True)
        # LMDB answers False, and raises nothing, when a key does not belong at the very end.
        invariant(
            put == (len(items), len(items)),
            f"{self._path}: partition {partition} took {put} of {len(items)} chunks",
        )
        return next_offset

    def _fits(self, opened: Opened, frames: Mapping[int, Sequence[bytes]]) -> bool:
        """Whether the share of the map that may be filled has room, counted in whole pages."""
        page = opened.environment.stat()["psize"]
        pages, needed = APPEND_PAGES_PER_PARTITION, 16 * len(self.header.first)
        for run in frames.values():
            size = sum(map(len, run))
            needed += size + chunks.RECORD_BYTES_OVERHEAD * len(run)
            pages += APPEND_PAGES_PER_PARTITION + chunks.count_max(len(run), size)
        filled = opened.environment.info()["last_pgno"] + 1 + pages
        return bool(filled * page + needed <= self.header.map_bytes * SEGMENT_FILL)

    def _is_old(self, tail: Tail, now_ms: int, segment_ms: int) -> bool:
        used = sum(tail.ends) > sum(self.header.first)
        return used and now_ms - self.header.created_ms >= segment_ms

    def _seal_full(self, opened: Opened) -> None:
        """The estimate was too low and the map is full: the free quarter has room for a seal."""
        with opened.begin(write=True) as transaction:
            tail = self._read_tail(transaction, opened.databases[-1])
            if sum(tail.ends) == sum(self.header.first):
                raise TooLarge(f"a batch does not fit into an empty segment: {self._path}")
            _write_tail(transaction, opened.databases[-1], tail._replace(sealed=True))

    def _look_for_killed_readers(self, opened: Opened) -> None:
        """A killed reader's slot keeps its pages from being used again."""
        if self._appends % LMDB_READERS_CHECK_APPENDS == 0:
            opened.environment.reader_check()
        self._appends += 1

    def _chunk_at(self, cursor: lmdb.Cursor[bytes]) -> tuple[int, chunks.Chunk]:
        """Offset of the first record of the chunk under `cursor`, and the chunk."""
        try:
            chunk = chunks.decode(cursor.value())
        except Corruption as error:
            raise Corruption(f"{self._path}: {error.message}. Restore a backup") from None
        last: int = chunks.KEY.unpack(cursor.key())[0]
        return last + 1 - len(chunk.frames), chunk

    def _read_tail(self, transaction: lmdb.Transaction[bytes], state: Any) -> Tail:
        value = transaction.get(_TAIL_KEY, db=state)
        count = len(self.header.first)
        if value is None or len(value) != _TAIL_HEAD.size + 8 * count:
            raise Corruption(f"{self._path} has no readable tail. Restore a backup")
        version, sealed, last_ms = _TAIL_HEAD.unpack_from(value)
        invariant(version == FORMAT_VERSION, f"{self._path} has a tail of version {version}")
        return Tail(sealed, last_ms, struct.unpack_from(f">{count}Q", value, _TAIL_HEAD.size))


def _write_tail(transaction: lmdb.Transaction[bytes], state: Any, tail: Tail) -> None:
    value = _TAIL_HEAD.pack(FORMAT_VERSION, tail.sealed, tail.last_ms)
    value += struct.pack(f">{len(tail.ends)}Q", *tail.ends)
    invariant(transaction.put(_TAIL_KEY, value, db=state), "the tail was not put")


def _names(partitions: int) -> list[bytes]:
    return [f"partition-{number}".encode() for number in range(partitions)] + [_STATE]


def _fitting(
    frames: Sequence[bytes], skip: int, records_max: int, bytes_max: int, at_least_one: bool
) -> int:
    """How many of `frames` from `skip` on lie within both bounds."""
    count = min(len(frames) - skip, records_max)
    if sum(map(len, frames[skip : skip + count])) <= bytes_max:
        return count
    size = fitting = 0
    for frame in frames[skip : skip + count]:
        size += len(frame)
        if size > bytes_max:
            break
        fitting += 1
    return max(fitting, 1 if at_least_one else 0)
