"""The reading half of the store on HBase: slices of keys, rows by key, scans by prefix.

Any number of threads may read, each over a connection of its own (cells/hbase_client.py). A scan is
always read to the end of what was asked before its answer is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from cells import rows
from cells.hbase_client import HBaseClient
from cells.hbase_schema import (
    Columns,
    read_outbox,
    read_post,
    read_relation,
    salted,
    salted_prefix,
)
from engine import limits
from engine.errors import invariant
from engine.keys import (
    after_prefix,
    following_key,
    pair_prefix,
    parse_following_key,
    parse_inbox_key,
    parse_post_key,
    parse_relation_key,
    parse_toggle_key,
    partition_prefix,
    user_prefix,
)
from engine.ports import Gap, OutboxEntry, PostRow, Record, Toggle

Pair = tuple[bytes, Columns]


class HBaseReads:
    """What pages, the graph and `status` ask of a cell's store."""

    def __init__(self, client: HBaseClient, partitions: int) -> None:
        self._client = client
        self._partitions = partitions

    def positions(self) -> tuple[list[int], list[int]]:
        """(next offset, append time ms of the last applied record) of every partition."""
        keys = [partition_prefix(partition) for partition in range(self._partitions)]
        found = self._client.rows("position", keys)
        both = [rows.unpack_position(row[b""]) if row else (0, 0) for row in found]
        return [position for position, _ in both], [time_ms for _, time_ms in both]

    def inbox_older(self, reader: int, before: bytes, limit: int) -> bytes:
        """Joined inbox keys (24 bytes each) of `reader` strictly behind key `before` (b"": from
        the newest), at most `limit`. Raises Unavailable."""
        prefix = user_prefix(reader)
        start = before + b"\x00" if before else prefix
        pairs = self._walk("inbox", start, after_prefix(prefix), limit)
        return b"".join([key for key, _ in pairs])

    def inbox_newer(self, reader: int, above: bytes, limit: int) -> bytes:
        """Joined inbox keys of `reader` strictly in front of key `above`, nearest first; b"": in
        front of the end, so the oldest first. Raises Unavailable."""
        return b"".join([key for key, _ in self._upwards("inbox", reader, above, limit)])

    def post_rows(self, keys: Sequence[bytes]) -> list[PostRow | None]:
        """The rows of post keys, in their order; a row with offset -1 was never posted."""
        found = self._client.rows("post", [salted(key) for key in keys])
        return [read_post(columns) for columns in found]

    def posts_with_id(self, post: int, limit: int) -> list[tuple[int, PostRow]]:
        """(author, row) of the posts with this id, by author; at most `limit`.

        Edits and deletes of posts that are not there are passed over, PAGE_SCAN_KEYS_MAX at most.
        """
        prefix = salted_prefix(post)
        found = []
        for key, columns in self._walk(
            "post", prefix, after_prefix(prefix), limits.PAGE_SCAN_KEYS_MAX
        ):
            row = read_post(columns)
            if row is not None and row.offset >= 0:
                found.append((parse_post_key(key[1:])[1], row))
        return found[:limit]

    def outbox(self, author: int, before: bytes, limit: int) -> list[OutboxEntry]:
        """Entries of `author` strictly behind outbox key `before` (b"": from the newest)."""
        start, stop = _outbox_range(author, before)
        found: list[OutboxEntry] = []
        while len(found) < limit:
            step = min(limit - len(found), limits.HBASE_SCAN_ROWS)
            pairs = self._client.scan("outbox", start, stop, step)
            found += _entries(pairs)
            if len(pairs) < step:
                break
            start = pairs[-1][0] + b"\x00"
        return found

    def outboxes(self, authors: Sequence[int], limit: int) -> list[list[OutboxEntry]]:
        """The newest entries of many authors, at most `limit` of each, in their order: one
        multi-get tells who ever posted, scans of a bounded number at once read those."""
        marks = self._client.rows("outbox", [user_prefix(author) for author in authors])
        found: list[list[OutboxEntry]] = [[] for _ in authors]
        places = [place for place, mark in enumerate(marks) if mark]
        ranges = [_outbox_range(authors[place], b"") for place in places]
        for place, pairs in zip(places, self._client.scans("outbox", ranges, limit), strict=True):
            found[place] = _entries(pairs)
            if len(pairs) == limit and len(found[place]) < limit:  # deletes without their posts
                found[place] = self.outbox(authors[place], b"", limit)
        return found

    def outbox_newer(self, author: int, above: bytes, limit: int) -> list[OutboxEntry]:
        """Entries of `author` strictly in front of outbox key `above` (b"": from the oldest),
        nearest first."""
        found: list[OutboxEntry] = []
        while len(found) < limit:
            asked = limit - len(found)
            pairs = self._upwards("outbox", author, above, asked)
            entries = (read_outbox(parse_inbox_key(key)[1], columns) for key, columns in pairs)
            found += [entry for entry in entries if entry is not None]
            if len(pairs) < asked:
                break
            above = pairs[-1][0]
        return found

    def _upwards(self, table: str, user: int, above: bytes, limit: int) -> list[Pair]:
        """Rows of `user` in front of key `above`, nearest first; b"": from the last."""
        prefix = user_prefix(user)
        start = above or after_prefix(prefix) or b""  # downwards, b"" is the table's end
        found: list[Pair] = []
        while len(found) < limit:
            step = min(limit - len(found) + 1, limits.HBASE_SCAN_ROWS)
            pairs = self._client.scan(table, start, prefix, step, reverse=True)
            found += [pair for pair in pairs if pair[0] != start]
            if len(pairs) < step:
                break
            start = pairs[-1][0]
        return found[:limit]

    def toggles_between(self, reader: int, author: int) -> list[Toggle]:
        """All toggles of one reader towards one author, by offset."""
        prefix = pair_prefix(reader, author)
        return [_toggle(pair) for pair in self._walk("following", prefix, after_prefix(prefix))]

    def toggles_of_pairs(self, pairs: Sequence[tuple[int, int]]) -> list[list[Toggle]]:
        """`toggles_between` of many (reader, author), in their order; two round trips for some
        tens of them."""
        prefixes = [pair_prefix(*pair) for pair in pairs]
        ranges = [(prefix, after_prefix(prefix)) for prefix in prefixes]
        most = limits.HBASE_SCAN_ROWS
        found = self._client.scans("following", ranges, most)
        return [
            [_toggle(row) for row in rows_of]
            if len(rows_of) < most
            else self.toggles_between(*pair)
            for pair, rows_of in zip(pairs, found, strict=True)
        ]

    def toggles_of(self, reader: int, author_from: int, limit: int) -> list[Toggle]:
        """Toggles of a reader by (author, offset), from `author_from` on, at most `limit`."""
        start = following_key(reader, author_from, 0)
        stop = after_prefix(user_prefix(reader))
        return [_toggle(pair) for pair in self._walk("following", start, stop, limit)]

    def relations_of(self, owner: int) -> list[tuple[int, int]]:
        """(class, other) of the relations of `owner` that are on."""
        prefix = user_prefix(owner)
        return [
            parse_relation_key(key)[1:]
            for key, columns in self._walk("relation", prefix, after_prefix(prefix))
            if read_relation(columns)
        ]

    def toggle_rows(self, partition: int) -> Iterable[npt.NDArray[np.uint64]]:
        """All toggles of a partition in key order, as u64 arrays (n, 4): author, reader, offset,
        follows (0 or 1)."""
        start = partition_prefix(partition)
        stop = after_prefix(start)
        step = limits.TOGGLE_CHUNK_ROWS
        while True:
            pairs = self._client.scan("toggle", start, stop, step)
            if not pairs:
                return
            yield np.array([_toggle_row(pair) for pair in pairs], dtype=np.uint64)
            if len(pairs) < step:
                return
            start = pairs[-1][0] + b"\x00"

    def gaps(self) -> list[Gap]:
        """Recorded gaps, quarantined records included, by place."""
        found = []
        for key, columns in self._walk("gap", b"", None):
            found.append(rows.widest_gap(rows.unpack_gap(key, value) for value in columns))
        for record, cause in self._quarantined(None):
            place = (record.partition, record.offset, record.offset)
            found.append(Gap(*place, record.time_ms, record.time_ms, f"quarantined: {cause}"))
        return sorted(found)

    def quarantined(self, limit: int) -> list[tuple[Record, str]]:
        """Kept bad records and their causes, by place."""
        return self._quarantined(limit)

    def _quarantined(self, limit: int | None) -> list[tuple[Record, str]]:
        pairs = self._walk("quarantine", b"", None, limit)
        return [rows.unpack_quarantined(key, columns[b""]) for key, columns in pairs]

    def _walk(
        self, table: str, start: bytes, stop: bytes | None, limit: int | None = None
    ) -> list[Pair]:
        """Rows of [start, stop), at most `limit`, by scans of a bounded size."""
        found: list[Pair] = []
        while limit is None or len(found) < limit:
            left = limits.HBASE_SCAN_ROWS if limit is None else limit - len(found)
            step = min(left, limits.HBASE_SCAN_ROWS)
            pairs = self._client.scan(table, start, stop, step)
            found += pairs
            if len(pairs) < step:
                break
            start = pairs[-1][0] + b"\x00"
        return found


def _outbox_range(author: int, before: bytes) -> tuple[bytes, bytes | None]:
    """Behind `before`, or behind the row that says that the author ever posted."""
    prefix = user_prefix(author)
    return (before or prefix) + b"\x00", after_prefix(prefix)


def _entries(pairs: Iterable[Pair]) -> list[OutboxEntry]:
    entries = (read_outbox(parse_inbox_key(key)[1], columns) for key, columns in pairs)
    return [entry for entry in entries if entry is not None]


def _toggle(pair: Pair) -> Toggle:
    key, columns = pair
    _, author, offset = parse_following_key(key)
    follows, floor = rows.unpack_following(columns[b""])
    return Toggle(author, offset, follows, floor)


def _toggle_row(pair: Pair) -> tuple[int, int, int, bool]:
    key, columns = pair
    _, author, reader, offset = parse_toggle_key(key)
    value = columns[b""]
    invariant(value in (rows.FOLLOWS, rows.FOLLOWS_NOT), "toggle values of v1")
    return author, reader, offset, value == rows.FOLLOWS
