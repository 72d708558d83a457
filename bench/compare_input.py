"""What every path of `bench compare` writes: the same posts of a seeded workload, and whom they are
for, as pairs (for peers, in the order in which they are made) or as records (for a cell's worker).

Ids are counted, not taken from a clock, so every path and every run has the same keys. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.workload import I64s, U64s, Workload, text
from cells.graph import Graph
from engine import events
from engine.codec import encode
from engine.homing import partition_of_many
from engine.ids import EPOCH_MS
from engine.ports import Record

PARTITIONS = 32
FIRST_MS = 1_767_225_600_000  # 2026-01-01: of the first post
POSTS_PER_MS = 10
BLOCK_POSTS = 500  # some 100,000 keys: what is made at once, beside the writing
_STREAM_POSTS = 10**9  # never reached


@dataclass(frozen=True)
class Pairs:
    """Deliveries: three u64 arrays of one length, post by post, readers as the graph has them."""

    readers: U64s
    posts: U64s
    authors: U64s


class Input:
    """One workload, for all paths. `seed` chooses the stream of posts."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self.workload = workload
        self._seed = seed
        self._sorted = np.argsort(workload.authors)

    def graph(self) -> Graph:
        """The followers as a cell holds them, every follow older than the first post."""
        graph = Graph(PARTITIONS)
        edges = list(self.workload.follow_edges())
        readers, authors = (np.concatenate(column) for column in zip(*edges, strict=True))
        partitions = partition_of_many(authors, PARTITIONS)
        for partition in range(PARTITIONS):
            here = partitions == partition
            order = np.lexsort((readers[here], authors[here]))
            rows = np.zeros((len(order), 4), dtype=np.uint64)
            rows[:, 0], rows[:, 1] = authors[here][order], readers[here][order]
            rows[:, 3] = 1
            graph.load_partition(partition, [rows])
        return graph

    def pairs(self) -> Iterator[Pairs]:
        """All deliveries, BLOCK_POSTS posts at a time."""
        for posts, authors in self._posts(BLOCK_POSTS):
            places, counts = self._followers(authors)
            readers = self.workload.users[self.workload.followers[places]]
            yield Pairs(readers, np.repeat(posts, counts), np.repeat(authors, counts))

    def records(self, batch: int) -> Iterator[list[Record]]:
        """The same posts as they would lie in a firehose, `batch` at a time."""
        ends = [0] * PARTITIONS
        number = 0
        for posts, authors in self._posts(batch):
            partitions = partition_of_many(authors, PARTITIONS).tolist()
            found = []
            for post, author, partition in zip(
                posts.tolist(), authors.tolist(), partitions, strict=True
            ):
                frame = encode(events.Post(author, post, 0, text(number)))
                time_ms = FIRST_MS + number // POSTS_PER_MS
                found.append(Record(partition, ends[partition], time_ms, frame))
                ends[partition] += 1
                number += 1
            yield found

    def expected(self, readers: set[int], count: int) -> dict[int, list[tuple[int, int]]]:
        """The first `count` posts' (post, author) that each of `readers` must hold, newest first:
        those of whom they follow, and their own."""
        wanted = np.isin(self.workload.users, np.fromiter(readers, dtype=np.uint64))
        found: dict[int, list[tuple[int, int]]] = {reader: [] for reader in readers}
        seen = 0
        for posts, authors in self._posts(BLOCK_POSTS):
            posts, authors = posts[: count - seen], authors[: count - seen]
            seen += len(posts)
            places, counts = self._followers(authors)
            index = self.workload.followers[places]
            hit = wanted[index]
            of_post = np.repeat(np.arange(len(posts)), counts)[hit]
            for reader, place in zip(
                self.workload.users[index[hit]].tolist(), of_post.tolist(), strict=True
            ):
                found[reader].append((int(posts[place]), int(authors[place])))
            for post, author in zip(posts.tolist(), authors.tolist(), strict=True):
                if author in found:
                    found[author].append((post, author))
            if seen == count:
                break
        return {reader: sorted(own, reverse=True) for reader, own in found.items()}

    def _posts(self, batch: int) -> Iterator[tuple[U64s, U64s]]:
        """(ids, authors) of `batch` posts each."""
        number = 0
        for authors in self.workload.posts(_STREAM_POSTS, self._seed, batch):
            numbers = np.arange(number, number + len(authors), dtype=np.uint64)
            yield ids_of(numbers), authors
            number += len(authors)

    def _followers(self, authors: U64s) -> tuple[npt.NDArray[np.int64], I64s]:
        """(places in the workload's array of followers, how many of each author)."""
        workload = self.workload
        at = self._sorted[np.searchsorted(workload.authors, authors, sorter=self._sorted)]
        starts, counts = workload.starts[at], workload.follower_counts[at]
        before = np.cumsum(counts) - counts
        return np.repeat(starts - before, counts) + np.arange(int(counts.sum())), counts


def ids_of(numbers: U64s) -> U64s:
    """Post ids of posts by their number: POSTS_PER_MS of each millisecond from FIRST_MS on."""
    milliseconds = numbers // np.uint64(POSTS_PER_MS) + np.uint64(FIRST_MS - EPOCH_MS)
    ids: U64s = (milliseconds << np.uint64(22)) | (numbers % np.uint64(POSTS_PER_MS))
    return ids
