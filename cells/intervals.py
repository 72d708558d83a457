"""Which authors are pulled here: the recorded intervals in memory, and new ones decided.

The rules are engine/materialize.py's. One thread plans and records (the worker's); any thread looks
(`pulled`, `explain`): what it sees is replaced whole, after it is durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine import materialize
from engine.limits import PULL_LATE_MS_MAX, PULLED_AUTHORS_MAX
from engine.materialize import OPEN, PushPolicy
from engine.ports import AuthorInterval, Decisions
from engine.times import format_ms

U64s = npt.NDArray[np.uint64]


class Pulled(NamedTuple):
    """Authors with an interval, open or closed, and the post ids it may have left out: parallel
    u64 arrays; lows and highs are inclusive."""

    authors: U64s
    lows: U64s
    highs: U64s


class AuthorIntervals:
    """The recorded intervals of a cell."""

    def __init__(self, decisions: Decisions, policy: PushPolicy) -> None:
        self.policy = policy
        self.push_followers_max = policy.push_followers_max
        self.saved_keys = 0  # inbox writes that were left out since the start
        self.pulled: Pulled | None = None  # None: nobody, so pages need not look
        self.posted: dict[int, int] = {}  # author -> changes with every post that is durable
        self._decisions = decisions
        self._saved_of: dict[int, int] = {}
        self._by_author: dict[int, list[AuthorInterval]] = {}
        self._undurable: list[AuthorInterval] = []
        self.refresh()

    def __contains__(self, author: int) -> bool:
        """Whether anything was ever decided about an author."""
        return author in self._by_author

    # --- the worker ---

    def refresh(self) -> None:
        """Read the record: at the start, and what other workers of the cell have decided."""
        by_author: dict[int, list[AuthorInterval]] = {}
        for interval in self._decisions.intervals():
            by_author.setdefault(interval.author, []).append(interval)
        self._by_author = by_author
        self._publish()

    def leaves_out(
        self, author: int, place: tuple[int, int, int], followers: int, decides: bool
    ) -> bool:
        """Whether the post at `place` (id, offset, append time ms) is not pushed.

        `decides`: `followers` is their number at this very position. Then, where nothing is
        recorded so far, it is decided here; `make_durable` must come before the batch is.
        """
        post, offset, time_ms = place
        intervals = self._by_author.get(author, [])
        if decides and offset > materialize.decided_to(intervals):
            intervals = self._decide(author, intervals, offset, time_ms, followers)
        if not materialize.leaves_out(intervals, post, offset, time_ms):
            return False
        self.saved_keys += followers
        self._saved_of[author] = self._saved_of.get(author, 0) + followers
        return True

    def _decide(
        self,
        author: int,
        intervals: list[AuthorInterval],
        offset: int,
        time_ms: int,
        followers: int,
    ) -> list[AuthorInterval]:
        was = bool(intervals) and intervals[-1].to_offset == OPEN
        if self.policy.pulls(was, followers) == was:
            return intervals
        if was:
            last = materialize.closed(intervals[-1], offset, time_ms, followers)
            intervals = [*intervals[:-1], last]
        elif author in self._by_author or len(self._by_author) < PULLED_AUTHORS_MAX:
            last = materialize.opened(author, offset, time_ms, followers, self.policy)
            intervals = [*intervals, last]
        else:
            return intervals
        self._by_author[author] = intervals
        self._undurable.append(last)
        return intervals

    def take_decided(self) -> list[AuthorInterval]:
        """What was decided since the last call: of the batch that is planned now."""
        taken, self._undurable = self._undurable, []
        return taken

    def make_durable(self, intervals: Sequence[AuthorInterval]) -> None:
        """Record decisions, then let pages see them: before anything that rests on them is
        written (I1, I3). May be called again with the same."""
        if intervals:
            self._decisions.record(intervals)
            self._publish()

    def note_posts(self, authors: Sequence[int]) -> None:
        """After posts of `authors` are durable: what was kept of their outboxes is old."""
        if self._by_author:
            for author in self._by_author.keys() & set(authors):
                self.posted[author] = self.posted.get(author, 0) + 1

    def _publish(self) -> None:
        authors = sorted(self._by_author)
        ranges = [materialize.id_range(self._by_author[author]) for author in authors]
        lows, highs = [low for low, _ in ranges], [high for _, high in ranges]
        arrays = (np.array(each, dtype=np.uint64) for each in (authors, lows, highs))
        self.pulled = Pulled(*arrays) if authors else None

    # --- looking in ---

    def open_count(self) -> int:
        """How many authors are pulled now."""
        return sum(each[-1].to_offset == OPEN for each in list(self._by_author.values()))

    def explain(self, author: int, followers: int) -> dict[str, Any]:
        """What is decided about an author with so many followers here, and why; JSON-ready."""
        intervals = self._by_author.get(author, [])
        pulled = bool(intervals) and intervals[-1].to_offset == OPEN
        return {
            "author": str(author),
            "followers": followers,
            "push_followers_max": self.push_followers_max,
            "now": "pulled" if pulled else "pushed",
            "why": self._why(intervals, pulled, followers),
            "intervals": [_shown(interval) for interval in intervals],
            "saved_inbox_writes": self._saved_of.get(author, 0),
            "saved_per_post": followers if pulled else 0,
        }

    def _why(self, intervals: list[AuthorInterval], pulled: bool, followers: int) -> str:
        most = self.push_followers_max
        if pulled:
            why = f"had {intervals[-1].from_followers:,} followers here, above {most:,}"
            if intervals[-1].push_followers_max != most:
                why += f" (the setting was {intervals[-1].push_followers_max:,} then)"
            if not self.policy.pulls(True, followers):
                return why + "; has few enough now: the next post ends it"
            return why + f"; posts older than {PULL_LATE_MS_MAX // 1_000} s are pushed all the same"
        if self.policy.pulls(False, followers):
            full = not intervals and len(self._by_author) >= PULLED_AUTHORS_MAX
            if full:
                return f"{PULLED_AUTHORS_MAX:,} authors are pulled here already: no more are"
            return f"has more than {most:,} followers here: the next post begins it"
        if intervals:
            return f"was pulled until {intervals[-1].to_followers:,} followers were left"
        return f"has no more than {most:,} followers here"


def _shown(interval: AuthorInterval) -> dict[str, Any]:
    """An interval for people: positions are offsets of the author's partition."""
    is_open = interval.to_offset == OPEN
    return {
        "from_offset": interval.from_offset,
        "from": format_ms(interval.from_ms),
        "from_followers": interval.from_followers,
        "push_followers_max": interval.push_followers_max,
        "to_offset": None if is_open else interval.to_offset,
        "to": None if is_open else format_ms(interval.to_ms),
        "to_followers": None if is_open else interval.to_followers,
    }
