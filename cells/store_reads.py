"""The reading half of the embedded store: slices of keys, rows by key, scans by prefix.

Any number of threads may read, beside one another and beside the writer. rocksdict's iterators
hold the GIL, so each call is short; and `keys()` and `items()` end without a word at a damaged
block, so whatever ends before its limit is looked at once more (`_check_end`): no silent hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from rocksdict import Rdict

from cells import rows
from cells.rocks import FAMILIES, translate
from engine import limits
from engine.errors import Unavailable, invariant
from engine.keys import (
    INBOX_KEY_BYTES,
    after_prefix,
    following_key,
    pair_prefix,
    parse_following_key,
    parse_inbox_key,
    parse_post_key,
    parse_relation_key,
    partition_prefix,
    post_prefix,
    toggle_key,
    user_prefix,
)
from engine.ports import Gap, OutboxEntry, PostRow, Record, Toggle

_PREFIX_BYTES = 8
_TOGGLE_ROW = np.dtype(
    [
        ("partition", ">u2"),
        ("author", ">u8"),
        ("reader", ">u8"),
        ("offset", ">u8"),
        ("version", "u1"),
        ("follows", "u1"),
    ]
)


class StoreReads:
    """What pages, the graph and `status` ask of a cell's store."""

    def __init__(self, rocks: Rdict, partitions: int) -> None:
        self._rocks = rocks
        self._partitions = partitions
        # Any: the annotations of rocksdict know neither raw bytes nor lists of keys
        self._tables: dict[str, Any] = {n: rocks.get_column_family(n) for n in FAMILIES}
        self._inbox = self._tables["inbox"]

    def positions(self) -> tuple[list[int], list[int]]:
        """(next offset, append time ms of the last applied record) of every partition."""
        keys = [partition_prefix(partition) for partition in range(self._partitions)]
        values = self._get("position", keys)
        both = [rows.unpack_position(value) if value else (0, 0) for value in values]
        return [position for position, _ in both], [time_ms for _, time_ms in both]

    def inbox_older(self, reader: int, before: bytes, limit: int) -> bytes:
        """Joined inbox keys (24 bytes each) of `reader` strictly behind key `before` (b"": from
        the newest), at most `limit`. Raises Unavailable, Corruption."""
        prefix = user_prefix(reader)
        start = before + b"\x00" if before else prefix
        size = limits.INBOX_SLICE_KEYS
        if limit <= size:
            return self._slice(prefix, start, limit)
        parts = []
        while limit > 0:
            taken = self._slice(prefix, start, min(limit, size))
            parts.append(taken)
            if len(taken) < min(limit, size) * INBOX_KEY_BYTES:
                break
            start = taken[-INBOX_KEY_BYTES:] + b"\x00"
            limit -= size
            size *= 4
        return b"".join(parts)

    def _slice(self, prefix: bytes, start: bytes, limit: int) -> bytes:
        """Keys from `start` on that begin with `prefix`, at most `limit`. Without an upper bound:
        it costs more to tell RocksDB about it than to read a few keys too many."""
        try:
            raw = b"".join(islice(self._inbox.keys(from_key=start), limit))
        except Exception as error:
            raise translate(error, "read an inbox") from error
        if len(raw) < limit * INBOX_KEY_BYTES:
            raw = self._once_more(raw, start, limit)
        if raw[-INBOX_KEY_BYTES : _PREFIX_BYTES - INBOX_KEY_BYTES] == prefix:
            return raw
        return _own(raw, prefix)

    def _once_more(self, raw: bytes, start: bytes, limit: int) -> bytes:
        """A slice that ended before its limit: at the table's end, or at a damaged block?"""
        for _ in range(limits.SCAN_TRIES_MAX):
            last = raw[-INBOX_KEY_BYTES:]
            if self._check_end("inbox", last + b"\x00" if last else start):
                return raw
            raw = b"".join(islice(self._inbox.keys(from_key=start), limit))
            if len(raw) == limit * INBOX_KEY_BYTES:
                return raw
        raise Unavailable("an inbox changed while it was read; ask again")

    def _check_end(self, table: str, after: bytes) -> bool:
        """Whether the table has nothing from `after` on. Raises Corruption at a damaged block."""
        try:
            scan = self._tables[table].iter()
            scan.seek(after)
            if scan.valid():
                return False
            scan.status()
        except Exception as error:
            raise translate(error, f"read its table {table!r}") from error
        return True

    def inbox_newer(self, reader: int, above: bytes, limit: int) -> bytes:
        """Joined inbox keys of `reader` strictly in front of key `above`, nearest first; b"": in
        front of the end, so the oldest first. Raises Unavailable, Corruption."""
        return b"".join([key for key, _ in self._upwards("inbox", reader, above, limit)])

    def _upwards(
        self, table: str, user: int, above: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Pairs of `user` in front of key `above`, nearest first; b"": from the last."""
        prefix = user_prefix(user)
        behind = above or after_prefix(prefix)
        found: list[tuple[bytes, bytes]] = []
        try:
            scan = self._tables[table].iter()
            if behind is None:
                scan.seek_to_last()
            else:
                scan.seek_for_prev(behind)
                if scan.key() == behind:
                    scan.prev()
            while len(found) < limit:
                key = scan.key()
                if key is None or key[:_PREFIX_BYTES] != prefix:
                    break
                found.append((key, scan.value()))
                scan.prev()
            scan.status()
        except Exception as error:
            raise translate(error, f"read its table {table!r}") from error
        return found

    def post_rows(self, keys: Sequence[bytes]) -> list[PostRow | None]:
        """The rows of post keys, in their order; a row with offset -1 was never posted."""
        unpack = rows.unpack_post
        return [None if value is None else unpack(value) for value in self._get("post", keys)]

    def posts_with_id(self, post: int, limit: int) -> list[tuple[int, PostRow]]:
        """(author, row) of the posts with this id, by author; at most `limit`.

        Edits and deletes of posts that are not there are passed over, PAGE_SCAN_KEYS_MAX at most.
        """
        prefix = post_prefix(post)
        found = []
        for key, value in self._scan("post", prefix, prefix, limits.PAGE_SCAN_KEYS_MAX):
            row = rows.unpack_post(value)
            if row.offset >= 0:
                found.append((parse_post_key(key)[1], row))
                if len(found) == limit:
                    break
        return found

    def outbox(self, author: int, before: bytes, limit: int) -> list[OutboxEntry]:
        """Entries of `author` strictly behind outbox key `before` (b"": from the newest)."""
        prefix = user_prefix(author)
        start = before + b"\x00" if before else prefix
        return [
            rows.unpack_outbox(parse_inbox_key(key)[1], value)
            for key, value in self._scan("outbox", start, prefix, limit)
        ]

    def outboxes(self, authors: Sequence[int], limit: int) -> list[list[OutboxEntry]]:
        """The newest entries of many authors, at most `limit` of each, in their order."""
        return [self.outbox(author, b"", limit) for author in authors]

    def outbox_newer(self, author: int, above: bytes, limit: int) -> list[OutboxEntry]:
        """Entries of `author` strictly in front of outbox key `above` (b"": from the oldest),
        nearest first."""
        return [
            rows.unpack_outbox(parse_inbox_key(key)[1], value)
            for key, value in self._upwards("outbox", author, above, limit)
        ]

    def toggles_between(self, reader: int, author: int) -> list[Toggle]:
        """All toggles of one reader towards one author, by offset."""
        prefix = pair_prefix(reader, author)
        return [_toggle(key, value) for key, value in self._scan("following", prefix, prefix)]

    def toggles_of_pairs(self, pairs: Sequence[tuple[int, int]]) -> list[list[Toggle]]:
        """`toggles_between` of many (reader, author), in their order."""
        return [self.toggles_between(reader, author) for reader, author in pairs]

    def toggles_of(self, reader: int, author_from: int, limit: int) -> list[Toggle]:
        """Toggles of a reader by (author, offset), from `author_from` on, at most `limit`."""
        start = following_key(reader, author_from, 0)
        prefix = user_prefix(reader)
        return [_toggle(*pair) for pair in self._scan("following", start, prefix, limit)]

    def relations_of(self, owner: int) -> list[tuple[int, int]]:
        """(class, other) of the relations of `owner` that are on."""
        prefix = user_prefix(owner)
        return [
            parse_relation_key(key)[1:]
            for key, value in self._scan("relation", prefix, prefix)
            if rows.unpack_relation(value)[1]
        ]

    def toggle_rows(self, partition: int) -> Iterable[npt.NDArray[np.uint64]]:
        """All toggles of a partition in key order, as u64 arrays (n, 4): author, reader, offset,
        follows (0 or 1); n <= TOGGLE_CHUNK_ROWS, so that other threads have their turn."""
        prefix = partition_prefix(partition)
        start = prefix
        end = after_prefix(prefix)
        while True:
            raw = self._toggle_slice(start)
            table = np.frombuffer(raw, dtype=_TOGGLE_ROW)
            mine = table[table["partition"] == partition]
            if len(mine):
                invariant(bool((mine["version"] == rows.VERSION).all()), "toggle values of v1")
                chunk = np.empty((len(mine), 4), dtype=np.uint64)
                for column, name in enumerate(("author", "reader", "offset", "follows")):
                    chunk[:, column] = mine[name]
                yield chunk
            if len(mine) < len(table):
                return
            if len(table) < limits.TOGGLE_CHUNK_ROWS:
                after = _behind_toggle(table[-1]) if len(table) else start
                if (end is not None and after >= end) or self._check_end("toggle", after):
                    return
            start = _behind_toggle(table[-1]) if len(table) else start

    def _toggle_slice(self, start: bytes) -> bytes:
        """Keys with their values, joined, from `start` on: rows of `_TOGGLE_ROW`."""
        try:
            items = self._tables["toggle"].items(from_key=start)
            return b"".join(chain.from_iterable(islice(items, limits.TOGGLE_CHUNK_ROWS)))
        except Exception as error:
            raise translate(error, "read the follow toggles") from error

    def gaps(self) -> list[Gap]:
        """Recorded gaps, quarantined records included, by place."""
        found = [rows.unpack_gap(key, value) for key, value in self._scan("gap", b"", b"")]
        for record, cause in self._quarantined(None):
            place = (record.partition, record.offset, record.offset)
            found.append(Gap(*place, record.time_ms, record.time_ms, f"quarantined: {cause}"))
        return sorted(found)

    def quarantined(self, limit: int) -> list[tuple[Record, str]]:
        """Kept bad records and their causes, by place."""
        return list(self._quarantined(limit))

    def _quarantined(self, limit: int | None) -> Iterator[tuple[Record, str]]:
        for key, value in self._scan("quarantine", b"", b"", limit):
            yield rows.unpack_quarantined(key, value)

    def _get(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of `keys`, in their order."""
        try:
            found: list[bytes | None] = self._tables[table].get(list(keys))
        except Exception as error:
            raise translate(error, f"read its table {table!r}") from error
        return found

    def _scan(
        self, table: str, start: bytes, prefix: bytes, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Pairs from `start` on whose keys begin with `prefix`, at most `limit`."""
        pairs: list[tuple[bytes, bytes]] = []
        try:
            scan = self._tables[table].iter()
            key_of, value_of, step = scan.key, scan.value, scan.next
            scan.seek(start)
            key = key_of()
            while key is not None and key.startswith(prefix) and len(pairs) != limit:
                pairs.append((key, value_of()))
                step()
                key = key_of()
            if key is None:
                scan.status()
        except Exception as error:
            raise translate(error, f"read its table {table!r}") from error
        return pairs


def _own(raw: bytes, prefix: bytes) -> bytes:
    """The keys at the front of `raw` that begin with `prefix`."""
    end = len(raw)
    while end and raw[end - INBOX_KEY_BYTES : end - INBOX_KEY_BYTES + _PREFIX_BYTES] != prefix:
        end -= INBOX_KEY_BYTES
    return raw[:end]


def _toggle(key: bytes, value: bytes) -> Toggle:
    _, author, offset = parse_following_key(key)
    follows, floor = rows.unpack_following(value)
    return Toggle(author, offset, follows, floor)


def _behind_toggle(row: np.void) -> bytes:
    names = ("partition", "author", "reader", "offset")
    return toggle_key(*(int(row[name]) for name in names)) + b"\x00"
