"""The tables of a cell as verify walks through them: posts by author, outboxes, follow toggles.

Each walk is told how far it is, so a person sees it, and may end it by raising. What a walk meets
goes to the digest, if one is made, in the order of the keys (cells/digest.py). One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from itertools import pairwise

import numpy as np

from cells.digest import Digest
from cells.verify_rule import NO_ROW, I64s, PostsOf, U64s, in_both, no_posts
from engine.keys import (
    INBOX_KEY_BYTES,
    following_key,
    outbox_key,
    parse_inbox_keys,
    parse_post_key,
    post_key,
    relation_key,
)
from engine.limits import U64_MAX, VERIFY_SCAN_ROWS
from engine.ports import Store, Toggle

Tell = Callable[[str, int], None]  # (what is walked through, rows so far)
Found = Callable[[str, str], None]  # (kind, text)


class PostTable:
    """Every row of the posts table, or of some authors', by author and newest id first."""

    def __init__(self, store: Store, authors: Set[int] | None, tell: Tell, digest: Digest) -> None:
        self._store = store
        self.rows = _sorted(_read_posts(store, authors, tell, digest))
        self.authors, starts = np.unique(self.rows.authors, return_index=True)
        self._bounds = np.append(starts, len(self.rows.authors))
        self._whole = authors is None
        self._at = {author: place for place, author in enumerate(self.authors.tolist())}

    def of(self, author: int) -> PostsOf:
        """One author's rows."""
        place = self._at.get(author)
        if place is None:
            return no_posts()
        rows, span = self.rows, slice(self._bounds[place], self._bounds[place + 1])
        return PostsOf(
            rows.authors[span],
            rows.posts[span],
            rows.offsets[span],
            rows.deletes[span],
            rows.times_ms[span],
        )

    def offsets_of(self, authors: U64s, posts: U64s) -> I64s:
        """Per (author, post) its offset; -1: never posted, NO_ROW: there is no row."""
        found = np.full(len(posts), NO_ROW, dtype=np.int64)
        for index, (author, post) in enumerate(zip(authors.tolist(), posts.tolist(), strict=True)):
            rows = self.of(author)
            upwards = rows.posts[::-1]
            at = int(np.searchsorted(upwards, np.uint64(post)))
            if at < len(upwards) and int(upwards[at]) == post:
                found[index] = rows.offsets[len(upwards) - 1 - at]
            elif not self._whole:
                row = self._store.post_rows([post_key(post, author)])[0]
                found[index] = NO_ROW if row is None else row.offset
        return found


def _read_posts(
    store: Store, authors: Set[int] | None, tell: Tell, digest: Digest
) -> list[tuple[int, int, int, int, int]]:
    found: list[tuple[int, int, int, int, int]] = []
    start, seen = b"", 0
    while rows := store.posts_from(start, VERIFY_SCAN_ROWS):
        for key, row in rows:
            digest.post(key, row)
            post, author = parse_post_key(key)
            if authors is None or author in authors:
                found.append((author, post, row.offset, row.delete_offset, row.time_ms))
        seen += len(rows)
        tell("posts", seen)
        start = rows[-1][0] + b"\x00"
    return found


def _sorted(found: Sequence[tuple[int, int, int, int, int]]) -> PostsOf:
    if not found:
        return no_posts()
    authors, posts, offsets, deletes, times_ms = zip(*found, strict=True)
    columns = PostsOf(
        np.array(authors, dtype=np.uint64),
        np.array(posts, dtype=np.uint64),
        np.array(offsets, dtype=np.int64),
        np.array(deletes, dtype=np.int64),
        np.array(times_ms, dtype=np.int64),
    )
    return columns.take(np.lexsort((~columns.posts, columns.authors)))


def check_outboxes(
    store: Store, table: PostTable, authors: Set[int] | None, tell: Tell, found: Found,
    digest: Digest,
) -> int:
    """Every post has its outbox entry and the reverse, with the same offsets; entries looked at."""
    entries: list[tuple[int, int, int, int, int]] = []
    start, seen = b"", 0
    while rows := store.outboxes_from(start, VERIFY_SCAN_ROWS):
        for author, entry in rows:
            digest.outbox(author, entry)
            if authors is None or author in authors:
                entries.append((author, entry.post, entry.offset, entry.delete_offset, 0))
        seen += len(rows)
        tell("outboxes", seen)
        start = outbox_key(rows[-1][0], rows[-1][1].post) + b"\x00"
    outboxes = _sorted(entries)
    posts = table.rows.take(table.rows.offsets >= 0)
    in_posts, in_outboxes = in_both(
        posts.authors, posts.posts, outboxes.authors, outboxes.posts
    )
    for which, side, kind, text in (
        (in_posts, posts, "outbox missing", "has no outbox entry"),
        (in_outboxes, outboxes, "outbox dangling", "stands in an outbox, and is no post"),
    ):
        lonely = np.ones(len(side.posts), dtype=np.bool_)
        lonely[which] = False
        for author, post in zip(side.authors[lonely], side.posts[lonely], strict=True):
            found(kind, f"post {post} of {author} {text}")
    one, two = posts.take(in_posts), outboxes.take(in_outboxes)
    differs = (one.offsets != two.offsets) | (one.deletes != two.deletes)
    for author, post in zip(one.authors[differs], one.posts[differs], strict=True):
        found("outbox differs", f"the outbox entry of post {post} of {author} has other offsets")
    return seen


def inboxes(store: Store, tell: Tell, found: Found) -> Iterator[tuple[int, U64s, U64s]]:
    """(reader, authors, posts) of every inbox, ascending by reader; keys out of order are told."""
    start, last, seen = b"", b"", 0
    held: tuple[int, list[U64s], list[U64s]] | None = None
    while raw := store.inbox_from(start, VERIFY_SCAN_ROWS):
        _check_order(last, raw, found)
        readers, posts, authors = parse_inbox_keys(raw)
        cuts = np.flatnonzero(readers[1:] != readers[:-1]) + 1
        bounds = [0, *cuts.tolist(), len(readers)]
        for begin, end in pairwise(bounds):
            reader = int(readers[begin])
            if held is not None and held[0] != reader:
                yield held[0], np.concatenate(held[1]), np.concatenate(held[2])
                held = None
            if held is None:
                held = reader, [], []
            held[1].append(authors[begin:end])
            held[2].append(posts[begin:end])
        last = raw[-INBOX_KEY_BYTES:]
        seen += len(readers)
        tell("inbox keys", seen)
        if last <= start:
            break  # told already; a walk must end
        start = last + b"\x00"
    if held is not None:
        yield held[0], np.concatenate(held[1]), np.concatenate(held[2])


def inbox_of(store: Store, reader: int, found: Found) -> tuple[U64s, U64s]:
    """(authors, posts) of one inbox."""
    parts, before = [], b""
    while raw := store.inbox_older(reader, before, VERIFY_SCAN_ROWS):
        _check_order(before, raw, found)
        parts.append(raw)
        if raw[-INBOX_KEY_BYTES:] <= before:
            break
        before = raw[-INBOX_KEY_BYTES:]
    _, posts, authors = parse_inbox_keys(b"".join(parts))
    return authors, posts


def _check_order(last: bytes, raw: bytes, found: Found) -> None:
    words = np.frombuffer(last + raw, dtype=">u8").reshape(-1, 3)
    first, second = words[:-1], words[1:]
    less = np.zeros(len(first), dtype=np.bool_)
    equal = np.ones(len(first), dtype=np.bool_)
    for column in range(3):
        less |= equal & (first[:, column] < second[:, column])
        equal &= first[:, column] == second[:, column]
    for place in np.flatnonzero(~less).tolist():
        key = second[place].tobytes().hex()
        found("out of order", f"inbox key {key} does not follow the one in front of it")


def followings(store: Store, tell: Tell) -> Iterator[tuple[int, list[Toggle]]]:
    """(reader, toggles) of everybody who ever followed, ascending."""
    start, seen = b"", 0
    held: list[Toggle] = []
    holder = -1
    while rows := store.followings_from(start, VERIFY_SCAN_ROWS):
        for reader, toggle in rows:
            if reader != holder:
                if held:
                    yield holder, held
                holder, held = reader, []
            held.append(toggle)
        seen += len(rows)
        tell("follows", seen)
        start = following_key(rows[-1][0], rows[-1][1].author, rows[-1][1].offset) + b"\x00"
    if held:
        yield holder, held


def hidden(store: Store, tell: Tell) -> Iterator[tuple[int, set[int]]]:
    """(reader, whom they do not see) of everybody who ever blocked, muted or was blocked,
    ascending."""
    start, seen = b"", 0
    held: set[int] = set()
    holder = -1
    while rows := store.relations_from(start, VERIFY_SCAN_ROWS):
        for owner, _, other, on in rows:
            if owner != holder:
                if holder >= 0:
                    yield holder, held
                holder, held = owner, set()
            if on:
                held.add(other)
        seen += len(rows)
        tell("blocks and mutes", seen)
        start = relation_key(*rows[-1][:3]) + b"\x00"
    if holder >= 0:
        yield holder, held


def toggles_of(store: Store, reader: int) -> list[Toggle]:
    """All toggles of one reader, by author and offset."""
    found: list[Toggle] = []
    author = 0
    while True:
        rows = store.toggles_of(reader, author, VERIFY_SCAN_ROWS)
        if len(rows) < VERIFY_SCAN_ROWS:
            return found + rows
        last = rows[-1].author  # its toggles may go on behind this step
        found += [row for row in rows if row.author != last]
        found += store.toggles_between(reader, last)
        if last == U64_MAX:
            return found
        author = last + 1
