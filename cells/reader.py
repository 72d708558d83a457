"""Pages: what a reader sees, from a slice of inbox keys, in microseconds.

A page is: a slice of the reader's inbox -> posts and the *visible* rule (cells/judge.py) -> JSON.
Called on the event loop beside the fan-out thread, or by several threads (`remote`); holds no lock.
Raises WrongCell for readers of other cells.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import compress
from typing import Protocol

import numpy as np

from cells.graph import Graph
from cells.judge import Head, Judge, Judged
from cells.page_bytes import closed, encode, follow_page, joined, posts_page, user_cursor
from cells.pull import PulledInbox
from cells.relations import RelationsCache
from cells.unread import UnreadCounts
from engine import limits
from engine.errors import Conflict, Gone, NotFound, WrongCell
from engine.homing import HomeRange
from engine.keys import inbox_key, outbox_key, post_key
from engine.limits import U64_MAX
from engine.ports import Gap, Markers, PostCache, Shown, Store
from engine.timeline import (
    Cursor,
    fold_toggles,
    page_times,
    parse_cursor,
    settled_cursor,
)
from engine.times import format_ms
from engine.wire import post_json


class Progress(Protocol):
    """What a page tells about the cell's own state."""

    def version(self) -> int:
        """Changes with every batch: what was counted before may be different now."""

    def settled_ms(self) -> int:
        """Everything appended before this Unix ms is applied, less the margin."""

    def gaps(self) -> list[Gap]:
        """Spans that are not covered."""


class Reader:
    """All read routes of one cell."""

    def __init__(
        self,
        cell: str,
        home: HomeRange,
        store: Store,
        inbox: PulledInbox,
        graph: Graph,
        cache: PostCache,
        relations: RelationsCache,
        markers: Markers,
        progress: Progress,
        now_ms: Callable[[], int],
    ) -> None:
        self._cell = cell
        self._home = home
        self._store = store
        self._inbox = inbox
        self._graph = graph
        self._judge = Judge(store, graph, cache, relations)
        self._markers = markers
        self._progress = progress
        self._now_ms = now_ms
        self.remote = store.remote or cache.remote  # pages wait for a network
        self._cell_json = encode(cell)
        self._unread = UnreadCounts(inbox.older, self._judge.judge)

    # --- the dashboard ---

    def dashboard(
        self, reader: int, *, limit: int, cursor: str | None = None, newer: str | None = None
    ) -> bytes:
        """A page as JSON bytes (engine.wire.DashboardPage)."""
        self._check_home(reader)
        marker = self._markers.get(reader)
        seen = -1 if marker is None else marker  # posts up to here
        version = self._progress.version()  # before the first look at the inbox
        if newer is not None:
            start = parse_cursor(newer, "newer")
            posts, following = self._page_newer(reader, start, limit)
            body: bytes | memoryview = joined(posts, seen)
            unread, capped = self._unread.of(reader, marker, None, version)
            top = None
        else:
            start_older = parse_cursor(cursor, "cursor") if cursor is not None else None
            body, following, head = self._page_older(reader, start_older, limit, seen)
            unread, capped = self._unread.of(reader, marker, head, version)
            top = start_older.post if start_older is not None else None
        oldest = following.post if following is not None else None
        # joined, not formatted: a page is some 8 KB, and each copy of it is felt
        page = [
            b'{"reader":"%d","cell":%b,"posts":[' % (reader, self._cell_json),
            body,
            b'],"next":"%b"' % str(following).encode() if following else b'],"next":null',
            b',"settled":"%b"' % str(settled_cursor(self._progress.settled_ms())).encode(),
            b',"marker":null' if marker is None else b',"marker":"%d"' % marker,
            b',"unread":%d,"unread_capped":%b' % (unread, b"true" if capped else b"false"),
            b',"gaps":%b}' % self._gaps(top, oldest if newer is None else None),
        ]
        return b"".join(page)

    def _page_older(
        self, reader: int, start: Cursor | None, limit: int, seen: int
    ) -> tuple[bytes | memoryview, Cursor | None, Head | None]:
        """(posts as JSON, cursor behind them or None at the end, the inbox's head if this looked at
        it)."""
        before = inbox_key(reader, start.post, start.author) if start is not None else b""
        raw = self._inbox.older(reader, before, limit + 1)
        composed = self._judge.compose(reader, raw, limit, seen)
        if composed is not None:
            return composed if start is None else (*composed[:2], None)
        posts: list[tuple[int, Shown]] = []
        head: Head | None = None
        looked = 0
        while True:
            judged = self._judge.judge(reader, raw, limit)
            if start is None and head is None:
                head = partial(Judged, *judged)
            count = len(judged.posts)
            taken = list(compress(range(min(count, limit)), judged.visible))[: limit - len(posts)]
            posts += [(judged.posts[index], judged.shown[index]) for index in taken]
            if len(posts) == limit:
                last = taken[-1]
                place = Cursor(judged.posts[last], judged.authors[last])
                return joined(posts, seen), None if last + 1 == count else place, head
            if count <= limit:
                return joined(posts, seen), None, head
            looked += limit
            place = Cursor(judged.posts[limit - 1], judged.authors[limit - 1])
            if looked >= limits.PAGE_SCAN_KEYS_MAX:
                return joined(posts, seen), place, head
            before = inbox_key(reader, place.post, place.author)
            raw = self._inbox.older(reader, before, limit + 1)

    def _page_newer(
        self, reader: int, start: Cursor, limit: int
    ) -> tuple[list[tuple[int, Shown]], Cursor | None]:
        """Upwards from `start`: the nearest posts, newest first, and the cursor to go on with."""
        above = inbox_key(reader, start.post, start.author)
        posts: list[tuple[int, Shown]] = []
        place: Cursor | None = None
        looked = 0
        while True:
            raw = self._inbox.newer(reader, above, limit + 1)
            judged = self._judge.judge(reader, raw, limit)
            count = len(judged.posts)
            for index in range(min(count, limit)):
                place = Cursor(judged.posts[index], judged.authors[index])
                if judged.visible[index]:
                    posts.append((judged.posts[index], judged.shown[index]))
                    if len(posts) == limit:
                        return posts[::-1], None if index + 1 == count else place
            if count <= limit or place is None:
                return posts[::-1], None
            looked += limit
            if looked >= limits.PAGE_SCAN_KEYS_MAX:
                return posts[::-1], place
            above = inbox_key(reader, place.post, place.author)

    def _gaps(self, newest: int | None, oldest: int | None) -> bytes:
        """The gaps that overlap a page's span of time."""
        gaps = self._progress.gaps()
        if not gaps:
            return b"[]"
        start, end = page_times(newest, oldest, self._now_ms())
        touching = [gap for gap in gaps if gap.to_ms >= start and gap.from_ms <= end]
        return encode(
            [
                {"from": format_ms(gap.from_ms), "to": format_ms(gap.to_ms), "cause": gap.cause}
                for gap in touching[-limits.GAPS_IN_PAGE_MAX :]
            ]
        )

    # --- an author's posts, single posts ---

    def posts(self, author: int, *, limit: int, cursor: str | None = None) -> bytes:
        """The author's own posts, newest first (engine.wire.PostsPage). Any cell has them."""
        before = b""
        if cursor is not None:
            before = outbox_key(author, parse_cursor(cursor, "cursor").post)
        fragments: list[bytes] = []
        looked = 0
        while True:
            entries = self._store.outbox(author, before, limit + 1)
            shown = self._judge.shown([post_key(entry.post, author) for entry in entries[:limit]])
            for index, post in enumerate(shown):
                if post.offset < 0:
                    continue
                fragments.append(closed(post))
                if len(fragments) == limit:
                    at_end = index + 1 == len(entries)
                    return posts_page(fragments, None if at_end else entries[index].post, author)
            if len(entries) <= limit:
                return posts_page(fragments, None, author)
            looked += limit
            if looked >= limits.PAGE_SCAN_KEYS_MAX:
                return posts_page(fragments, entries[limit - 1].post, author)
            before = outbox_key(author, entries[limit - 1].post)

    def post(self, post: int, author: int | None = None) -> bytes:
        """One post as JSON. NotFound, Gone, or Conflict when several authors share the id."""
        if author is not None:
            row = self._store.post_rows([post_key(post, author)])[0]
            rows = [(author, row)] if row is not None else []
        else:
            rows = list(self._store.posts_with_id(post, limits.PAGE_POSTS_MAX))
        posted = [(who, row) for who, row in rows if row.offset >= 0]
        living = [(who, row) for who, row in posted if row.delete_offset < 0]
        if len(living) > 1:
            authors = [str(who) for who, _ in living]
            raise Conflict(f"post {post} exists of several authors: name one", authors=authors)
        if living:
            return post_json(living[0][1])
        if posted:
            raise Gone(f"post {post} was deleted")
        raise NotFound(f"there is no post {post}" + (f" of {author}" if author else ""))

    # --- follows ---

    def following(self, user: int, *, limit: int, cursor: str | None = None) -> bytes:
        """Whom `user` follows, ascending (engine.wire.FollowPage)."""
        self._check_home(user)
        start = 0 if cursor is None else user_cursor(cursor) + 1
        authors: list[int] = []
        while len(authors) <= limit and start <= U64_MAX:
            toggles = self._store.toggles_of(user, start, limits.FOLLOWERS_PAGE_MAX)
            by_author: dict[int, list[tuple[int, bool, int]]] = {}
            for toggle in toggles:
                fact = (toggle.offset, toggle.follows, toggle.floor)
                by_author.setdefault(toggle.author, []).append(fact)
            complete = len(toggles) < limits.FOLLOWERS_PAGE_MAX
            if not complete and len(by_author) > 1:
                by_author.popitem()  # its toggles may go on behind this scan
            elif not complete:
                author = toggles[0].author
                every = self._store.toggles_between(user, author)
                by_author[author] = [(t.offset, t.follows, t.floor) for t in every]
            authors += [who for who, facts in by_author.items() if fold_toggles(facts)]
            if complete:
                break
            start = max(by_author) + 1
        return follow_page(authors, limit)

    def followers(self, user: int, *, limit: int, cursor: str | None = None) -> bytes:
        """Who of this cell follows `user`, ascending (engine.wire.FollowPage)."""
        after = -1 if cursor is None else user_cursor(cursor)
        return follow_page(self._graph.followers(user, after, limit + 1), limit)

    # --- markers, raw keys ---

    def set_marker(self, reader: int, post: int) -> bytes:
        """Move the marker forward; the one in force as JSON. Durable on return, so call it in a
        thread."""
        self._check_home(reader)
        return b'{"reader":"%d","marker":"%d"}' % (reader, self._markers.advance(reader, post))

    def inbox_page(self, reader: int, cursor: str | None, limit: int) -> bytes:
        """Raw inbox keys as [post, author], for checkers: what is stored, visible or not."""
        self._check_home(reader)
        place = parse_cursor(cursor, "cursor") if cursor is not None else None
        before = inbox_key(reader, place.post, place.author) if place is not None else b""
        raw = self._store.inbox_older(reader, before, limit)
        words = np.frombuffer(raw, dtype=">u8").reshape(-1, 3).astype(np.uint64)
        pairs = [[str(post), str(who)] for post, who in zip(~words[:, 1], words[:, 2], strict=True)]
        following = str(Cursor(*map(int, pairs[-1]))) if len(pairs) == limit else None
        return encode({"keys": pairs, "next": following})

    def _check_home(self, user: int) -> None:
        if user not in self._home:
            raise WrongCell(f"user {user} is not at home in cell {self._cell}: ask the directory")
