"""Seeded streams of everything that users do, junk included: what a firehose looks like to tests.

`churn` makes events with append times; `place` gives them the root positions that a firehose with
P partitions would. Both are pure generators: the same arguments give the same stream on every
machine and version of Python (their randomness is SplitMix64, see `engine/homing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import NamedTuple, TypeVar

from engine import events, limits
from engine.errors import BadInput
from engine.homing import mix64, partition_of
from engine.ids import make_id

START_MS = 1_767_225_600_000  # append time of the first event unless told: 2026-01-01
_DAY_MS = 24 * 3_600_000
_STEP = 0x9E3779B97F4A7C15  # SplitMix64's increment: the golden ratio in 64 bits
_T = TypeVar("_T")


class Timed(NamedTuple):
    """An event and its append time."""

    time_ms: int
    event: events.Event


class Placed(NamedTuple):
    """An event at its root position: what `Oracle.apply` takes."""

    partition: int
    offset: int
    time_ms: int
    event: events.Event


@dataclass(frozen=True)
class Mix:
    """How often what happens, relative to the others; 0 switches it off."""

    post: int = 400
    reblog: int = 30
    reply: int = 30
    edit: int = 40
    delete: int = 40
    follow: int = 200
    unfollow: int = 70
    refollow: int = 50  # of somebody unfollowed before
    block: int = 12
    unblock: int = 8
    mute: int = 12
    unmute: int = 8
    like: int = 60
    unlike: int = 20
    # Well-formed, and nothing or little may come of it:
    repeated_follow: int = 15  # while following
    repeated_id: int = 15  # the same author and id again, with another text
    repeated_delete: int = 10
    shared_id: int = 15  # another author's id: two posts
    old_id: int = 15  # an importer's: from seconds up to 60 days before
    early_delete: int = 8  # of an id that is only posted later, or never
    early_edit: int = 8
    foreign_delete: int = 10
    foreign_edit: int = 10
    towards_oneself: int = 10
    unknown_post: int = 10  # an edit, delete or like of what was never posted
    future_id: int = 8  # over 60 s ahead of the append time: refused by whoever applies it
    # Time:
    pause: int = 4  # nothing happens for up to 10 days: backfills grow too old


class Random:
    """SplitMix64: tiny, seeded, the same everywhere."""

    def __init__(self, seed: int) -> None:
        self._state = mix64(seed & limits.U64_MAX)

    def below(self, bound: int) -> int:
        """An int in 0..bound-1."""
        self._state = (self._state + _STEP) & limits.U64_MAX
        return (mix64(self._state) * bound) >> 64

    def choice(self, items: Sequence[_T]) -> _T:
        """One of `items`."""
        return items[self.below(len(items))]


def churn(
    seed: int,
    *,
    count: int,
    users: int = 60,
    mix: Mix | None = None,
    start_ms: int = START_MS,
    step_ms: int = 2_000,
    node: int = 0,
    graph: Sequence[tuple[int, int]] = (),
) -> Iterator[Timed]:
    """`count` events among `users` users, in append order, times never going back.

    Two events lie 0..`step_ms` apart. A third of all that is done is done by or to the first
    tenth of the users, so some have many followers. A log that is fed with them must take its
    append times from here (its `clock`), or what is too old or too early changes. `node` is
    the node number in the post ids. `graph` holds follows (reader, author) that are there from the
    beginning: they come first, beside `count`, the users are theirs, and that third is done by or
    to authors as often as they are followed.
    Every event is within the contract's limits (`engine.codec.check_post` accepts it).
    """
    if users < 2:
        raise BadInput(f"churn among {users} users: give at least 2", "users")
    made = _Churn(seed, users, mix or Mix(), start_ms, step_ms, node)
    return chain(made.begin_with(graph), made.run(count)) if graph else made.run(count)


def place(timed: Iterable[Timed], partitions: int) -> Iterator[Placed]:
    """The stream as a firehose of `partitions` partitions, empty before, would hold it."""
    offsets = [0] * partitions
    for time_ms, event in timed:
        partition = partition_of(event.account, partitions)
        yield Placed(partition, offsets[partition], time_ms, event)
        offsets[partition] += 1


class _Churn:
    """The state of one stream: who follows whom and what was posted, to do sensible things."""

    def __init__(
        self, seed: int, users: int, mix: Mix, start_ms: int, step_ms: int, node: int
    ) -> None:
        self.random = Random(seed)
        self.users = [mix64(mix64(seed & limits.U64_MAX) ^ index) for index in range(users)]
        self.graph: Sequence[tuple[int, int]] = ()
        self.now_ms = start_ms
        self.step_ms = step_ms
        self.node = node
        self.sequence = 0
        self.posted: list[tuple[int, int]] = []  # (author, id)
        self.deleted: list[tuple[int, int]] = []
        self.promised: list[tuple[int, int]] = []  # deleted or edited early, to be posted
        self.follows: list[tuple[int, int]] = []  # (reader, author)
        self.unfollows: list[tuple[int, int]] = []
        self.blocks: list[tuple[int, int]] = []  # (who, whom): ever, undone or not
        self.mutes: list[tuple[int, int]] = []
        # The names of the deeds, each as often as its weight: the deed x is the method do_x.
        self.deeds: list[Callable[[], events.Event | None]] = []
        for knob in fields(mix):
            self.deeds += [getattr(self, f"do_{knob.name}")] * getattr(mix, knob.name)
        if not self.deeds:
            raise BadInput("churn with a mix of nothing: give a weight above 0", "mix")

    def begin_with(self, graph: Sequence[tuple[int, int]]) -> Iterator[Timed]:
        """Its follows, at one time."""
        self.graph = graph
        self.users = sorted({user for pair in graph for user in pair})
        for reader, author in graph:
            self.follows.append((reader, author))
            yield Timed(self.now_ms, self.pair(events.FOLLOW, reader, author))

    def run(self, count: int) -> Iterator[Timed]:
        made = 0
        while made < count:
            event = self.random.choice(self.deeds)()
            if event is None:  # nothing to do it to yet: somebody posts instead
                event = self.do_post()
            self.now_ms += self.random.below(self.step_ms + 1)
            yield Timed(self.now_ms, event)
            made += 1

    # --- who and what ----------------------------------------------------------------------------

    def user(self) -> int:
        if self.graph:
            if self.random.below(3) == 0:
                return self.random.choice(self.graph)[1]
            return self.random.choice(self.users)
        busy = self.users[: max(1, len(self.users) // 10)]
        return self.random.choice(busy if self.random.below(3) == 0 else self.users)

    def two(self) -> tuple[int, int]:
        first, second = self.user(), self.user()
        while second == first:
            second = self.random.choice(self.users)
        return first, second

    def new_id(self, ms: int) -> int:
        self.sequence = (self.sequence + 1) % (limits.ID_SEQUENCE_MAX + 1)
        return make_id(ms, self.node, self.sequence)

    def text(self) -> str:
        return f"text {self.random.below(1_000_000)}"

    def pair(self, kind: int, reader: int, author: int) -> events.Relation:
        return events.Relation(kind, reader, author, self.now_ms)

    def any_post(self) -> tuple[int, int] | None:
        """(author, id): mostly one of the newest, as in life."""
        if not self.posted:
            return None
        recent = self.posted[-200:] if self.random.below(4) else self.posted
        return self.random.choice(recent)

    def stranger(self, author: int) -> int:
        other = self.user()
        return other if other != author else self.users[self.users.index(author) - 1]

    # --- the deeds: one event each, or None when there is nothing to do it to ---------------------

    def do_post(self) -> events.Post:
        if self.promised and self.random.below(4) == 0:
            author, post = self.promised.pop()
        else:
            author, post = self.user(), self.new_id(self.now_ms)
        self.posted.append((author, post))
        return events.Post(author, post, self.now_ms, self.text(), tags=("churn",))

    def do_reblog(self) -> events.Event | None:
        if (original := self.any_post()) is None:
            return None
        post = (self.user(), self.new_id(self.now_ms))
        self.posted.append(post)
        return events.Post(
            *post, self.now_ms, self.text(), reblog_of=original[1], reblog_author=original[0]
        )

    def do_reply(self) -> events.Event | None:
        if (original := self.any_post()) is None:
            return None
        post = (self.user(), self.new_id(self.now_ms))
        self.posted.append(post)
        mentions = (original[0],)
        return events.Post(
            *post,
            self.now_ms,
            self.text(),
            mentions=mentions,
            reply_to=original[1],
            reply_author=original[0],
        )

    def do_edit(self) -> events.Event | None:
        post = self.any_post()
        return post and events.Edit(*post, self.now_ms, self.text())

    def do_delete(self) -> events.Event | None:
        if (post := self.any_post()) is None:
            return None
        self.deleted.append(post)
        return events.Delete(*post, self.now_ms)

    def do_follow(self) -> events.Event:
        reader, author = self.two()
        self.follows.append((reader, author))
        return self.pair(events.FOLLOW, reader, author)

    def do_unfollow(self) -> events.Event | None:
        if not self.follows:
            return None
        reader, author = self.follows.pop(self.random.below(len(self.follows)))
        self.unfollows.append((reader, author))
        return self.pair(events.UNFOLLOW, reader, author)

    def do_refollow(self) -> events.Event | None:
        if not self.unfollows:
            return None
        reader, author = self.unfollows.pop(self.random.below(len(self.unfollows)))
        self.follows.append((reader, author))
        return self.pair(events.FOLLOW, reader, author)

    def do_repeated_follow(self) -> events.Event | None:
        if not self.follows:
            return None
        return self.pair(events.FOLLOW, *self.random.choice(self.follows))

    def do_block(self) -> events.Event:
        # Of somebody followed, or who follows, when there is one: else it hides nothing.
        pair = self.random.choice(self.follows) if self.follows else self.two()
        self.blocks.append(pair if self.random.below(2) else (pair[1], pair[0]))
        return self.pair(events.BLOCK, *self.blocks[-1])

    def do_unblock(self) -> events.Event:
        # Mostly of a block, sometimes of none.
        known = self.blocks and self.random.below(4)
        pair = self.random.choice(self.blocks) if known else self.two()
        return self.pair(events.UNBLOCK, *pair)

    def do_mute(self) -> events.Event:
        self.mutes.append(self.random.choice(self.follows) if self.follows else self.two())
        return self.pair(events.MUTE, *self.mutes[-1])

    def do_unmute(self) -> events.Event:
        known = self.mutes and self.random.below(4)
        pair = self.random.choice(self.mutes) if known else self.two()
        return self.pair(events.UNMUTE, *pair)

    def do_like(self) -> events.Event | None:
        post = self.any_post()
        return post and events.Reaction(events.LIKE, self.user(), *post, self.now_ms)

    def do_unlike(self) -> events.Event | None:
        post = self.any_post()
        return post and events.Reaction(events.UNLIKE, self.user(), *post, self.now_ms)

    def do_repeated_id(self) -> events.Event | None:
        post = self.any_post()
        return post and events.Post(*post, self.now_ms, self.text() + " again")

    def do_repeated_delete(self) -> events.Event | None:
        if not self.deleted:
            return None
        return events.Delete(*self.random.choice(self.deleted), self.now_ms)

    def do_shared_id(self) -> events.Event | None:
        if (post := self.any_post()) is None:
            return None
        twin = (self.stranger(post[0]), post[1])
        self.posted.append(twin)
        return events.Post(*twin, self.now_ms, self.text())

    def do_old_id(self) -> events.Event:
        age_ms = self.random.below(self.random.choice((60_000, _DAY_MS, 60 * _DAY_MS)))
        post = (self.user(), self.new_id(self.now_ms - age_ms))
        self.posted.append(post)
        return events.Post(*post, self.now_ms, self.text())

    def do_early_delete(self) -> events.Event:
        post = (self.user(), self.new_id(self.now_ms))
        self.promised.append(post)
        self.deleted.append(post)
        return events.Delete(*post, self.now_ms)

    def do_early_edit(self) -> events.Event:
        post = (self.user(), self.new_id(self.now_ms))
        self.promised.append(post)
        return events.Edit(*post, self.now_ms, self.text() + " early")

    def do_foreign_delete(self) -> events.Event | None:
        post = self.any_post()
        return post and events.Delete(self.stranger(post[0]), post[1], self.now_ms)

    def do_foreign_edit(self) -> events.Event | None:
        post = self.any_post()
        return post and events.Edit(self.stranger(post[0]), post[1], self.now_ms, self.text())

    def do_towards_oneself(self) -> events.Event:
        kinds = (events.FOLLOW, events.UNFOLLOW, events.BLOCK, events.MUTE)
        user = self.user()
        return self.pair(self.random.choice(kinds), user, user)

    def do_unknown_post(self) -> events.Event:
        author, post = self.user(), self.new_id(self.now_ms)
        kind = self.random.below(3)
        if kind == 0:
            return events.Edit(author, post, self.now_ms, self.text())
        if kind == 1:
            return events.Delete(author, post, self.now_ms)
        return events.Reaction(events.LIKE, self.user(), author, post, self.now_ms)

    def do_future_id(self) -> events.Event:
        # The append time may still move on by a step: stay clear of it.
        ahead_ms = limits.ID_AHEAD_MS_MAX + self.step_ms + 1 + self.random.below(_DAY_MS)
        return events.Post(self.user(), self.new_id(self.now_ms + ahead_ms), 0, self.text())

    def do_pause(self) -> None:
        self.now_ms += self.random.below(10 * _DAY_MS)
