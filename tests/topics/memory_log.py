"""A log in memory whose times and floor a test moves; one thread at a time, and readers beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine.codec import encode
from engine.errors import RetentionPassed, Unavailable
from engine.events import Event, Post
from engine.ports import Record

START_MS = 1_760_000_000_000
DAY_MS = 86_400_000


class MemoryLog:
    """The port `Log`. `now_ms` is the append time; `drop` moves the floor; `broken` fails reads."""

    def __init__(self, partitions: int = 4, retention_ms: int = 7 * DAY_MS) -> None:
        self.identity = "memory"
        self.partitions = partitions
        self.retention_ms = retention_ms
        self.now_ms = START_MS
        self.broken = False
        self.kept: dict[str, dict[int, int]] = {}
        self.commits = 0
        self._records: list[list[Record]] = [[] for _ in range(partitions)]
        self._begin = [0] * partitions

    def clock(self) -> int:
        """Unix ms."""
        return self.now_ms

    def append(self, entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
        """At `now_ms`."""
        found = []
        for partition, frame in entries:
            offset = len(self._records[partition])
            self._records[partition].append(Record(partition, offset, self.now_ms, frame))
            found.append((offset, self.now_ms))
        return found

    def say(self, partition: int, *texts: str) -> None:
        """Append posts of author `partition`."""
        self.append([(partition, encode(post(partition, text))) for text in texts])

    def drop(self, partition: int, floor: int) -> None:
        """What the retention does."""
        self._begin[partition] = floor

    def read(self, partition: int, offset: int, records_max: int, bytes_max: int) -> list[Record]:
        """As the port says."""
        if self.broken:
            raise Unavailable("the log is away")
        floor = self._begin[partition]
        if offset < floor:
            raise RetentionPassed(f"{offset} is below {floor}", floor=floor)
        found: list[Record] = []
        for record in self._records[partition][offset : offset + records_max]:
            bytes_max -= len(record.frame)
            if found and bytes_max < 0:
                break
            found.append(record)
        return found

    def begin_offsets(self) -> list[int]:
        """The floors."""
        return list(self._begin)

    def end_offsets(self) -> list[int]:
        """The ends."""
        return [len(records) for records in self._records]

    def offsets_at(self, time_ms: int) -> list[int]:
        """First at `time_ms` or later."""
        return [
            next((r.offset for r in records[begin:] if r.time_ms >= time_ms), len(records))
            for records, begin in zip(self._records, self._begin, strict=True)
        ]

    def oldest_ms(self) -> list[int]:
        """-1 where there is none."""
        return [
            records[begin].time_ms if begin < len(records) else -1
            for records, begin in zip(self._records, self._begin, strict=True)
        ]

    def commit(
        self,
        group: str,
        positions: Mapping[int, int],
        fence: Callable[[], None] | None = None,
    ) -> None:
        """Kept at once, unless `fence` raises."""
        if fence is not None:
            fence()
        self.commits += 1
        self.kept.setdefault(group, {}).update(positions)

    def committed(self, group: str) -> dict[int, int]:
        """What was kept."""
        return dict(self.kept.get(group, {}))

    def groups(self) -> list[str]:
        """All that ever committed."""
        return sorted(self.kept)

    def forget(self, group: str) -> None:
        """As if it had never been."""
        self.kept.pop(group, None)

    def apply_retention(self, now_ms: int) -> int:
        """Only `drop` does it."""
        return 0

    def stats(self) -> dict[str, int]:
        """Nothing."""
        return {}

    def close(self) -> None:
        """Nothing to give back."""


def post(author: int, text: str) -> Event:
    """A post."""
    return Post(author, 5, 0, text)
