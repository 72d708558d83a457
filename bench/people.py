"""The people of the demo: a small network with a few stars, and what its people do, as JSON events.

User ids are 1, 2, 3, ... so that they can be typed. Seeded: the same people do the same things in
the same order; only ids of posts differ from run to run. One thread.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.workload import Workload, text

Event = dict[str, Any]
_REMEMBERED = 5_000  # posts that may still be edited, deleted or answered
_LARGEST_SHARE = 3  # the star is followed by one in so many
_TAGS = ("art", "cats", "cooking", "gifs", "maps", "music", "space", "trains")

# How often people do what, relative to the others.
_ACTS = {
    "post": 880, "reply": 30, "reblog": 30, "edit": 25, "delete": 15,
    "follow": 25, "unfollow": 15, "block": 2, "unblock": 2, "mute": 2, "unmute": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """Who follows whom at the beginning. Authors are the first users of all."""

    users: int
    authors: int
    follows: list[tuple[int, int]]  # (reader, author)

    @classmethod
    def make(cls, seed: int, *, users: int, authors: int, follows: int) -> Network:
        """A power-law network (bench/workload.py); the busier an author's id is, the smaller."""
        graph = Workload.power_law(
            seed, readers=users, edges=follows, authors=authors, largest=users // _LARGEST_SHARE
        )
        names = {user: 0 for user in graph.authors.tolist()}
        names |= dict.fromkeys(graph.users.tolist(), 0)
        numbered = {user: number for number, user in enumerate(names, 1)}
        pairs: list[tuple[int, int]] = []
        for readers, followed in graph.follow_edges():
            pairs += [
                (numbered[reader], numbered[author])
                for reader, author in zip(readers.tolist(), followed.tolist(), strict=True)
            ]
        return cls(users, authors, pairs)

    def follow_events(self) -> Iterator[Event]:
        """The whole network as events."""
        for reader, author in self.follows:
            yield {"type": "follow", "reader": str(reader), "author": str(author)}


class People:
    """Decides what happens next. `published` tells it of posts that are durable."""

    def __init__(self, network: Network, seed: int) -> None:
        self._network = network
        self._random = random.Random(seed)
        self._posts: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)  # (author, id)
        self._unfollowed: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._blocked: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._muted: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._acts, self._weights = list(_ACTS), list(_ACTS.values())
        self._written = 0

    def next_events(self, count: int) -> list[Event]:
        """What the next `count` people do; posts have no id yet."""
        chosen = self._random.choices(self._acts, self._weights, k=count)
        return [self._act(act) for act in chosen]

    def published(self, event: Event, answer: Event) -> None:
        """The result line of an event: posts are remembered, to be edited, answered, deleted."""
        if event["type"] == "post" and answer.get("id"):
            self._posts.append((event["author"], answer["id"]))

    def any_reader(self) -> int:
        """Somebody who looks at their dashboard now."""
        return self._random.randint(1, self._network.users)

    def _act(self, act: str) -> Event:
        if act in ("edit", "delete", "reply", "reblog"):
            return self._towards_post(act) if self._posts else self._post()
        if act == "post":
            return self._post()
        return self._towards_user(act)

    def _post(self) -> Event:
        author = self._random.randint(1, self._network.authors)
        self._written += 1
        event: Event = {"type": "post", "author": str(author), "text": text(self._written)}
        if self._random.random() < 0.3:
            event["tags"] = self._random.sample(_TAGS, 2)
        return event

    def _towards_post(self, act: str) -> Event:
        author, post = self._random.choice(self._posts)
        if act == "edit":
            self._written += 1
            return {"type": act, "author": author, "post": post, "text": text(self._written)}
        if act == "delete":
            return {"type": act, "author": author, "post": post}
        event = self._post()
        name = "reply_to" if act == "reply" else "reblog_of"
        return {**event, name: post, name.partition("_")[0] + "_author": author}

    def _towards_user(self, act: str) -> Event:
        kept = {"block": self._blocked, "mute": self._muted, "unfollow": self._unfollowed}
        undone = {"unblock": self._blocked, "unmute": self._muted, "follow": self._unfollowed}
        if act in undone and undone[act] and self._random.random() < 0.8:
            reader, author = undone[act].popleft()
        elif act == "follow":
            reader, author = self.any_reader(), self._random.randint(1, self._network.authors)
        else:
            reader, author = self._random.choice(self._network.follows)
        if act in kept:
            kept[act].append((reader, author))
        return {"type": act, "reader": str(reader), "author": str(author)}
