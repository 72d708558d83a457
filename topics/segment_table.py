"""Which segments an embedded firehose has, and the ones that this process has open.

Another process may add or drop segments at any time. That shows in the folder's modification time,
which `look` compares; what is missed within one tick of the file system's clock is found when a
segment turns out to be sealed or gone. Open segments are pinned while in use, and the least
recently used beyond SEGMENTS_OPEN_MAX are closed. Any thread.
"""

from __future__ import annotations

import bisect
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import Corruption, Precondition, RetentionPassed, invariant
from engine.limits import FOLDER_FRESH_NS, SEGMENTS_OPEN_MAX
from topics import segments
from topics.environments import failure_of
from topics.segments import Segment, SegmentHeader


class SegmentTable:
    """The segments in `folder`, which all belong to one firehose."""

    def __init__(self, folder: Path, identity: str, partitions: int) -> None:
        self._folder = folder
        self._identity = identity
        self._partitions = partitions
        self._lock = threading.RLock()  # guards everything below
        self._headers: list[SegmentHeader] = []
        self._open: dict[int, Segment] = {}  # least recently used first
        self._pins: dict[int, int] = {}
        self._seen_ns = -1
        self._closed = False
        self.refresh()

    def look(self) -> None:
        """Refresh when the folder changed since last time."""
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
        except OSError as error:
            raise failure_of(error, self._folder) from error
        if changed_ns != self._seen_ns:
            self.refresh()

    def refresh(self) -> None:
        """Read which segments there are; close those that are gone. Corruption on a hole;
        Unavailable when the folder cannot be read."""
        try:
            self._refresh()
        except OSError as error:
            raise failure_of(error, self._folder) from error

    def _refresh(self) -> None:
        with self._lock:
            seen_ns = os.stat(self._folder).st_mtime_ns
            known = {header.number: header for header in self._headers}
            headers = []
            for number in segment_numbers(self._folder):
                try:
                    headers.append(known.get(number) or self._read_header(number))
                except FileNotFoundError:
                    continue  # dropped since the listing
            if not headers:
                raise Corruption(f"{self._folder} has no segment: restore a backup")
            invariant(
                headers[-1].number - headers[0].number == len(headers) - 1,
                f"{self._folder} lacks a segment between its oldest and its newest",
            )
            self._headers = headers
            self._seen_ns = seen_ns if time.time_ns() - seen_ns > FOLDER_FRESH_NS else -1
            self._evict()

    def headers(self) -> list[SegmentHeader]:
        """All segments, oldest first."""
        with self._lock:
            return list(self._headers)

    def newest(self) -> int:
        """Number of the newest known segment."""
        with self._lock:
            return self._headers[-1].number

    def locate(self, partition: int, offset: int) -> int:
        """Number of the segment that holds `offset`, or will; RetentionPassed when it is gone."""
        with self._lock:
            place = bisect.bisect_right(self._headers, offset, key=lambda h: h.first[partition])
            if place:
                return self._headers[place - 1].number
            floor = self._headers[0].first[partition]
        raise RetentionPassed(
            f"offset {offset} of partition {partition} is older than what is kept: the firehose"
            f" begins at {floor}. Start there (clamp), or rebuild",
            floor=floor,
        )

    def locate_time(self, time_ms: int) -> int:
        """Number of the last segment that may have a record before `time_ms`: whatever lies in
        later ones is at or after it. The oldest when there is none."""
        with self._lock:
            place = bisect.bisect_left(self._headers, time_ms, key=lambda h: h.last_ms)
            return self._headers[max(place - 1, 0)].number

    def has_successor(self, segment: Segment) -> bool:
        """Whether there is a segment behind `segment`, known here or not."""
        if segment.header.number < self.newest():
            return True
        successor = self._folder / segments.folder_name(segment.header.number + 1)
        return segment.tail().sealed and successor.exists()

    @contextmanager
    def pinned(self, number: int) -> Iterator[Segment | None]:
        """Segment `number`, open and kept open meanwhile; None when it is gone."""
        with self._lock:
            if self._closed:
                raise Precondition(f"the firehose of {self._folder} is closed in this process")
            segment = self._open.pop(number, None) or self._open_segment(number)
            if segment is not None:
                self._open[number] = segment
                self._pins[number] = self._pins.get(number, 0) + 1
                if len(self._open) > SEGMENTS_OPEN_MAX:
                    self._evict()
        try:
            yield segment
        finally:
            if segment is not None:
                with self._lock:
                    self._pins[number] -= 1

    def close(self) -> None:
        """Close every open segment after the calls under way. Idempotent."""
        with self._lock:
            self._closed = True
            while self._open:
                self._open.popitem()[1].close()

    def _read_header(self, number: int) -> SegmentHeader:
        header = segments.read_header(self._folder, number)
        if header.identity != self._identity or len(header.first) != self._partitions:
            raise Corruption(
                f"segment {number} in {self._folder} belongs to another firehose"
                f" ({header.identity}, {len(header.first)} partitions): take it out"
            )
        return header

    def _open_segment(self, number: int) -> Segment | None:
        for header in reversed(self._headers):
            if header.number == number:
                try:
                    return Segment(self._folder, header)
                except FileNotFoundError:
                    return None
        return None

    def _evict(self) -> None:
        """Close what is gone, and the least recently used beyond SEGMENTS_OPEN_MAX."""
        kept = {header.number for header in self._headers}
        for number in list(self._open):
            idle = not self._pins.get(number)
            if idle and (number not in kept or len(self._open) > SEGMENTS_OPEN_MAX):
                self._open.pop(number).close()
                self._pins.pop(number, None)


def segment_numbers(folder: Path) -> list[int]:
    """Numbers of the segments in `folder`, ascending."""
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
