"""The port `Log` on LMDB: a firehose in a folder, without a server.

| in the folder | content |
| --- | --- |
| firehose.json | identity and partition count, written once, last (catalog) |
| segments/ | one folder per time/size segment, numbered without holes (segments) |
| positions/ | the groups' positions (groups) |
| structure.lock | held while a segment is made or dropped, never while appending |

Offsets are contiguous per partition, from 0. The newest segment takes the appends. One that is old
or full is sealed by the transaction that found it so; any writer that finds it sealed makes the
next one, or finds it made, and goes on there. Retention removes whole segments, oldest first.

Several processes and threads may append and read at once: writers take turns, readers never wait.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.errors import (
    BadInput,
    NotFound,
    Precondition,
    RetentionPassed,
    TooLarge,
    Unavailable,
    invariant,
)
from engine.limits import (
    APPEND_BYTES_MAX,
    EVENT_BYTES_MAX,
    GROUP_COMMIT_ENTRIES_MAX,
    PARTITIONS_DEFAULT,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    RETENTION_MS_DEFAULT,
    SEGMENT_BYTES,
    SEGMENT_BYTES_MIN,
    SEGMENT_MOVES_MAX,
    SEGMENT_MS,
)
from engine.ports import Record
from topics import catalog, creation, environments, groups, segments
from topics.locks import FileLock, sync_folder
from topics.segment_table import SegmentTable
from topics.segments import Appended, Segment, SegmentHeader, Tail


def system_clock_ms() -> int:
    """Unix milliseconds of this machine."""
    return time.time_ns() // 1_000_000


class EmbeddedLog:
    """A firehose in a folder; see the module. Any thread, any number of processes."""

    def __init__(
        self,
        folder: Path,
        meta: catalog.FirehoseMeta,
        clock: Callable[[], int],
        segment_bytes: int,
        segment_ms: int,
    ) -> None:
        """Use `EmbeddedLog.open`."""
        self.folder = folder
        self.identity = meta.identity
        self.partitions = meta.partitions
        self.retention_ms = meta.retention_ms
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._segment_ms = segment_ms
        self._append_lock = threading.Lock()
        self._closed = False
        self._segments = folder / creation.SEGMENTS_FOLDER
        self._table = SegmentTable(self._segments, meta.identity, meta.partitions)
        self._positions = groups.GroupPositions(folder, meta.partitions)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        partitions: int | None = None,
        retention_ms: int = RETENTION_MS_DEFAULT,
        create: bool = True,
        clock: Callable[[], int] = system_clock_ms,
        segment_bytes: int = SEGMENT_BYTES,
        segment_ms: int = SEGMENT_MS,
    ) -> EmbeddedLog:
        """The firehose in `folder`, made when missing and `create`.

        `partitions` None: as it was made, PARTITIONS_DEFAULT for a new one. Misconfigured when it
        has another number; NotFound when missing and not `create`; Precondition when another
        process holds the structure lock too long; DiskFull, Unavailable, Corruption.
        """
        place = Path(folder)
        catalog.check_retention_ms(retention_ms)
        if partitions is not None:
            catalog.check_partitions(partitions)
        invariant(segment_bytes >= SEGMENT_BYTES_MIN, f"segments of {segment_bytes} bytes")
        try:
            meta = catalog.read_meta(place, partitions, retention_ms)
            if meta is None and not create:
                raise NotFound(
                    f"no firehose in {place}: check [firehose] url, or start `firecell up` first"
                )
            if meta is None:
                count = PARTITIONS_DEFAULT if partitions is None else partitions
                meta = creation.create(place, count, retention_ms, clock(), segment_bytes)
            return cls(place, meta, clock, segment_bytes, segment_ms)
        except OSError as error:
            raise environments.failure_of(error, place) from error

    def append(self, entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
        """Append (partition, frame) pairs in order, as one synced transaction; (offset, append
        time in Unix ms) of each. The time never goes back, whatever the clock does.

        Raises BadInput and TooLarge (bounds), DiskFull and Unavailable: then nothing was kept.
        """
        if not entries:
            return []
        frames = self._grouped(entries)
        with self._append_lock:
            appended = self._append(frames)
        following = {key: itertools.count(first) for key, first in appended.first.items()}
        offsets = [next(following[partition]) for partition, _ in entries]
        return list(zip(offsets, itertools.repeat(appended.time_ms), strict=False))

    def read(self, partition: int, offset: int, records_max: int, bytes_max: int) -> list[Record]:
        """Records from `offset` on, at least one if there is any, within the two bounds (and
        READ_RECORDS_MAX, READ_BYTES_MAX). One call reads from one segment, so it may be short.

        Empty at the end and beyond. RetentionPassed (`floor`) below the oldest kept; BadInput.
        """
        self._check_partition(partition)
        if offset < 0 or records_max < 1 or bytes_max < 1:
            raise BadInput(f"read of {records_max} records, {bytes_max} bytes from {offset}")
        records_max, bytes_max = min(records_max, READ_RECORDS_MAX), min(bytes_max, READ_BYTES_MAX)
        self._table.look()
        while True:
            newest = self._table.newest()  # before locating: an older one then surely has `offset`
            number = self._table.locate(partition, offset)
            with self._table.pinned(number) as segment:
                if segment is not None:
                    found = segment.read(partition, offset, records_max, bytes_max)
                    hole = not found and number < newest
                    invariant(not hole, f"segment {number}, partition {partition} lacks {offset}")
                    if found or not self._table.has_successor(segment):
                        return found
            self._table.refresh()

    def begin_offsets(self) -> list[int]:
        """Per partition the oldest kept offset."""
        self._table.look()
        return list(self._table.headers()[0].first)

    def end_offsets(self) -> list[int]:
        """Per partition the next offset to be appended. Cheap: one small record is read."""
        return list(self._tail().ends)

    def last_ms(self) -> int:
        """Append time of the newest record, Unix ms; 0 when there never was one."""
        return self._tail().last_ms

    def offsets_at(self, time_ms: int) -> list[int]:
        """Per partition the first kept offset appended at `time_ms` or later; the end where there
        is none."""
        self._table.look()
        return [self._offset_at(partition, time_ms) for partition in range(self.partitions)]

    def oldest_ms(self) -> list[int]:
        """Per partition the append time of the oldest kept event, Unix ms; -1 where there is
        none."""
        while True:
            begins = self.begin_offsets()
            try:
                firsts = [self.read(partition, at, 1, 1) for partition, at in enumerate(begins)]
            except RetentionPassed:  # it took the oldest since
                continue
            return [records[0].time_ms if records else -1 for records in firsts]

    def _offset_at(self, partition: int, time_ms: int) -> int:
        while True:
            newest = self._table.newest()  # before locating, as in `read`
            number = self._table.locate_time(time_ms)
            with self._table.pinned(number) as segment:
                if segment is not None:
                    found = segment.first_at(partition, time_ms)
                    if number < newest or not self._table.has_successor(segment):
                        return found
            self._table.refresh()

    def commit(
        self,
        group: str,
        positions: Mapping[int, int],
        fence: Callable[[], None] | None = None,
    ) -> None:
        """Keep next offsets of some partitions for a group; synced. BadInput; Precondition for one
        group too many; DiskFull; what `fence`, called before, raises."""
        if fence is not None:
            fence()
        self._positions.commit(group, positions)

    def committed(self, group: str) -> dict[int, int]:
        """The group's kept next offsets; empty for a group never seen."""
        return self._positions.committed(group)

    def groups(self) -> list[str]:
        """Names of all groups that ever committed."""
        return self._positions.groups()

    def forget(self, group: str) -> None:
        """Drop a group's place; synced. Nothing happens for one never seen."""
        self._positions.forget(group)

    def apply_retention(self, now_ms: int) -> int:
        """Drop the sealed segments whose newest record is older than the retention, and seal the
        newest one if it is old; number of dropped ones. The newest segment always stays.

        Dropping comes first: on a full disk it makes the room that a new segment needs."""
        dropped = self._drop_expired(now_ms)
        sealed = False
        with self._append_lock, self._table.pinned(self._table.newest()) as segment:
            if segment is not None and segment.seal_if_old(now_ms, self._segment_ms):
                self._advance(segment)
                sealed = True
        return dropped + self._drop_expired(now_ms) if sealed else dropped

    def stats(self) -> dict[str, int]:
        """For metrics: `segments`, `disk_bytes` (allocated), `records` kept, `oldest_ms` (no kept
        record is older), `newest_ms`."""
        tail = self._tail()
        headers = self._table.headers()
        disk_bytes = 0
        for header in headers:
            path = self._segments / segments.folder_name(header.number) / segments.DATA_FILE
            with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
                disk_bytes += path.stat().st_blocks * 512
        return {
            "segments": len(headers),
            "disk_bytes": disk_bytes,
            "records": sum(tail.ends) - sum(headers[0].first),
            "oldest_ms": headers[0].last_ms,
            "newest_ms": tail.last_ms,
        }

    def close(self) -> None:
        """Give everything back. Idempotent; calls under way end first, later ones are refused."""
        with self._append_lock:
            if not self._closed:
                self._closed = True
                self._table.close()
                self._positions.close()

    def _check_partition(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise BadInput(
                f"partition {partition}: the firehose has 0..{self.partitions - 1}", "partition"
            )

    def _grouped(self, entries: Sequence[tuple[int, bytes]]) -> dict[int, list[bytes]]:
        """Frames by partition, checked against every bound."""
        if len(entries) > GROUP_COMMIT_ENTRIES_MAX:
            raise TooLarge(f"{len(entries)} entries at once; at most {GROUP_COMMIT_ENTRIES_MAX}")
        lengths = [len(frame) for _, frame in entries]
        if sum(lengths) > APPEND_BYTES_MAX or max(lengths) > EVENT_BYTES_MAX:
            raise TooLarge(
                f"{sum(lengths)} bytes at once, {max(lengths)} in one frame; at most"
                f" {APPEND_BYTES_MAX} and {EVENT_BYTES_MAX}"
            )
        frames: dict[int, list[bytes]] = {}
        for partition, frame in entries:
            run = frames.get(partition)
            if run is None:
                self._check_partition(partition)
                run = frames[partition] = []
            run.append(frame)
        return frames

    def _append(self, frames: dict[int, list[bytes]]) -> Appended:
        for _ in range(SEGMENT_MOVES_MAX):
            with self._table.pinned(self._table.newest()) as segment:
                if segment is not None:
                    appended = segment.append(frames, self._clock, self._segment_ms)
                    if appended is not None:
                        return appended
                    self._advance(segment)
            self._table.refresh()
        raise Unavailable(
            f"{self.folder}: {SEGMENT_MOVES_MAX} segments were sealed in front of one append: is"
            " the segment size or time far too small?"
        )

    def _advance(self, sealed: Segment) -> None:
        """See to it that there is a segment behind `sealed`."""
        with self._structure():
            self._table.refresh()
            header, newest = sealed.header, self._table.newest()
            if newest > header.number:
                return
            invariant(newest == header.number, f"segment {header.number} is gone, sealed or not")
            tail = sealed.tail()
            invariant(tail.sealed, f"segment {header.number} has a successor before its seal")
            environments.remove_unfinished(self._segments)
            created_ms = max(self._clock(), tail.last_ms)
            creation.create_next(
                self._segments,
                self.identity,
                header.number + 1,
                self._segment_bytes,
                created_ms,
                tail,
            )

    def _tail(self) -> Tail:
        """The end of the whole log."""
        self._table.look()
        while True:
            with self._table.pinned(self._table.newest()) as segment:
                if segment is not None:
                    tail = segment.tail()
                    if not tail.sealed or not self._table.has_successor(segment):
                        return tail
            self._table.refresh()

    def _drop_expired(self, now_ms: int) -> int:
        dropped = 0
        with self._structure():
            self._table.refresh()
            for header, successor in itertools.pairwise(self._table.headers()):
                if successor.last_ms >= now_ms - self.retention_ms:
                    break
                self._drop(header)
                dropped += 1
            environments.remove_unfinished(self._segments)
        self._table.refresh()
        return dropped

    def _drop(self, header: SegmentHeader) -> None:
        """Remove a segment; renamed first, so that it is gone at once or not at all."""
        path = self._segments / segments.folder_name(header.number)
        grave = path.with_name(f"{environments.UNFINISHED_PREFIX}dropped-{path.name}")
        try:
            os.rename(path, grave)
            sync_folder(self._segments)
            shutil.rmtree(grave)
        except OSError as error:
            raise environments.failure_of(error, path) from error

    def _structure(self) -> FileLock:
        try:
            return creation.structure_lock(self.folder)
        except Precondition as error:
            raise Unavailable(error.message) from None
        except OSError as error:
            raise environments.failure_of(error, self.folder) from error
