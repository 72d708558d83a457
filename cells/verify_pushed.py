"""Which posts must have inbox keys, by the recorded decisions: verify's and the audit's predicate.

What an author interval leaves out is merged into pages at read, so its keys may be absent; keys
that are there all the same are legal. Pure over what was recorded; safe from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from cells.verify_rule import Bools, PostsOf, Pushed
from engine.ids import EPOCH_MS
from engine.keys import post_key
from engine.limits import PULL_LATE_MS_MAX
from engine.ports import AuthorInterval, Store


def pushed_by(
    intervals: Callable[[], Iterable[AuthorInterval]], store: Store
) -> Pushed:
    """The predicate for these intervals, as they are at each call. Where `times_ms` is 0 (outboxes
    have none) the post's row tells."""

    def pushed(posts: PostsOf) -> Bools:
        by_author: dict[int, list[AuthorInterval]] = {}
        for interval in intervals():
            by_author.setdefault(interval.author, []).append(interval)
        verdicts = np.ones(len(posts.posts), dtype=np.bool_)
        if not by_author:
            return verdicts
        for author in set(by_author).intersection(np.unique(posts.authors).tolist()):
            mine = np.flatnonzero(posts.authors == np.uint64(author))
            verdicts[mine] = ~_left_out(by_author[author], posts.take(mine), store)
        return verdicts

    return pushed


def _left_out(intervals: list[AuthorInterval], posts: PostsOf, store: Store) -> Bools:
    """Which of one author's posts lie inside of an interval and are not late."""
    times_ms = posts.times_ms
    if not times_ms.all():
        pairs = zip(posts.posts.tolist(), posts.authors.tolist(), strict=True)
        keys = [post_key(post, author) for post, author in pairs]
        rows = store.post_rows(keys)
        times_ms = np.array([0 if row is None else row.time_ms for row in rows], dtype=np.int64)
    made_ms = (posts.posts >> np.uint64(22)).astype(np.int64) + EPOCH_MS
    inside = np.zeros(len(posts.posts), dtype=np.bool_)
    for interval in intervals:
        ended = (posts.offsets >= interval.to_offset) if interval.to_offset >= 0 else False
        inside |= (posts.offsets >= interval.from_offset) & ~np.asarray(ended)
    left_out: Bools = inside & (made_ms >= times_ms - PULL_LATE_MS_MAX)
    return left_out
