"""Puts a workload into a firehose: events made, framed and partitioned as a publisher would.

One process, one thread, no HTTP: to fill a log faster than a cell empties it. What was appended is
durable, as for any publisher. Ids are taken at the moment of the append.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.workload import I64s, U64s, Workload, text
from engine import events
from engine.codec import encode
from engine.homing import partition_of_many
from engine.ids import IdGenerator
from engine.limits import ID_NODE_MAX, RETENTION_MS_DEFAULT
from topics.log_embedded import system_clock_ms
from topics.logs import open_place
from topics.urls import FirehosePlace

BATCH_FOLLOWS = 40_000  # of one append
BATCH_POSTS = 20_000
PACE_S = 0.010  # between two appends when paced
_STREAM_POSTS = 10**9  # of one stream: never reached


@dataclass(frozen=True)
class Placed:
    """Where the follows lie: offset in the author's partition, and append time, of each edge."""

    offsets: U64s
    times_ms: U64s

    def save(self, path: Path) -> None:
        """Keep it beside a firehose."""
        with path.open("wb") as file:
            np.savez(file, offsets=self.offsets.astype(np.uint32), times_ms=self.times_ms)

    @classmethod
    def load(cls, path: Path) -> Placed:
        """What `save` kept."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(kept["offsets"].astype(np.uint64), kept["times_ms"])


class Feeder:
    """Appends to one firehose. Posts go on where the last call ended, in the workload's order."""

    def __init__(
        self, place: FirehosePlace, partitions: int, workload: Workload, seed: int = 0
    ) -> None:
        """`seed` chooses the stream of posts; two feeders of one firehose take two."""
        self.log = open_place(place, partitions=partitions, retention_ms=RETENTION_MS_DEFAULT)
        self._workload = workload
        self._partitions = partitions
        self._ids = IdGenerator(ID_NODE_MAX - seed % ID_NODE_MAX)
        self._stream = workload.posts(_STREAM_POSTS, seed)
        self._authors: U64s = np.empty(0, dtype=np.uint64)
        self.posted = 0

    def close(self) -> None:
        """Close the firehose."""
        self.log.close()

    def follow_all(self, on_progress: Callable[[int], None] = lambda done: None) -> Placed:
        """The whole graph as follow events; where each of them lies, in the order of
        `workload.follow_edges`."""
        offsets: list[I64s] = []
        times_ms: list[I64s] = []
        done = 0
        for readers, authors in self._workload.follow_edges(BATCH_FOLLOWS):
            partitions = partition_of_many(authors, self._partitions).tolist()
            frames = [
                encode(events.Relation(events.FOLLOW, reader, author))
                for reader, author in zip(readers.tolist(), authors.tolist(), strict=True)
            ]
            appended = self.log.append(list(zip(partitions, frames, strict=True)))
            table = np.array(appended, dtype=np.int64)
            offsets.append(table[:, 0])
            times_ms.append(table[:, 1])
            done += len(frames)
            on_progress(done)
        if not offsets:
            return Placed(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint64))
        return Placed(
            np.concatenate(offsets).astype(np.uint64), np.concatenate(times_ms).astype(np.uint64)
        )

    def post(self, count: int, on_progress: Callable[[int], None] = lambda done: None) -> None:
        """Append the next `count` posts, in big batches."""
        done = 0
        while done < count:
            size = min(BATCH_POSTS, count - done)
            self._append(size)
            done += size
            on_progress(done)

    def pace(
        self, per_second: float, seconds: float, on_tick: Callable[[], bool] = lambda: True
    ) -> float:
        """Append posts evenly in time, a few every 10 ms; the rate that was reached.

        `on_tick` is called about every 10 ms; it ends the pacing when it answers False.
        """
        started, done = time.monotonic(), 0
        while (spent := time.monotonic() - started) < seconds and on_tick():
            due = int(spent * per_second) - done
            if due > 0:
                self._append(min(due, BATCH_POSTS))
                done += min(due, BATCH_POSTS)
            left_s = PACE_S - (time.monotonic() - started - spent)
            if left_s > 0:
                time.sleep(left_s)
        return done / max(time.monotonic() - started, 1e-9)

    def _append(self, count: int) -> None:
        authors = self._take_authors(count)
        partitions = partition_of_many(authors, self._partitions).tolist()
        entries: list[tuple[int, bytes]] = []
        for number, (partition, author, post) in enumerate(
            zip(partitions, authors.tolist(), self._take_ids(count), strict=True), self.posted
        ):
            entries.append((partition, encode(events.Post(author, post, 0, text(number)))))
        self.log.append(entries)
        self.posted += count

    def _take_authors(self, count: int) -> U64s:
        while len(self._authors) < count:
            self._authors = np.concatenate((self._authors, next(self._stream)))
        taken, self._authors = self._authors[:count], self._authors[count:]
        return taken

    def _take_ids(self, count: int) -> list[int]:
        taken: list[int] = []
        while len(taken) < count:
            fresh = self._ids.take(count - len(taken), system_clock_ms())
            if not fresh:
                time.sleep(PACE_S / 50)
            taken += fresh
        return taken
