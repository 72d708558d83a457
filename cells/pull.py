"""A reader's inbox as if every post had been pushed: stored keys, and those of pulled authors.

Where an author's interval overlaps what is asked for, the author's outbox is read in the range of
the slice, its posts become the keys that a push would have written, and both are merged; a key that
is there twice is one. Everything behind it (the visible rule, cursors, counting) sees keys alone.

Of an outbox only what the reader's follow can show becomes a key: posts from before it, and below
its floor, were never pushed to this reader either. An outbox is left when all below is such a post
(`oldest_in_order`), so a new follower costs no walk through years.

The newest entries of each pulled author are kept, as nearly every page looks there. A copy carries
the author's `posted` count from before it was read; the worker counts on after a write, so a copy
that missed one is read again. Any thread may read; a lost copy is only read again.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from cells.graph import Graph
from cells.intervals import AuthorIntervals, Pulled
from engine import limits
from engine.keys import INBOX_KEY_BYTES, inbox_key, outbox_key, parse_inbox_key
from engine.limits import FLOOR_NONE, POST_ID_MAX
from engine.materialize import oldest_in_order
from engine.ports import OutboxEntry, Store
from engine.timeline import fold_toggles


class _Followed(NamedTuple):
    """A pulled author whom the reader follows."""

    author: int
    start: int  # offset of the follow
    low: int  # post ids that intervals may have left out
    high: int


class _Head(NamedTuple):
    """The newest entries of an outbox, newest first; whole: there are no others."""

    posted: int
    entries: list[OutboxEntry]
    whole: bool


class PulledInbox:
    """The two slices that pages are made of; arguments and answers are `engine.ports.Store`'s."""

    def __init__(self, store: Store, graph: Graph, intervals: AuthorIntervals) -> None:
        self._store = store
        self._graph = graph
        self._intervals = intervals
        self._heads: dict[int, _Head] = {}  # of PULLED_AUTHORS_MAX authors at most

    def older(self, reader: int, before: bytes, limit: int) -> bytes:
        """Joined inbox keys strictly behind key `before` (b"": from the newest)."""
        raw = self._store.inbox_older(reader, before, limit)
        pulled = self._intervals.pulled
        if pulled is None:
            return raw
        top = parse_inbox_key(before)[1] if before else POST_ID_MAX
        bottom = _last_id(raw, limit, 0)
        for followed in self._followed(pulled, reader, bottom, top):
            keys = list(islice(self._older(reader, followed, before, bottom), limit))
            if keys:
                raw = _merged(raw, keys, limit, descending=False)
                bottom = _last_id(raw, limit, 0)
        return raw

    def newer(self, reader: int, above: bytes, limit: int) -> bytes:
        """Joined inbox keys strictly in front of key `above`, nearest first."""
        raw = self._store.inbox_newer(reader, above, limit)
        pulled = self._intervals.pulled
        if pulled is None:
            return raw
        bottom = parse_inbox_key(above)[1] if above else 0
        top = _last_id(raw, limit, POST_ID_MAX)
        for followed in self._followed(pulled, reader, bottom, top):
            keys = list(islice(self._newer(reader, followed, above, top), limit))
            if keys:
                raw = _merged(raw, keys, limit, descending=True)
                top = _last_id(raw, limit, POST_ID_MAX)
        return raw

    def _followed(self, pulled: Pulled, reader: int, bottom: int, top: int) -> list[_Followed]:
        """The authors to look at for post ids bottom..top."""
        touching = (pulled.lows <= np.uint64(top)) & (pulled.highs >= np.uint64(bottom))
        authors, lows, highs = (each[touching] for each in pulled)
        if not len(authors):
            return []
        starts = self._graph.interval_from(reader, authors)
        mine = np.flatnonzero((starts >= 0) & (authors != np.uint64(reader)))
        columns = (each[mine].tolist() for each in (authors, starts, lows, highs))
        return [_Followed(*row) for row in zip(*columns, strict=True)]

    def _older(
        self, reader: int, followed: _Followed, before: bytes, bottom: int
    ) -> Iterator[bytes]:
        """Keys behind `before`, newest first, of posts in the interval's range of ids."""
        author, start, low, high = followed
        top = min(high, parse_inbox_key(before)[1] if before else POST_ID_MAX)
        bottom = max(bottom, low)
        floor = -1  # of the follow; read when it is needed
        stop = skipped = 0
        for entry in self._outbox(author, top, bottom):
            key = inbox_key(reader, entry.post, author)
            if before and key <= before:
                continue  # of the cursor's own id
            if entry.offset < start:
                if floor < 0:
                    floor = self._floor(reader, author)
                    stop = min(floor, oldest_in_order(entry.post))
                if entry.post < stop:
                    return
                skipped += entry.post < floor
                if entry.post < floor and skipped % limits.PULL_SKIPPED_MAX:
                    continue  # each so many becomes a key, which shows nothing: pages go on
            yield key

    def _newer(
        self, reader: int, followed: _Followed, above: bytes, top: int
    ) -> Iterator[bytes]:
        """Keys in front of `above`, oldest first, of posts in the interval's range of ids."""
        author, start, low, high = followed
        bottom = max(low, parse_inbox_key(above)[1] if above else 0)
        top = min(top, high)
        floor = -1
        skipped = 0
        entries = self._outbox_newer(author, bottom, top)
        while (entry := next(entries, None)) is not None:
            key = inbox_key(reader, entry.post, author)
            if above and key >= above:
                continue
            if entry.offset < start:
                if floor < 0:
                    floor = self._floor(reader, author)
                    first = oldest_in_order(floor) if floor != FLOOR_NONE else 0
                    if entry.post < first:  # nothing below can show: go on there
                        entries = self._outbox_newer(author, first, top)
                        continue
                skipped += entry.post < floor
                if entry.post < floor and skipped % limits.PULL_SKIPPED_MAX:
                    continue
            yield key

    def _floor(self, reader: int, author: int) -> int:
        """The floor of the reader's current follow."""
        toggles = self._store.toggles_between(reader, author)
        interval = fold_toggles((t.offset, t.follows, t.floor) for t in toggles)
        return FLOOR_NONE if interval is None else interval.floor

    def _head(self, author: int) -> _Head:
        posted = self._intervals.posted.get(author, 0)
        head = self._heads.get(author)
        if head is None or head.posted != posted:
            entries = self._store.outbox(author, b"", limits.PULL_HEAD_ENTRIES)
            head = _Head(posted, entries, len(entries) < limits.PULL_HEAD_ENTRIES)
            self._heads[author] = head
        return head

    def _outbox(self, author: int, top: int, bottom: int) -> Iterator[OutboxEntry]:
        """Entries with ids top..bottom, newest first, read in bounded scans."""
        head = self._head(author)
        for entry in head.entries:
            if entry.post < bottom:
                return
            if entry.post <= top:
                yield entry
        if head.whole:
            return
        place = outbox_key(author, min(top + 1, head.entries[-1].post))
        step = limits.PULL_CHUNK_ENTRIES
        while True:
            entries = self._store.outbox(author, place, step)
            for entry in entries:
                if entry.post < bottom:
                    return
                yield entry
            if len(entries) < step:
                return
            place = outbox_key(author, entries[-1].post)
            step = min(4 * step, limits.OUTBOX_SCAN_KEYS)

    def _outbox_newer(self, author: int, bottom: int, top: int) -> Iterator[OutboxEntry]:
        """Entries with ids bottom..top, oldest first."""
        head = self._head(author)
        if head.whole or head.entries[-1].post < bottom:
            yield from [e for e in reversed(head.entries) if bottom <= e.post <= top]
            return
        place = outbox_key(author, bottom - 1) if bottom else b""
        step = limits.PULL_CHUNK_ENTRIES
        while True:
            entries = self._store.outbox_newer(author, place, step)
            for entry in entries:
                if entry.post > top:
                    return
                yield entry
            if len(entries) < step:
                return
            place = outbox_key(author, entries[-1].post)
            step = min(4 * step, limits.OUTBOX_SCAN_KEYS)


def _last_id(raw: bytes, limit: int, none: int) -> int:
    """The post id that ends a slice of `limit` keys: what lies behind it is of no use; `none`, when
    the slice is not full."""
    full = len(raw) == limit * INBOX_KEY_BYTES
    return parse_inbox_key(raw[-INBOX_KEY_BYTES:])[1] if full else none


def _merged(raw: bytes, keys: list[bytes], limit: int, descending: bool) -> bytes:
    """The first `limit` of both, each key once. Each source has its own first `limit`, so none of
    the union's is missing."""
    stored = [raw[at : at + INBOX_KEY_BYTES] for at in range(0, len(raw), INBOX_KEY_BYTES)]
    return b"".join(sorted({*stored, *keys}, reverse=descending)[:limit])
