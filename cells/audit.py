"""The slow audit inside every cell: one reader after the other, for ever, judged as verify does.

Judged is what lies below the cell's durable position, read first: behind it may be half of a batch,
for as long as a remote store takes to adopt it or is away. What seems wrong all the same (a replay
at work) is looked at again; only what stays wrong is a finding: counted, a metric, and in the log.
A reader whose authors have more than AUDIT_POSTS_MAX posts is left to verify. One thread calls
`step`; `stats` any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cells.verify_rule import (
    NO_ROW,
    I64s,
    Judgement,
    PostsOf,
    Pushed,
    U64s,
    follows_now,
    judge,
    no_posts,
)
from cells.verify_tables import inbox_of, toggles_of
from engine.homing import partition_of
from engine.keys import outbox_key, post_key
from engine.limits import (
    AUDIT_AUTHORS,
    AUDIT_HEAD,
    AUDIT_POSTS_MAX,
    AUDIT_TRIES,
    AUDIT_TRY_S,
    VERIFY_SCAN_ROWS,
)
from engine.ports import OutboxEntry, Store

_log = logging.getLogger("firecell.audit")


class _TooMany(Exception):
    """A reader whom the audit leaves out."""


class Found(NamedTuple):
    """What is wrong with one reader's inbox, in numbers."""

    missing: int
    extra: int
    dangling: int
    disorder: int


class Audit:
    """Walks through the readers of a store. `wait(seconds)`: True when it is time to end."""

    def __init__(self, store: Store, pushed: Pushed, wait: Callable[[float], bool]) -> None:
        self._store = store
        self._pushed = pushed
        self._wait = wait
        self._next = 0
        self.readers = 0
        self.skipped = 0
        self.rounds = 0
        self.findings = 0

    def step(self) -> None:
        """Judge the next reader."""
        readers = self._store.readers_from(self._next, 1)
        if not readers:
            self.rounds += self._next > 0
            self._next = 0
            return
        reader = readers[0]
        self._next = reader + 1
        try:
            found = self._look(reader)
            for _ in range(AUDIT_TRIES - 1):
                if not any(found):
                    break
                if self._wait(AUDIT_TRY_S):
                    return
                found = self._look(reader)
        except _TooMany:
            self.skipped += 1
            return
        self.readers += 1
        if any(found):
            self.findings += sum(found)
            _log.error(
                "the inbox of reader %d is wrong: %s; `firecell verify` tells more, and `firecell"
                " replay` heals what the firehose still holds",
                reader,
                ", ".join(f"{name} {n}" for name, n in found._asdict().items() if n),
            )

    def _look(self, reader: int) -> Found:
        durable, _ = self._store.positions()
        disorder: list[str] = []
        authors, posts = inbox_of(self._store, reader, lambda kind, text: disorder.append(kind))
        every = toggles_of(self._store, reader)
        ever = {toggle.author for toggle in every}
        toggles = [toggle for toggle in every if toggle.offset < _end(durable, toggle.author)]
        followed = [reader, *(follow.author for follow in follows_now(toggles)[0])]
        known = {
            author: posts_of.take(np.flatnonzero(posts_of.offsets < _end(durable, author)))
            for author, posts_of in self._outboxes(followed).items()
        }
        judgement: Judgement = judge(
            reader,
            toggles,
            authors,
            posts,
            lambda author: known.get(author, no_posts()),
            self._offsets_of,
            self._pushed,
        )
        return Found(
            len(judgement.missing.posts),
            self._extra(judgement.extra, ever),
            len(judgement.dangling[0]),
            len(disorder),
        )

    def _extra(self, keys: tuple[U64s, U64s], ever: set[int]) -> int:
        """Of keys that nothing below the position explains, those that nothing behind it does."""
        if not len(keys[0]):
            return 0
        unmade = self._offsets_of(*keys) == -1
        strange = np.array([author not in ever for author in keys[0].tolist()], dtype=np.bool_)
        return int(np.count_nonzero(unmade | strange))

    def _outboxes(self, authors: Sequence[int]) -> dict[int, PostsOf]:
        """Everything that they posted; many at once, as a store may lie behind a network."""
        known: dict[int, PostsOf] = {}
        left = AUDIT_POSTS_MAX
        for start in range(0, len(authors), AUDIT_AUTHORS):
            some = authors[start : start + AUDIT_AUTHORS]
            for author, head in zip(some, self._store.outboxes(some, AUDIT_HEAD), strict=True):
                entries = self._whole(author, head, left)
                left -= len(entries)
                known[author] = _posts_of(author, entries)
        return known

    def _whole(self, author: int, head: list[OutboxEntry], most: int) -> list[OutboxEntry]:
        """An outbox, given its newest AUDIT_HEAD entries."""
        entries, rows = list(head), head
        more = len(head) == AUDIT_HEAD
        while more and len(entries) <= most:
            before = outbox_key(author, rows[-1].post)
            rows = self._store.outbox(author, before, VERIFY_SCAN_ROWS)
            entries += rows
            more = bool(rows)
        if len(entries) > most:
            raise _TooMany
        return entries

    def _offsets_of(self, authors: U64s, posts: U64s) -> I64s:
        keys = [
            post_key(post, author)
            for author, post in zip(authors.tolist(), posts.tolist(), strict=True)
        ]
        rows = self._store.post_rows(keys)
        return np.array([NO_ROW if row is None else row.offset for row in rows], dtype=np.int64)

    def stats(self) -> dict[str, float]:
        """For metrics."""
        return {
            "audit_readers_total": float(self.readers),
            "audit_skipped_total": float(self.skipped),
            "audit_rounds_total": float(self.rounds),
            "audit_findings_total": float(self.findings),
        }


def _end(durable: Sequence[int], author: int) -> int:
    """Below it everything about an author is written whole."""
    return durable[partition_of(author, len(durable))]


def _posts_of(author: int, entries: list[OutboxEntry]) -> PostsOf:
    count = len(entries)
    return PostsOf(
        np.full(count, author, dtype=np.uint64),
        np.array([entry.post for entry in entries], dtype=np.uint64),
        np.array([entry.offset for entry in entries], dtype=np.int64),
        np.array([entry.delete_offset for entry in entries], dtype=np.int64),
        np.zeros(count, dtype=np.int64),
    )
