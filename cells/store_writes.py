"""Facts into puts: what one batch of records writes into the embedded store's tables.

Read-modify-write where facts compete (posts, relations, gaps): sound because one process owns the
store and one thread at a time writes. Building a batch holds the GIL, 0.45 us a put, so long ones
come up for air (`yield`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rocksdict import ColumnFamily, WriteBatch

from cells import rows
from engine import limits
from engine.errors import invariant
from engine.keys import (
    INBOX_KEY_BYTES,
    Keys,
    following_key,
    outbox_key,
    parse_post_key,
    partition_prefix,
    place_key,
    relation_key,
    toggle_key,
)
from engine.ports import Facts

Get = Callable[[str, Sequence[bytes]], list[bytes | None]]


class FactsWriter:
    """Fills `batch`; one thread at a time. `get(table, keys)` reads what is stored now."""

    def __init__(self, handles: Mapping[str, ColumnFamily], get: Get, partitions: int) -> None:
        self._handles = handles
        self._get = get
        self._partitions = partitions
        self.batch = WriteBatch(raw_mode=True)

    def take(self) -> WriteBatch:
        """What was put so far; the next puts go to a new batch."""
        taken, self.batch = self.batch, WriteBatch(raw_mode=True)
        return taken

    def put_rows(self, facts: Facts) -> Iterator[None]:
        """Put all rows of `facts`; comes up for air after each slice."""
        if facts.posts or facts.edits or facts.deletes:
            yield from self._put_posts(facts)
        if facts.toggles:
            for start in range(0, len(facts.toggles), limits.PUT_SLICE_KEYS):
                self._put_toggles(facts.toggles[start : start + limits.PUT_SLICE_KEYS])
                yield
        if facts.relations:
            self._put_relations(facts.relations)
        for record, cause in facts.quarantined:
            key = place_key(record.partition, record.offset)
            self.batch.put(key, rows.pack_quarantined(record, cause), self._handles["quarantine"])
        if facts.gaps:
            self._put_gaps(facts)

    def _put_posts(self, facts: Facts) -> Iterator[None]:
        post, outbox = self._handles["post"], self._handles["outbox"]
        keys = rows.post_keys(facts)
        stored = self._get("post", keys)
        changed = rows.merge_posts(facts, keys, stored)
        if facts.again:
            yield from self._put_outboxes(keys, stored, changed)
        merged = list(changed.items())
        for start in range(0, len(merged), limits.PUT_SLICE_KEYS):
            put = self.batch.put
            for key, row in merged[start : start + limits.PUT_SLICE_KEYS]:
                put(key, rows.pack_post(row), post)
                if row.offset >= 0:
                    post_id, author = parse_post_key(key)
                    put(outbox_key(author, post_id), rows.pack_outbox(row), outbox)
            yield

    def _put_outboxes(
        self, keys: list[bytes], stored: list[bytes | None], changed: Mapping[bytes, Any]
    ) -> Iterator[None]:
        """The outbox entries of rows that stay as they are: theirs may be what is damaged."""
        outbox = self._handles["outbox"]
        for start in range(0, len(keys), limits.PUT_SLICE_KEYS):
            end = start + limits.PUT_SLICE_KEYS
            for key, value in zip(keys[start:end], stored[start:end], strict=True):
                if value is None or key in changed:
                    continue
                entry = rows.outbox_of_post(value)
                if entry is not None:
                    post_id, author = parse_post_key(key)
                    self.batch.put(outbox_key(author, post_id), entry, outbox)
            yield

    def _put_toggles(self, toggles: list[tuple[int, int, int, int, bool, int]]) -> None:
        """Two rows per toggle. Imports write millions: every call here counts."""
        put = self.batch.put
        toggle, following = self._handles["toggle"], self._handles["following"]
        by_partition, by_reader, value = toggle_key, following_key, rows.pack_following
        yes, no = rows.FOLLOWS, rows.FOLLOWS_NOT
        for partition, author, reader, offset, follows, floor in toggles:
            put(by_partition(partition, author, reader, offset), yes if follows else no, toggle)
            put(by_reader(reader, author, offset), value(follows, floor), following)

    def _put_relations(self, relations: list[tuple[int, int, int, int, bool]]) -> None:
        """The highest offset wins, against this batch's others and what is stored."""
        newest: dict[bytes, tuple[int, bool]] = {}
        for owner, relation, other, offset, on in relations:
            key = relation_key(owner, relation, other)
            if key not in newest or offset > newest[key][0]:
                newest[key] = (offset, on)
        stored = self._get("relation", list(newest))
        for (key, (offset, on)), value in zip(newest.items(), stored, strict=True):
            if value is None or rows.unpack_relation(value)[0] < offset:
                self.batch.put(key, rows.pack_relation(offset, on), self._handles["relation"])

    def _put_gaps(self, facts: Facts) -> None:
        """Of gaps that begin at one place the longest is kept."""
        by_place: dict[bytes, list[Any]] = {}
        for gap in facts.gaps:
            by_place.setdefault(place_key(gap.partition, gap.first_offset), []).append(gap)
        for (key, gaps), value in zip(
            by_place.items(), self._get("gap", list(by_place)), strict=True
        ):
            if value is not None:
                gaps.append(rows.unpack_gap(key, value))
            self.batch.put(key, rows.pack_gap(rows.widest_gap(gaps)), self._handles["gap"])

    def put_inbox(self, keys: Keys) -> Iterator[None]:
        """Put inbox keys, u8 (n, 24); comes up for air after each slice."""
        inbox, empty = self._handles["inbox"], b""
        for start in range(0, len(keys), limits.PUT_SLICE_KEYS):
            put = self.batch.put
            part = np.ascontiguousarray(keys[start : start + limits.PUT_SLICE_KEYS])
            for key in part.view(f"V{INBOX_KEY_BYTES}").ravel().tolist():
                put(key, empty, inbox)
            yield

    def put_positions(self, positions: Mapping[int, tuple[int, int]]) -> None:
        """Put partition -> (next offset, time ms)."""
        for partition, (next_offset, time_ms) in positions.items():
            invariant(0 <= partition < self._partitions, f"there is no partition {partition}")
            value = rows.pack_position(next_offset, time_ms)
            self.batch.put(partition_prefix(partition), value, self._handles["position"])
