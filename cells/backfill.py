"""Outboxes as a batch in the making sees them: what the store holds, and this batch's own posts and
deletes, which are not stored yet. Owned by the worker's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine import limits
from engine.keys import outbox_key, post_key
from engine.limits import BACKFILL_POSTS_MAX, OUTBOX_SCAN_KEYS
from engine.ports import OutboxEntry, Store


class OutboxHeads:
    """The newest entries of outboxes as the store has them, kept from batch to batch.

    Nobody but this worker writes the outboxes of its partitions, and it says so (`forget`). What is
    missing is asked for together with what the batch will need next.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heads: dict[int, list[OutboxEntry]] = {}
        self._entries = 0
        self._coming: Iterator[int] = iter(())

    def expect(self, authors: Iterable[int]) -> None:
        """Whose heads the batch will ask for, in this order."""
        self._coming = iter(authors)

    def of(self, author: int) -> list[OutboxEntry]:
        """At most BACKFILL_POSTS_MAX entries, newest id first."""
        head = self._heads.get(author)
        if head is None:
            self._load(author)
            head = self._heads[author]
        return head

    def _load(self, author: int) -> None:
        full = self._entries > limits.OUTBOX_HEADS_ENTRIES_MAX
        if full or len(self._heads) > limits.OUTBOX_HEADS_AUTHORS_MAX:
            self._heads.clear()
            self._entries = 0
        wanted = {author: None}  # in order, each once
        for other in self._coming:
            if other not in self._heads:
                wanted[other] = None
            if len(wanted) >= limits.OUTBOX_AHEAD_AUTHORS:
                break
        authors = list(wanted)
        heads = (
            [self._store.outbox(author, b"", BACKFILL_POSTS_MAX)]
            if len(authors) == 1
            else self._store.outboxes(authors, BACKFILL_POSTS_MAX)
        )
        self._heads.update(zip(authors, heads, strict=True))
        self._entries += sum(map(len, heads))

    def forget(self, author: int) -> None:
        """The author has posted or deleted, and the store has it."""
        head = self._heads.pop(author, None)
        if head is not None:
            self._entries -= len(head)


class BatchOutbox:
    """The outboxes of all authors at any point of one batch. Lives as long as the batch."""

    def __init__(self, store: Store, heads: OutboxHeads | None = None) -> None:
        self._store = store
        self._heads = OutboxHeads(store) if heads is None else heads
        self._posts: dict[int, dict[int, int]] = {}  # author -> post id -> lowest offset
        self._deletes: dict[bytes, int] = {}  # post key -> lowest offset

    def post(self, author: int, post: int, offset: int) -> None:
        """A post of this batch."""
        posts = self._posts.get(author)
        if posts is None:
            self._posts[author] = {post: offset}
        else:
            posts.setdefault(post, offset)

    def delete(self, key: bytes, offset: int) -> None:
        """A delete of this batch; `key` is the post's."""
        self._deletes.setdefault(key, offset)

    def entries(self, author: int) -> Iterator[OutboxEntry]:
        """Everything known of the author's outbox, newest id first, each id once."""
        own = self._own(author)
        stored = self._stored(author)
        entry = next(stored, None)
        for mine in own:
            while entry is not None and entry.post > mine.post:
                yield self._marked(author, entry)
                entry = next(stored, None)
            if entry is not None and entry.post == mine.post:
                lowest = min(entry.offset, mine.offset)  # of a repeated post the first counts
                yield self._marked(author, entry._replace(offset=lowest))
                entry = next(stored, None)
            else:
                yield self._marked(author, mine)
        while entry is not None:
            yield self._marked(author, entry)
            entry = next(stored, None)

    def _own(self, author: int) -> list[OutboxEntry]:
        """This batch's posts; a tombstone may lie in the store already (a delete came first)."""
        posts = self._posts.get(author)
        if not posts:
            return []
        ids = sorted(posts, reverse=True)
        rows = self._store.post_rows([post_key(post, author) for post in ids])
        return [
            OutboxEntry(post, posts[post], row.delete_offset if row is not None else -1)
            for post, row in zip(ids, rows, strict=True)
        ]

    def _stored(self, author: int) -> Iterator[OutboxEntry]:
        """The store's entries, read in bounded scans."""
        page = self._heads.of(author)
        limit = BACKFILL_POSTS_MAX
        while True:
            yield from page
            if len(page) < limit:
                return
            limit = OUTBOX_SCAN_KEYS
            page = self._store.outbox(author, outbox_key(author, page[-1].post), limit)

    def _marked(self, author: int, entry: OutboxEntry) -> OutboxEntry:
        """The entry with a delete of this batch, if that is the lowest."""
        if not self._deletes:
            return entry
        offset = self._deletes.get(post_key(entry.post, author), -1)
        if offset < 0 or 0 <= entry.delete_offset <= offset:
            return entry
        return entry._replace(delete_offset=offset)
