"""The oracle against a step-by-step simulation with real inboxes: a third statement of the rule.

The simulation does what a cell would: a follow copies the backfill into a set, a post goes into
the sets of those who follow then, an unfollow empties that author out of the set, a delete takes
the post out of every set for ever. It has neither offsets, floors nor intervals, so what it and
the oracle agree on is the rule, not a formula.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from bench.churn import Mix, Placed, churn, place
from bench.oracle import Oracle
from engine import events
from engine.ids import id_ms

MONTH_MS = 30 * 24 * 3_600_000


class Simulation:
    """Inboxes as sets, filled and emptied event by event. Feed it a partition's order."""

    def __init__(self) -> None:
        self.followers: dict[int, set[int]] = defaultdict(set)
        self.inbox: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.outbox: dict[int, set[int]] = defaultdict(set)
        self.dead: set[tuple[int, int]] = set()
        self.hides: dict[tuple[str, int, int], bool] = {}

    def apply(self, placed: Placed) -> None:
        event, name = placed.event, events.KIND_NAMES[placed.event.kind]
        if isinstance(event, events.Post):
            self.post(event.author, event.id, placed.time_ms)
        elif isinstance(event, events.Delete):
            self.dead.add((event.post, event.author))
        elif isinstance(event, events.Relation) and event.reader != event.author:
            if name == "follow":
                self.follow(event.reader, event.author, placed.time_ms)
            elif name == "unfollow":
                self.followers[event.author].discard(event.reader)
                mine = self.inbox[event.reader]
                self.inbox[event.reader] = {line for line in mine if line[1] != event.author}
            else:
                what = name.removeprefix("un")
                self.hides[what, event.reader, event.author] = name == what

    def post(self, author: int, post: int, time_ms: int) -> None:
        if id_ms(post) - time_ms > 60_000 or post in self.outbox[author]:
            return
        self.outbox[author].add(post)
        for reader in {author, *self.followers[author]}:
            self.inbox[reader].add((post, author))

    def follow(self, reader: int, author: int, time_ms: int) -> None:
        if reader in self.followers[author]:
            return
        self.followers[author].add(reader)
        there = {post for post in self.outbox[author] if (post, author) not in self.dead}
        young = [post for post in there if time_ms - id_ms(post) <= MONTH_MS]
        self.inbox[reader] |= {(post, author) for post in sorted(young)[-100:]}

    def visible(self, reader: int) -> list[tuple[int, int]]:
        def shown(line: tuple[int, int]) -> bool:
            author = line[1]
            keys = (("block", reader, author), ("mute", reader, author), ("block", author, reader))
            return line not in self.dead and not any(self.hides.get(key) for key in keys)

        return sorted(filter(shown, self.inbox[reader]), key=lambda line: (-line[0], line[1]))


MIXES = {
    "everything": Mix(),
    "toggles": Mix(follow=400, unfollow=300, refollow=300, repeated_follow=60, pause=10),
    "deletes": Mix(delete=200, early_delete=100, repeated_id=100, shared_id=60),
    "hiding": Mix(block=120, unblock=100, mute=120, unmute=100, towards_oneself=60),
    "backfills": Mix(post=2_000, old_id=400, pause=1, delete=300),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seed", range(4))
def test_oracle_agrees_with_inboxes_filled_step_by_step_fuzz(mix: str, seed: int) -> None:
    users = 12 if mix == "backfills" else 40
    oracle, simulation, seen = Oracle(), Simulation(), 0
    stream = list(place(churn(seed, count=3_000, users=users, mix=MIXES[mix]), 4))
    everybody = {user for placed in stream for user in _users(placed.event)}
    # A stop in the middle too: the same rule holds at every moment.
    for part in (stream[:1_500], stream[1_500:]):
        for placed in part:
            oracle.apply(*placed)
            simulation.apply(placed)
        for reader in everybody:
            must = simulation.visible(reader)
            assert oracle.visible(reader) == must, f"reader {reader}"
            seen += len(must)
    assert seen > 1_000


def test_oracle_does_not_care_for_the_order_or_repetition_of_facts_fuzz() -> None:
    stream = list(place(churn(7, count=2_000, users=20), 4))
    there, back = Oracle(), Oracle()
    for placed in stream:
        there.apply(*placed)
    for placed in stream[::-1] + stream[::3]:
        back.apply(*placed)
    for reader in {user for placed in stream for user in _users(placed.event)}:
        assert there.visible(reader) == back.visible(reader)
        for post, author in there.visible(reader):
            assert there.text(post, author) == back.text(post, author) is not None


def _users(event: events.Event) -> tuple[int, ...]:
    return (event.account, getattr(event, "reader", event.author))
