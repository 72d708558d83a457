"""What a reader's inbox must hold, said a second time: for verify, digests and the audit.

On purpose nothing of the fan-out, of the pages' rule or of backfills is used here: this file reads
posts and follow toggles, and nothing else, so a fault of theirs cannot hide itself. Pure functions
over arrays; safe from any thread.

Post X of author A belongs to reader R iff R follows A now, from offset `start` on with the
backfill's `floor`, and X.offset >= start or X.id >= floor, and X is not deleted; one's own posts
always do. Keys beyond that are legal where R ever followed A (they never show); a key of an author
whom R never followed, or of a post that nobody made, is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.ids import id_ms
from engine.limits import BACKFILL_AGE_MS_MAX, BACKFILL_POSTS_MAX, FLOOR_NONE
from engine.ports import Toggle

U64s = npt.NDArray[np.uint64]
I64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class PostsOf(NamedTuple):
    """Rows of one or many authors, parallel arrays. Offset -1: edited or deleted, never posted;
    delete -1: not deleted."""

    authors: U64s
    posts: U64s
    offsets: I64s
    deletes: I64s
    times_ms: I64s

    def take(self, which: Bools | I64s) -> PostsOf:
        """Some of them."""
        return PostsOf(
            self.authors[which],
            self.posts[which],
            self.offsets[which],
            self.deletes[which],
            self.times_ms[which],
        )


Pushed = Callable[[PostsOf], Bools]
"""Which posts are pushed into inboxes: what is not may be absent there (author intervals)."""


def all_pushed(posts: PostsOf) -> Bools:
    """All posts are pushed."""
    return np.ones(len(posts.posts), dtype=np.bool_)


def no_posts() -> PostsOf:
    """None at all."""
    none = np.empty(0, dtype=np.int64)
    return PostsOf(none.astype(np.uint64), none.astype(np.uint64), none, none, none)


def joined(parts: Sequence[PostsOf]) -> PostsOf:
    """Many in one."""
    if not parts:
        return no_posts()
    return PostsOf(
        np.concatenate([part.authors for part in parts]),
        np.concatenate([part.posts for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.deletes for part in parts]),
        np.concatenate([part.times_ms for part in parts]),
    )


class Follow(NamedTuple):
    """One author that a reader follows now."""

    author: int
    start: int
    floor: int


def follows_now(toggles: Iterable[Toggle]) -> tuple[list[Follow], set[int]]:
    """(whom a reader follows now, whom the reader ever followed) from toggles in any order."""
    latest: dict[int, Follow | None] = {}
    for toggle in sorted(toggles, key=lambda each: (each.author, each.offset)):
        if not toggle.follows:
            latest[toggle.author] = None
        elif latest.get(toggle.author) is None:
            latest[toggle.author] = Follow(toggle.author, toggle.offset, toggle.floor)
    return [follow for follow in latest.values() if follow is not None], set(latest)


def opening(toggles: Sequence[Toggle]) -> list[Toggle]:
    """Those toggles of one author, by offset, that opened an interval: only they have a floor."""
    found, following = [], False
    for toggle in toggles:
        if toggle.follows and not following:
            found.append(toggle)
        following = toggle.follows
    return found


def belongs(posts: PostsOf, start: int, floor: int) -> Bools:
    """Which of one author's posts the follow shows."""
    there = (posts.offsets >= 0) & (posts.deletes < 0)
    covered = (posts.offsets >= start) | (posts.posts >= np.uint64(floor))
    wanted: Bools = there & covered
    return wanted


def floor_of(posts: PostsOf, offset: int, time_ms: int) -> int:
    """The oldest post that a follow at this place copied: of those from before it, not deleted at
    it and not too old, the highest ids. FLOOR_NONE: it copied nothing."""
    before = (posts.offsets >= 0) & (posts.offsets < offset)
    alive = (posts.deletes < 0) | (posts.deletes >= offset)
    ids = np.sort(posts.posts[before & alive])[-BACKFILL_POSTS_MAX:]
    oldest_ms = time_ms - BACKFILL_AGE_MS_MAX
    recent = [post for post in ids.tolist() if id_ms(post) >= oldest_ms]
    return int(min(recent, default=FLOOR_NONE))


def in_both(
    authors: U64s, posts: U64s, other_authors: U64s, other_posts: U64s
) -> tuple[I64s, I64s]:
    """(indexes into the first, into the second) of pairs that are in both; each pair once in
    either."""
    count = len(posts)
    tags = np.zeros(count + len(other_posts), dtype=np.int8)
    tags[count:] = 1
    all_authors = np.concatenate([authors, other_authors])
    all_posts = np.concatenate([posts, other_posts])
    order = np.lexsort((tags, all_posts, all_authors))
    sorted_authors, sorted_posts = all_authors[order], all_posts[order]
    same = (sorted_authors[1:] == sorted_authors[:-1]) & (sorted_posts[1:] == sorted_posts[:-1])
    at = np.flatnonzero(same)
    return order[at], order[at + 1] - count


class Judgement(NamedTuple):
    """One reader's inbox, judged. Pairs are (authors, posts)."""

    missing: PostsOf
    extra: tuple[U64s, U64s]
    dangling: tuple[U64s, U64s]
    shown: tuple[U64s, U64s]  # what pages show, blocks and mutes aside; in the inbox's order


RowsOf = Callable[[U64s, U64s], I64s]
"""(authors, posts) -> offset of each post's row; -1: never posted, -2: there is no row."""
NO_ROW = -2


def judge(
    reader: int,
    toggles: Sequence[Toggle],
    key_authors: U64s,
    key_posts: U64s,
    posts_of: Callable[[int], PostsOf],
    rows_of: RowsOf,
    pushed: Pushed,
) -> Judgement:
    """Compare a reader's keys, in their order, with what posts and toggles say."""
    follows, ever = follows_now(toggles)
    parts = []
    for author, start, floor in [*follows, Follow(reader, 0, 0)]:
        posts = posts_of(author)
        if len(posts.posts):
            parts.append(posts.take(belongs(posts, start, floor)))
    wanted = joined(parts)
    in_wanted, in_keys = in_both(wanted.authors, wanted.posts, key_authors, key_posts)
    absent = np.ones(len(wanted.posts), dtype=np.bool_)
    absent[in_wanted] = False
    left = wanted.take(absent)
    must = pushed(left) if len(left.posts) else np.empty(0, dtype=np.bool_)
    other = np.ones(len(key_posts), dtype=np.bool_)
    other[in_keys] = False
    others = np.flatnonzero(other)
    offsets = rows_of(key_authors[others], key_posts[others])
    known = np.array([a == reader or a in ever for a in key_authors[others].tolist()], dtype=bool)
    dangling = others[offsets == NO_ROW]
    extra = others[(offsets == -1) | ((offsets >= 0) & ~known)]
    pulled = left.take(~must)
    shown = _in_order(
        np.concatenate([wanted.authors[~absent], pulled.authors]),
        np.concatenate([wanted.posts[~absent], pulled.posts]),
    )
    return Judgement(
        left.take(must),
        (key_authors[extra], key_posts[extra]),
        (key_authors[dangling], key_posts[dangling]),
        shown,
    )


def _in_order(authors: U64s, posts: U64s) -> tuple[U64s, U64s]:
    order = np.lexsort((authors, ~posts))
    return authors[order], posts[order]
