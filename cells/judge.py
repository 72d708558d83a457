"""The *visible* rule over a slice of an inbox, and the posts that it shows.

The rule (engine/timeline.py) is checked for a whole slice at once: most keys pass by comparing two
offsets; only what is left looks at floors. The usual page is one compiled call (`compose`); the
long way (`judge`) gives the same bytes. Holds no lock; called by any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cells.graph import Graph
from cells.relations import RelationsCache
from engine.keys import INBOX_KEY_BYTES, parse_inbox_key
from engine.ports import PostCache, Shown, Store
from engine.timeline import Cursor, covers, fold_toggles

_KEY = INBOX_KEY_BYTES


class Judged(NamedTuple):
    """A slice of an inbox with its posts: parallel lists, newest first. `visible` may be one short:
    without the key behind what was asked for."""

    posts: list[int]
    authors: list[int]
    shown: list[Shown]
    visible: list[bool]
    whole: bool  # nothing lies behind this slice

    def reaches(self, post: int) -> bool:
        """Whether every key above `post` is in this slice of the inbox's head."""
        return self.whole or self.posts[-1] <= post

    def above(self, post: int) -> int:
        """How many visible posts of it are newer than `post`."""
        pairs = zip(self.posts, self.visible, strict=False)
        return sum(visible for each, visible in pairs if each > post)


Head = Callable[[], Judged]  # of an inbox, when it is needed


def _all_shown(keys: npt.NDArray[np.uint8], limit: int) -> Judged:
    """The head of an inbox whose first `limit` posts are all visible."""
    posts: list[int] = (~keys.view(">u8")[1::3]).tolist()
    return Judged(posts, [], [], [True] * min(len(posts), limit), len(posts) <= limit)


class Judge:
    """What a reader sees of a slice of joined inbox keys (24 bytes each, newest first)."""

    def __init__(
        self, store: Store, graph: Graph, cache: PostCache, relations: RelationsCache
    ) -> None:
        self._store = store
        self._graph = graph
        self._cache = cache
        self._relations = relations

    def compose(
        self, reader: int, raw: bytes, limit: int, seen: int
    ) -> tuple[memoryview, Cursor | None, Head | None] | None:
        """The usual page, put together by the cache in one call: its posts are all kept there and
        none needs a second look. None: the long way, which gives the same bytes."""
        if self._cache.remote or self._relations.hidden(reader):
            return None
        keys = np.frombuffer(raw, dtype=np.uint8)
        starts = self._graph.interval_of_keys(reader, keys)
        found = self._cache.compose(keys, starts, limit, seen)
        if found is None:
            return None
        body, taken, last = found
        count = len(raw) // _KEY
        if taken < limit < count:
            return None  # what is hidden here makes room for what lies behind
        following = None
        if taken == limit and last + 1 < count:
            _, post, author = parse_inbox_key(raw[last * _KEY : last * _KEY + _KEY])
            following = Cursor(post, author)
        every = taken == min(count, limit)  # all of them show: that tells how many are unread
        return body, following, partial(_all_shown, keys, limit) if every else None

    def judge(self, reader: int, raw: bytes, asked: int) -> Judged:
        """The visible rule over a slice of inbox keys, read to have more than `asked`."""
        count = len(raw) // _KEY
        if count == 0:
            return Judged([], [], [], [], True)
        words = np.frombuffer(raw, dtype=">u8").reshape(count, 3).astype(np.uint64)
        authors: list[int] = words[:, 2].tolist()
        posts: list[int] = (~words[:, 1]).tolist()
        shown = self.shown([raw[i + 8 : i + _KEY] for i in range(0, count * _KEY, _KEY)])
        starts: list[int] = self._graph.interval_of_keys(
            reader, np.frombuffer(raw, dtype=np.uint8)
        ).tolist()
        visible = [
            0 <= start <= entry[0]  # its offset, -1 when it is not there
            for start, entry in zip(starts, shown, strict=True)
        ]
        if False in visible:
            self._add_backfilled(visible, reader, authors, posts, starts, shown)
        hidden = self._relations.hidden(reader)
        if hidden:
            visible = [
                verdict and author not in hidden
                for verdict, author in zip(visible, authors, strict=True)
            ]
        return Judged(posts, authors, shown, visible, count <= asked)

    def _add_backfilled(
        self,
        visible: list[bool],
        reader: int,
        authors: list[int],
        posts: list[int],
        starts: list[int],
        shown: list[Shown],
    ) -> None:
        """Make visible what is from before the current follow and was reached by its backfill."""
        pairs = zip(starts, shown, strict=True)
        older = [index for index, (start, entry) in enumerate(pairs) if start > entry[0] >= 0]
        wanted = list({authors[index]: None for index in older})
        every = self._store.toggles_of_pairs([(reader, author) for author in wanted])
        toggles = dict(zip(wanted, every, strict=True))
        for index in older:
            facts = ((t.offset, t.follows, t.floor) for t in toggles[authors[index]])
            interval = fold_toggles(facts)
            visible[index] = interval is not None and covers(
                interval, shown[index][0], posts[index]
            )

    def shown(self, keys: list[bytes]) -> list[Shown]:
        """Posts of keys: cache, then table."""
        found = self._cache.get_many(keys)
        if None not in found:
            return found  # type: ignore[return-value]
        missing = [key for key, entry in zip(keys, found, strict=True) if entry is None]
        epoch = self._cache.epoch()
        filled = iter(self._cache.fill(missing, self._store.post_rows(missing), epoch))
        return [entry if entry is not None else next(filled) for entry in found]
