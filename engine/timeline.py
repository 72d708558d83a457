"""The *visible* rule, the one definition of what a dashboard shows (DESIGN 2), and its cursors.

Reader R sees post X of author A iff
- R follows A now, with the current interval (from, floor), and X.offset >= from or X.id >= floor
  (everybody follows themselves, from the beginning), and
- X is not deleted, A is not blocked or muted by R, and R is not blocked by A.

The rule is checked on the resolved post, however its key came to be (I5), so a stale key never
shows. `bench/oracle.py` and `verify` have it a second time, on purpose: keep them apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.errors import BadInput
from engine.ids import id_at, id_ms
from engine.limits import (
    BACKFILL_AGE_MS_MAX,
    BACKFILL_POSTS_MAX,
    CURSOR_CHARACTERS_MAX,
    FLOOR_NONE,
    POST_ID_MAX,
    U64_MAX,
)
from engine.ports import OutboxEntry


class Interval(NamedTuple):
    """A span of following that is open now: offset of its follow, oldest id its backfill copied."""

    start: int
    floor: int


def fold_toggles(
    toggles: Iterable[tuple[int, bool, int]], below: int | None = None
) -> Interval | None:
    """The interval open after all (offset, follows, floor), ascending by offset; None when closed.

    A repeated follow opens nothing. `below`: only toggles at offsets below it count.
    """
    interval: Interval | None = None
    for offset, follows, floor in toggles:
        if below is not None and offset >= below:
            break
        if not follows:
            interval = None
        elif interval is None:
            interval = Interval(offset, floor)
    return interval


def covers(interval: Interval, post_offset: int, post: int) -> bool:
    """Whether an interval shows a post: it came after the follow, or the backfill reached it."""
    return post_offset >= interval.start or post >= interval.floor


def backfill(
    entries: Iterable[OutboxEntry], follow_offset: int, follow_time_ms: int
) -> tuple[list[int], int]:
    """(post ids to copy, floor) of a follow: entries of the author's outbox, newest id first.

    Of those with an offset below the follow's and not deleted at it, the 100 highest ids, none
    older than the follow's root time less 30 days. Entries may lie beyond the follow (a replay).
    """
    oldest = id_at(follow_time_ms - BACKFILL_AGE_MS_MAX)
    copied: list[int] = []
    for entry in entries:
        if entry.post < oldest:
            break
        deleted = 0 <= entry.delete_offset < follow_offset
        if 0 <= entry.offset < follow_offset and not deleted:
            copied.append(entry.post)
            if len(copied) == BACKFILL_POSTS_MAX:
                break  # here, not at the next entry: that one may cost a scan of the store
    return copied, copied[-1] if copied else FLOOR_NONE


class Cursor(NamedTuple):
    """A place between two keys of a page's order (id descending, author ascending).

    It only filters, so a forged one shows nothing that its bearer may not see.
    """

    post: int
    author: int

    def __str__(self) -> str:
        return f"v1-{self.post}-{self.author}"


def parse_cursor(text: str, field: str) -> Cursor:
    """The inverse of `str(cursor)`; BadInput names `field`."""
    parts = text.split("-") if len(text) <= CURSOR_CHARACTERS_MAX and text.isascii() else []
    if len(parts) == 3 and parts[0] == "v1" and parts[1].isdigit() and parts[2].isdigit():
        post, author = int(parts[1]), int(parts[2])
        if post <= POST_ID_MAX and author <= U64_MAX:
            return Cursor(post, author)
    raise BadInput(f"{field}: no cursor of ours: take `next` or `settled` of a page", field)


def settled_cursor(settled_ms: int) -> Cursor:
    """`newer=` this gives everything whose id is of `settled_ms` or later."""
    first = id_at(settled_ms)
    return Cursor(first - 1, 0) if first else Cursor(0, U64_MAX)  # behind id 0, too


def page_times(newest: int | None, oldest: int | None, now_ms: int) -> tuple[int, int]:
    """(from, to) in Unix ms that a page speaks for: between two ids; None means no end there."""
    start = 0 if oldest is None else id_ms(oldest)
    return start, now_ms if newest is None else id_ms(newest)
