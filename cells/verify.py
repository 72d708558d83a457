"""Verify: recompute inboxes from posts and follow toggles, and tell what differs.

A store at rest is walked through: a cell's own, or a checkpoint of a running one, opened beside it.
What counts:

| kind | what |
| --- | --- |
| missing | a post that the rule shows to a reader has no inbox key, and is not pulled |
| extra | a key of an author whom the reader never followed, or of a post that nobody made |
| dangling | a key without a post row and without a tombstone (I3) |
| out of order | a key that does not follow the one in front of it |
| outbox missing, dangling, differs | posts and outboxes contradict each other |
| follow row | the two tables of follows, or they and the firehose, contradict each other |
| floor | a follow's recorded backfill is not what posts say (`from_firehose`) |
| post missing, delete missing | the firehose has it, the store does not (`from_firehose`) |

Keys that the rule does not show, of authors once followed, are legal: pages never show them (I2).
Nothing of engine/fanout.py is used here. One thread.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from cells import verify_toggles
from cells.digest import Digest
from cells.verify_rule import (
    Judgement,
    Pushed,
    U64s,
    all_pushed,
    floor_of,
    follows_now,
    judge,
    opening,
)
from cells.verify_tables import (
    PostTable,
    Tell,
    check_outboxes,
    followings,
    hidden,
    inbox_of,
    inboxes,
    toggles_of,
)
from cells.verify_toggles import BY_PARTITION, BY_READER, FromFirehose, ReaderSums
from engine.homing import HomeRange, partition_of
from engine.limits import U64_MAX, VERIFY_FINDINGS_NAMED_MAX, VERIFY_SCAN_ROWS
from engine.ports import Log, Store, Toggle

_NOBODY = np.empty(0, dtype=np.uint64)
_Part = tuple[int, list[Toggle] | None, list[U64s] | None]


@dataclass
class Report:
    """What was looked at and what was found; `ok` when nothing was."""

    positions: list[int]
    readers: int = 0
    keys: int = 0
    posts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)
    digest: dict[str, str] | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing differs."""
        return not self.counts

    def found(self, kind: str, text: str) -> None:
        """One finding; all are counted, the first of each kind named."""
        self.counts[kind] += 1
        named = self.named.setdefault(kind, [])
        if len(named) < VERIFY_FINDINGS_NAMED_MAX:
            named.append(text)

    def add(self, reader: int, judgement: Judgement) -> None:
        """What `judge` says of a reader."""
        missing = judgement.missing
        for author, post in zip(missing.authors, missing.posts, strict=True):
            self.found("missing", f"reader {reader} lacks post {post} of {author}")
        for author, post in zip(*judgement.extra, strict=True):
            self.found("extra", f"reader {reader} has a key of post {post} of {author}")
        for author, post in zip(*judgement.dangling, strict=True):
            self.found("dangling", f"reader {reader}: no row for post {post} of {author}")

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        document: dict[str, Any] = {
            "ok": self.ok,
            "readers": self.readers,
            "keys": self.keys,
            "posts": self.posts,
            "found": dict(self.counts),
            "named": self.named,
            "positions": {str(p): offset for p, offset in enumerate(self.positions)},
        }
        return document if self.digest is None else {**document, "digest": self.digest}


def silent(what: str, count: int) -> None:
    """Tells nobody."""


class Verify:
    """One run over a store at rest. `pushed`: which posts must have keys."""

    def __init__(
        self, store: Store, home: HomeRange, *, pushed: Pushed = all_pushed, tell: Tell = silent
    ) -> None:
        self._store = store
        self._home = home
        self._pushed = pushed
        self._tell = tell
        offsets, _ = store.positions()
        self._partitions = len(offsets)
        self.report = Report(offsets)
        self._hiding = hidden(store, tell)
        self._hides: tuple[int, set[int]] = (-1, set())

    # --- some readers ---

    def sample(self, count: int, seed: int = 0) -> Report:
        """Judge `count` readers, chosen by `seed`, and the outboxes of whom they follow."""
        chosen = random.Random(seed)
        readers: list[int] = []
        for index, reader in enumerate(self._readers()):  # a reservoir: each is as likely
            place = index if index < count else chosen.randrange(index + 1)
            if place < count:
                readers[place : place + 1] = [reader]
        toggles = {reader: toggles_of(self._store, reader) for reader in sorted(readers)}
        authors = set(readers)
        for rows in toggles.values():
            authors |= {follow.author for follow in follows_now(rows)[0]}
        digest = Digest(False)
        table = PostTable(self._store, authors, self._tell, digest)
        check_outboxes(self._store, table, authors, self._tell, self.report.found, digest)
        for reader, rows in toggles.items():
            held = inbox_of(self._store, reader, self.report.found)
            self._judge(reader, rows, *held, table)
        self.report.posts = len(table.rows.posts)
        return self.report

    def _readers(self) -> Iterator[int]:
        start = 0
        while readers := self._store.readers_from(start, VERIFY_SCAN_ROWS):
            yield from readers
            if len(readers) < VERIFY_SCAN_ROWS:
                return
            start = readers[-1] + 1

    # --- everything ---

    def everything(self, log: Log | None = None, digest: bool = False) -> Report:
        """Judge all readers, outboxes and follows; with `log` what it still holds as well."""
        sums = Digest(digest)
        report = self.report
        firehose = None
        if log is not None:
            firehose = verify_toggles.read_firehose(
                log, self._store, self._home, report.positions, self._tell, report.found
            )
        table = PostTable(self._store, None, self._tell, sums)
        check_outboxes(self._store, table, None, self._tell, report.found, sums)
        zeros = [0] * self._partitions
        reader_sums = ReaderSums(
            self._partitions, [zeros] if firehose is None else [zeros, firehose.floors]
        )
        for reader, toggles, authors, posts in self._everybody(table):
            for toggle in toggles:
                reader_sums.add((toggle.author, reader, toggle.offset, int(toggle.follows)))
            sums.toggles(reader, toggles)
            shown = self._judge(reader, toggles, authors, posts, table)
            if digest:
                hides = self._hidden_by(reader)
                sums.inbox(reader, hides, *_without(*shown, hides))
            if firehose is not None:
                self._check_floors(reader, toggles, table, firehose)
        reader_sums.flush()
        self._compare_follows(reader_sums, zeros, log, firehose)
        report.posts = len(table.rows.posts)
        report.digest = sums.document() if digest else None
        return report

    def _everybody(self, table: PostTable) -> Iterator[tuple[int, list[Toggle], U64s, U64s]]:
        """(reader, toggles, key authors, key posts) of all who have any of these, or posts of
        their own and their home here; ascending."""
        empty: list[Toggle] = []
        authors = table.authors[self._home.contains_many(table.authors)]
        held_keys = inboxes(self._store, self._tell, self.report.found)
        streams: tuple[Iterator[_Part], ...] = (
            ((who, rows, None) for who, rows in followings(self._store, self._tell)),
            ((who, None, held) for who, *held in held_keys),
            ((who, None, None) for who in authors.tolist()),
        )
        merged = heapq.merge(*streams, key=lambda each: each[0])
        for reader, parts in groupby(merged, key=lambda each: each[0]):
            toggles, keys_of, keys = empty, _NOBODY, _NOBODY
            for _, rows, held in parts:
                toggles = rows or toggles
                keys_of, keys = held or (keys_of, keys)
            yield reader, toggles, keys_of, keys

    def _hidden_by(self, reader: int) -> set[int]:
        """Whom a reader does not see; asked for readers that ascend."""
        while self._hides[0] < reader:
            self._hides = next(self._hiding, (U64_MAX + 1, set()))
        return self._hides[1] if self._hides[0] == reader else set()

    def _judge(
        self, reader: int, toggles: Sequence[Toggle], authors: U64s, posts: U64s, table: PostTable
    ) -> tuple[U64s, U64s]:
        judgement = judge(
            reader, toggles, authors, posts, table.of, table.offsets_of, self._pushed
        )
        self.report.add(reader, judgement)
        self.report.readers += 1
        self.report.keys += len(posts)
        return judgement.shown

    def _check_floors(
        self, reader: int, toggles: Sequence[Toggle], table: PostTable, firehose: FromFirehose
    ) -> None:
        for author, rows in groupby(toggles, key=lambda toggle: toggle.author):
            partition = partition_of(author, self._partitions)
            offsets, times_ms = firehose.follows[partition]
            for toggle in opening(list(rows)):
                at = int(np.searchsorted(offsets, toggle.offset))
                if at == len(offsets) or int(offsets[at]) != toggle.offset:
                    continue  # older than what the firehose holds
                floor = floor_of(table.of(author), toggle.offset, int(times_ms[at]))
                if floor != toggle.floor:
                    place = f"{partition}:{toggle.offset}"
                    self.report.found(
                        "floor",
                        f"the follow of {author} by {reader} at {place} has floor {toggle.floor},"
                        f" not {floor}",
                    )

    def _compare_follows(
        self,
        reader_sums: ReaderSums,
        zeros: list[int],
        log: Log | None,
        firehose: FromFirehose | None,
    ) -> None:
        store, count, found = self._store, self._partitions, self.report.found
        by_partition = verify_toggles.by_partition(store, count, zeros, self._tell)
        verify_toggles.compare(
            (BY_PARTITION, BY_READER),
            (by_partition, reader_sums.sums[0]),
            (
                verify_toggles.partition_rows(store, zeros),
                verify_toggles.reader_rows(store, count, zeros, self._tell),
            ),
            found,
        )
        if log is None or firehose is None:
            return
        floors = firehose.floors
        verify_toggles.compare(
            (BY_READER, "the firehose"),
            (reader_sums.sums[1], firehose.sums),
            (
                verify_toggles.reader_rows(store, count, floors, self._tell),
                verify_toggles.firehose_rows(log, self._home, floors, self.report.positions),
            ),
            found,
        )


def _without(authors: U64s, posts: U64s, hidden: set[int]) -> tuple[U64s, U64s]:
    """What a page shows of it: nothing of hidden authors."""
    if not hidden:
        return authors, posts
    kept = ~np.isin(authors, np.array(sorted(hidden), dtype=np.uint64))
    return authors[kept], posts[kept]
