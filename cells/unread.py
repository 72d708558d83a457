"""How many posts a reader has not seen: visible ones above the marker, counted up to a bound.

With a marker the bound is UNREAD_MAX, and one post more is looked for, to tell whether there are
more. A reader without one never marks: then the bound is the usual page's size, which a first page
has looked at anyway, and who has so many is told that there may be more. Keys that show nothing (of
posts deleted, of authors unfollowed) are passed over, so the answer is a function of what is
visible, whatever the page's size and however often events came (I2, I5); except where
PAGE_SCAN_KEYS_MAX keys were looked at in vain: there the count ends, and says so (I12).

Any thread may ask; what was counted is kept until the next batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from cells.judge import Head, Judged
from engine import limits
from engine.keys import INBOX_KEY_BYTES


class UnreadCounts:
    """Counts, those of the last readers kept: a walk counts once, not on every page."""

    def __init__(
        self,
        older: Callable[[int, bytes, int], bytes],
        judge: Callable[[int, bytes, int], Judged],
    ) -> None:
        """`older(reader, before, limit)` reads inbox keys, `judge(reader, keys, asked)` them."""
        self._older = older
        self._judge = judge
        self._known: OrderedDict[int, tuple[int, int | None, tuple[int, bool]]] = OrderedDict()

    def of(
        self, reader: int, marker: int | None, looked: Head | None, version: int
    ) -> tuple[int, bool]:
        """(unread posts, whether there are more, or may be). `looked`: the inbox's head,
        when a page has looked at it; `version` changes with every batch."""
        known = self._known.get(reader)
        if known is not None and known[:2] == (version, marker):
            return known[2]
        seen = -1 if marker is None else marker
        bound = limits.PAGE_POSTS_DEFAULT if marker is None else limits.UNREAD_MAX
        enough = bound if marker is None else bound + 1
        head = looked() if looked is not None else None
        found, ended = (0, False) if head is None else (head.above(seen), head.reaches(seen))
        if found < enough and not ended:
            found, ended = self._count(reader, seen, enough)
        counted = min(found, bound), found >= enough or not ended
        self._known[reader] = (version, marker, counted)
        if len(self._known) > limits.RELATIONS_CACHE_READERS_MAX:
            self._known.popitem(last=False)
        return counted

    def _count(self, reader: int, seen: int, enough: int) -> tuple[int, bool]:
        """(visible posts above `seen`, up to some more than `enough`; whether these are all)."""
        found, looked, step, before = 0, 0, enough, b""
        while looked < limits.PAGE_SCAN_KEYS_MAX:
            keys = self._older(reader, before, step + 1)
            judged = self._judge(reader, keys, step)
            found += judged.above(seen)
            if judged.reaches(seen):
                return found, True
            if found >= enough:
                break
            looked += step + 1
            step = min(2 * step, limits.PAGE_SCAN_KEYS_MAX - looked)
            before = keys[-INBOX_KEY_BYTES:]
        return found, False
