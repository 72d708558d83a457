"""The oracle: who must see what, straight from DESIGN section 2 (**Visible**), and nothing else.

It is a second implementation on purpose: it shares no code with the fan-out, the page or the
timeline, only the event records and what an id's time is. It keeps plain dicts and lists of facts
as they were posted, and works everything out from the definitions when it is asked, so the order
in which facts arrive, and how often, does not matter:

| fact | rule |
| --- | --- |
| post | of a repeated (author, id) the lowest offset counts, with its text |
| edit | the highest offset of an edit by the same author counts |
| delete | at any offset, before or after the post: deleted for ever |
| follow, unfollow | folded by offset; a follow while following opens nothing |
| block, mute | the highest offset counts |
| towards oneself | follow, block and mute have no effect |
| a post with an id over 60 s ahead of its append time | is not applied |

One thread. With `readers` it keeps the toggles and relations of those readers only (and the posts
of everybody, since a later follow copies from what lies there already).
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from engine import events, limits
from engine.errors import invariant
from engine.ids import id_ms

U64s = npt.NDArray[np.uint64]
Seen = tuple[int, int]
"""(post id, author): one line of a page."""

_FAR = limits.U64_MAX + 1  # behind every offset
_BLOCK, _MUTE = "block", "mute"
_RELATIONS = {
    events.BLOCK: (_BLOCK, True),
    events.UNBLOCK: (_BLOCK, False),
    events.MUTE: (_MUTE, True),
    events.UNMUTE: (_MUTE, False),
}


@dataclass
class Verdict:
    """What was wrong with one reader's pages; all empty and zero when nothing was."""

    reader: int
    posts: int  # that the reader must see
    missing: list[Seen] = field(default_factory=list)  # in page order
    extra: list[Seen] = field(default_factory=list)  # in page order
    duplicates: list[Seen] = field(default_factory=list)  # each repetition once
    disorder: int = 0  # neighbours in the wrong order; a repetition in place is no disorder

    @property
    def ok(self) -> bool:
        """Nothing was wrong."""
        return not (self.missing or self.extra or self.duplicates or self.disorder)


@dataclass
class Summary:
    """Verdicts over many readers, as numbers."""

    readers: int = 0
    posts: int = 0
    missing: int = 0
    extra: int = 0
    duplicates: int = 0
    out_of_order: int = 0

    def add(self, verdict: Verdict) -> None:
        """Count one more reader."""
        self.readers += 1
        self.posts += verdict.posts
        self.missing += len(verdict.missing)
        self.extra += len(verdict.extra)
        self.duplicates += len(verdict.duplicates)
        self.out_of_order += verdict.disorder

    @property
    def ok(self) -> bool:
        """Nothing was wrong with any of them."""
        return not (self.missing or self.extra or self.duplicates or self.out_of_order)


class _Author:
    """What one author posted and deleted."""

    __slots__ = ("deletes", "living", "order", "posts")

    def __init__(self) -> None:
        self.posts: dict[int, tuple[int, str]] = {}  # id -> (lowest offset, its text)
        self.deletes: dict[int, int] = {}  # id -> lowest offset of a delete
        # Both are worked out from the two above when asked for, and dropped when those change.
        self.living: list[tuple[int, int, Seen]] | None = None  # (id, offset, line), newest first
        self.order: list[tuple[int, int]] | None = None  # (offset, id), deleted ones too


class Oracle:
    """Fold the firehose, then ask. `readers`: the sampled ones; None: everybody."""

    def __init__(self, readers: set[int] | None = None) -> None:
        self.readers = readers
        self._authors: dict[int, _Author] = {}
        self._edits: dict[Seen, tuple[int, str]] = {}  # highest offset, its text
        # reader -> author -> (offset, append time ms, follows?), in any order, repeated or not
        self._toggles: dict[int, dict[int, list[tuple[int, int, bool]]]] = {}
        # (class, who, towards whom) -> (highest offset, on?)
        self._relations: dict[tuple[str, int, int], tuple[int, bool]] = {}

    # --- facts in -------------------------------------------------------------------------------

    def wants(self, event: events.Event) -> bool:
        """Whether `apply` would keep anything of it: lets a caller skip most of a big stream."""
        if isinstance(event, events.Reaction):
            return False
        if isinstance(event, events.Relation):
            if event.kind in (events.FOLLOW, events.UNFOLLOW):
                return self._sampled(event.reader)
            return self._sampled(event.reader) or self._sampled(event.author)
        return True

    def apply(self, partition: int, offset: int, time_ms: int, event: events.Event) -> None:
        """One event at its root position and root append time. Twice is the same as once.

        `partition` is not needed for any rule: whatever is compared by offset lies in one.
        """
        invariant(partition >= 0 and offset >= 0, f"position {partition}:{offset} is negative")
        if not self.wants(event):
            return
        if isinstance(event, events.Post):
            self._post(offset, time_ms, event)
        elif isinstance(event, events.Delete):
            author = self._author(event.author)
            author.deletes[event.post] = min(offset, author.deletes.get(event.post, _FAR))
            author.living = None
        elif isinstance(event, events.Edit):
            key = (event.post, event.author)
            self._edits[key] = max((offset, event.text), self._edits.get(key, (-1, "")))
        elif isinstance(event, events.Relation):
            self._relation(offset, time_ms, event)

    def follow_edges_bulk(
        self, readers: U64s, authors: U64s, offsets: U64s, times_ms: U64s
    ) -> None:
        """Many follows at once: four u64 arrays of one length (offset in the author's partition,
        root append time). Those of readers outside the sample are dropped without a loop."""
        if self.readers is not None:
            sample = np.fromiter(self.readers, dtype=np.uint64, count=len(self.readers))
            keep = np.isin(readers, sample)
            readers, authors = readers[keep], authors[keep]
            offsets, times_ms = offsets[keep], times_ms[keep]
        for reader, author, offset, time_ms in zip(
            readers.tolist(), authors.tolist(), offsets.tolist(), times_ms.tolist(), strict=True
        ):
            self._toggle(reader, author, offset, time_ms, True)

    def _sampled(self, user: int) -> bool:
        return self.readers is None or user in self.readers

    def _author(self, author: int) -> _Author:
        if author not in self._authors:
            self._authors[author] = _Author()
        return self._authors[author]

    def _post(self, offset: int, time_ms: int, post: events.Post) -> None:
        if id_ms(post.id) > time_ms + limits.ID_AHEAD_MS_MAX:
            return
        author = self._author(post.author)
        if post.id not in author.posts or offset < author.posts[post.id][0]:
            author.posts[post.id] = (offset, post.text)
            author.living = author.order = None

    def _relation(self, offset: int, time_ms: int, event: events.Relation) -> None:
        if event.kind in (events.FOLLOW, events.UNFOLLOW):
            follows = event.kind == events.FOLLOW
            self._toggle(event.reader, event.author, offset, time_ms, follows)
        else:
            relation, on = _RELATIONS[event.kind]
            key = (relation, event.reader, event.author)
            self._relations[key] = max((offset, on), self._relations.get(key, (-1, False)))

    def _toggle(self, reader: int, author: int, offset: int, time_ms: int, follows: bool) -> None:
        if reader != author:
            toggles = self._toggles.setdefault(reader, {})
            toggles.setdefault(author, []).append((offset, time_ms, follows))

    # --- the rule -------------------------------------------------------------------------------

    def visible(self, reader: int) -> list[Seen]:
        """All that `reader` must see, as (post id, author), in page order: id descending, then
        author ascending."""
        invariant(self._sampled(reader), f"reader {reader} is not in the oracle's sample")
        seen: list[Seen] = []
        # Authors ascending, then a stable sort by id: authors stay ascending within an id.
        for author in sorted({reader, *self._toggles.get(reader, ())}):
            if author == reader:
                seen += [line for _, _, line in self._living(author)]
                continue
            interval = self.interval(reader, author)
            if interval is None or self._hidden(reader, author):
                continue
            start, floor = interval
            seen += [
                line
                for post, offset, line in self._living(author)
                if offset >= start or post >= floor
            ]
        seen.sort(key=itemgetter(0), reverse=True)
        return seen

    def interval(self, reader: int, author: int) -> tuple[int, int] | None:
        """(from, floor) of the follow in force now; None: `reader` does not follow `author`."""
        opening: tuple[int, int] | None = None  # (offset, append time ms) of the opening follow
        for offset, time_ms, follows in sorted(self._toggles.get(reader, {}).get(author, ())):
            if not follows:
                opening = None
            elif opening is None:
                opening = (offset, time_ms)
        return None if opening is None else (opening[0], self.floor(author, *opening))

    def floor(self, author: int, at_offset: int, time_ms: int) -> int:
        """The oldest id that the backfill of a follow of `author` at `at_offset`, appended at
        `time_ms`, copies; FLOOR_NONE when it copies none."""
        if author not in self._authors:
            return limits.FLOOR_NONE
        state = self._authors[author]
        if state.order is None:
            state.order = sorted((offset, post) for post, (offset, _) in state.posts.items())
        before = state.order[: bisect_left(state.order, (at_offset, -1))]
        oldest_ms = time_ms - limits.BACKFILL_AGE_MS_MAX
        considered = [
            post
            for _, post in before
            if state.deletes.get(post, _FAR) >= at_offset and id_ms(post) >= oldest_ms
        ]
        copied = heapq.nlargest(limits.BACKFILL_POSTS_MAX, considered)
        return min(copied, default=limits.FLOOR_NONE)

    def text(self, post: int, author: int) -> str | None:
        """The text that a page shows; None when there is no such post, or no longer."""
        state = self._authors.get(author)
        if state is None or post not in state.posts or post in state.deletes:
            return None
        edited = self._edits.get((post, author))
        return state.posts[post][1] if edited is None else edited[1]

    def offset(self, post: int, author: int) -> int:
        """The offset at which the post counts as posted; -1 when there is no such post."""
        state = self._authors.get(author)
        return state.posts[post][0] if state is not None and post in state.posts else -1

    def following(self, reader: int) -> list[int]:
        """The authors that `reader` follows now, ascending."""
        authors = sorted(self._toggles.get(reader, ()))
        return [author for author in authors if self.interval(reader, author) is not None]

    def posts_of(self, author: int) -> list[Seen]:
        """The author's own posts that are not deleted, newest first."""
        return [line for _, _, line in self._living(author)]

    def _hidden(self, reader: int, author: int) -> bool:
        """`author` is blocked or muted by `reader`, or has blocked them."""
        keys = ((_BLOCK, reader, author), (_MUTE, reader, author), (_BLOCK, author, reader))
        return any(self._relations.get(key, (-1, False))[1] for key in keys)

    def _living(self, author: int) -> list[tuple[int, int, Seen]]:
        state = self._authors.get(author)
        if state is None:
            return []
        if state.living is None:
            state.living = [
                (post, state.posts[post][0], (post, author))
                for post in sorted(state.posts, reverse=True)
                if post not in state.deletes
            ]
        return state.living

    # --- comparing ------------------------------------------------------------------------------

    def compare(self, reader: int, pages: Iterable[Sequence[Seen]]) -> Verdict:
        """Judge a whole walk: the pages of `reader` from the newest to the end, each a sequence
        of (post id, author) as shown."""
        must = self.visible(reader)
        observed = [line for page in pages for line in page]
        verdict = Verdict(reader, len(must))
        if observed == must:
            return verdict
        must_set, observed_set = set(must), set(observed)
        verdict.missing = [line for line in must if line not in observed_set]
        once: set[Seen] = set()
        for line in observed:
            if line in once:
                verdict.duplicates.append(line)
            elif line not in must_set:
                verdict.extra.append(line)
            once.add(line)
        for (post, author), (next_post, next_author) in pairwise(observed):
            if (-next_post, next_author) < (-post, author):
                verdict.disorder += 1
        return verdict
