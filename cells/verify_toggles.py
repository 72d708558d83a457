"""Follow toggles, told three times: by partition, by reader, and by the firehose. Do they agree?

Each side is added up per partition, so two that agree cost no memory; only partitions that differ
are read again, row by row. What the firehose no longer holds is compared between the two tables
alone. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cells.verify_rule import I64s, U64s
from cells.verify_tables import Found, Tell, followings
from cells.worker import toggle_of
from engine.codec import decode
from engine.errors import BadInput
from engine.events import FOLLOW, Delete, Post
from engine.homing import HomeRange, mix64_many, partition_of, partition_of_many
from engine.ids import id_ms
from engine.keys import post_key
from engine.limits import (
    ID_AHEAD_MS_MAX,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    VERIFY_SCAN_ROWS,
)
from engine.ports import Log, Record, Store

Row = tuple[int, int, int, int]  # author, reader, offset, follows (0 or 1)
BY_PARTITION, BY_READER = "the table of follows by partition", "the table of follows by reader"


def _sums(
    partitions: U64s, rows: npt.NDArray[np.uint64], count: int, least: Sequence[int]
) -> npt.NDArray[np.uint64]:
    """Per partition the sum of a hash of each row u64 (n, 4) at or above its least offset."""
    kept = rows[:, 2] >= np.array(least, dtype=np.uint64)[partitions]
    partitions, rows = partitions[kept], rows[kept]
    mixed = np.zeros(len(rows), dtype=np.uint64)
    for column in range(4):
        mixed = mix64_many(mixed ^ rows[:, column])
    sums = np.zeros(count, dtype=np.uint64)
    np.add.at(sums, partitions, mixed)
    return sums


def by_partition(
    store: Store, count: int, least: Sequence[int], tell: Tell
) -> npt.NDArray[np.uint64]:
    """Sums of the table that the graph is loaded from."""
    sums = np.zeros(count, dtype=np.uint64)
    seen = 0
    for partition in range(count):
        for chunk in store.toggle_rows(partition):
            places = np.full(len(chunk), partition, dtype=np.uint64)
            sums += _sums(places, chunk, count, least)
            seen += len(chunk)
            tell("follows by partition", seen)
    return sums


class ReaderSums:
    """Sums of the table by reader, gathered while verify walks through it."""

    def __init__(self, count: int, least: Sequence[Sequence[int]]) -> None:
        """`least`: one sum for each of these vectors of least offsets."""
        self.sums = [np.zeros(count, dtype=np.uint64) for _ in least]
        self._least = least
        self._count = count
        self._held: list[Row] = []

    def add(self, row: Row) -> None:
        """One toggle."""
        self._held.append(row)
        if len(self._held) >= VERIFY_SCAN_ROWS:
            self.flush()

    def flush(self) -> None:
        """Add up what is held; at the end, too."""
        if self._held:
            rows = np.array(self._held, dtype=np.uint64)
            places = partition_of_many(rows[:, 0], self._count)
            for sums, least in zip(self.sums, self._least, strict=True):
                sums += _sums(places, rows, self._count, least)
            self._held = []


class FromFirehose(NamedTuple):
    """What the firehose still says, for the users at home here."""

    floors: list[int]  # its oldest offsets
    sums: npt.NDArray[np.uint64]
    follows: list[tuple[I64s, I64s]]  # per partition: offsets of follows, their append times
    broken: int  # posts and deletes that the store does not have as the firehose has them


def read_firehose(
    log: Log, store: Store, home: HomeRange, ends: Sequence[int], tell: Tell, found: Found
) -> FromFirehose:
    """Walk through everything up to `ends`; posts and deletes are compared on the way."""
    floors = log.begin_offsets()
    sums = np.zeros(log.partitions, dtype=np.uint64)
    follows: list[tuple[I64s, I64s]] = []
    seen = broken = 0
    zeros = [0] * log.partitions
    for partition, end in enumerate(ends):
        at = floors[partition]
        offsets: list[int] = []
        times: list[int] = []
        while at < end:
            most = min(READ_RECORDS_MAX, end - at)
            records = log.read(partition, at, most, READ_BYTES_MAX)
            rows: list[Row] = []
            posts: dict[bytes, int] = {}
            deletes: dict[bytes, int] = {}
            for record in records:
                toggle = toggle_of(record, home, log.partitions)
                if toggle is not None:
                    follow = toggle.kind == FOLLOW
                    rows.append((toggle.author, toggle.reader, record.offset, int(follow)))
                    if follow:
                        offsets.append(record.offset)
                        times.append(record.time_ms)
                else:
                    _note(record, log.partitions, posts, deletes)
            if rows:
                table = np.array(rows, dtype=np.uint64)
                places = np.full(len(rows), partition, dtype=np.uint64)
                sums += _sums(places, table, log.partitions, zeros)
            broken += _compare_posts(store, posts, deletes, found)
            at = records[-1].offset + 1
            seen += len(records)
            tell("events of the firehose", seen)
        follows.append((np.array(offsets, dtype=np.int64), np.array(times, dtype=np.int64)))
    return FromFirehose(floors, sums, follows, broken)


def _note(
    record: Record, partitions: int, posts: dict[bytes, int], deletes: dict[bytes, int]
) -> None:
    """A post or delete; what a cell quarantines is left out."""
    try:
        event = decode(record.frame)
    except BadInput:
        return
    if partition_of(event.account, partitions) != record.partition:
        return
    if type(event) is Post and id_ms(event.id) <= record.time_ms + ID_AHEAD_MS_MAX:
        posts.setdefault(post_key(event.id, event.author), record.offset)
    elif type(event) is Delete:
        deletes.setdefault(post_key(event.post, event.author), record.offset)


def _compare_posts(
    store: Store, posts: dict[bytes, int], deletes: dict[bytes, int], found: Found
) -> int:
    keys = list({*posts, *deletes})
    broken = 0
    for key, row in zip(keys, store.post_rows(keys), strict=True):
        posted, deleted = posts.get(key), deletes.get(key)
        if posted is not None and (row is None or row.offset < 0 or row.offset > posted):
            found("post missing", f"post {key.hex()} of offset {posted} is not stored")
            broken += 1
        elif deleted is not None and (row is None or not 0 <= row.delete_offset <= deleted):
            found("delete missing", f"the delete of post {key.hex()} at {deleted} is not stored")
            broken += 1
    return broken


def compare(
    names: tuple[str, str],
    sums: tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    rows: tuple[Callable[[int], Iterable[Row]], Callable[[int], Iterable[Row]]],
    found: Found,
) -> None:
    """Tell every toggle of partitions whose sums differ that only one side has."""
    for partition in np.flatnonzero(sums[0] != sums[1]).tolist():
        one, two = set(rows[0](partition)), set(rows[1](partition))
        for lacking, others in ((names[0], two - one), (names[1], one - two)):
            for author, reader, offset, follows in sorted(others):
                what = "follow" if follows else "unfollow"
                found(
                    "follow row",
                    f"{lacking} lacks: {what} of {author} by {reader} at {partition}:{offset}",
                )


def partition_rows(store: Store, least: Sequence[int]) -> Callable[[int], Iterable[Row]]:
    """Toggles of one partition, from its least offset on, as the graph's table has them."""

    def rows(partition: int) -> Iterable[Row]:
        for chunk in store.toggle_rows(partition):
            for author, reader, offset, follows in chunk.tolist():
                if offset >= least[partition]:
                    yield author, reader, offset, follows

    return rows


def reader_rows(
    store: Store, count: int, least: Sequence[int], tell: Tell
) -> Callable[[int], Iterable[Row]]:
    """The same as the table by reader has them."""

    def rows(partition: int) -> Iterable[Row]:
        for reader, toggles in followings(store, tell):
            authors = np.array([toggle.author for toggle in toggles], dtype=np.uint64)
            mine = partition_of_many(authors, count) == np.uint64(partition)
            for place in np.flatnonzero(mine).tolist():
                toggle = toggles[place]
                if toggle.offset >= least[partition]:
                    yield toggle.author, reader, toggle.offset, int(toggle.follows)

    return rows


def firehose_rows(
    log: Log, home: HomeRange, floors: Sequence[int], ends: Sequence[int]
) -> Callable[[int], Iterable[Row]]:
    """The same as the firehose has them."""

    def rows(partition: int) -> Iterable[Row]:
        at = floors[partition]
        while at < ends[partition]:
            most = min(READ_RECORDS_MAX, ends[partition] - at)
            records = log.read(partition, at, most, READ_BYTES_MAX)
            for record in records:
                toggle = toggle_of(record, home, log.partitions)
                if toggle is not None:
                    kind = int(toggle.kind == FOLLOW)
                    yield toggle.author, toggle.reader, record.offset, kind
            at = records[-1].offset + 1

    return rows
