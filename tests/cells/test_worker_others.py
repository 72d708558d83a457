"""Two workers of one cell over one store: what the other one has made durable shows here, too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.churn import START_MS, Mix, Timed, churn
from cells.cache import MemoryCache
from cells.cell import Cell
from cells.durable import no_crash
from engine.events import FOLLOW, Event, Post, Relation
from engine.ids import make_id
from engine.materialize import PushPolicy
from tests.sim.test_author_intervals import BUSY, FEW, lines_of
from tests.worlds import World, read_all


class Two(NamedTuple):
    """`one` applies, `other` only follows."""

    world: World
    one: Cell
    other: Cell

    def apply(self, count: int = 50) -> None:
        """What is in the firehose, by `one`; then `other` follows."""
        while records := read_all(self.world.log, self.one.worker.next_offsets, count):
            consumed = self.one.worker.apply(records)
            self.other.worker.follow_other(records[:consumed])


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    world = World(tmp_path, push_followers_max=2)
    one = world.open()
    policy, place = PushPolicy(2), world.settings.firehose.place
    parts = (one.store, one.markers, one.decisions, policy, MemoryCache(), tmp_path / "other")
    other = Cell("c1", one.directory, world.log, *parts, place, False, no_crash)
    yield Two(world, one, other)
    one.close()
    world.close()


def test_pages_of_both_are_the_same_after_every_batch(two: Two) -> None:
    two.world.append(churn(5, count=250, users=FEW, mix=BUSY))
    users = two.world.users()
    while records := read_all(two.world.log, two.one.worker.next_offsets, 20):
        two.other.worker.follow_other(records[: two.one.worker.apply(records)])
        assert lines_of(two.other, users) == lines_of(two.one, users)
    assert two.other.worker.next_offsets == two.one.worker.next_offsets


def test_what_the_other_applied_is_a_new_version(two: Two) -> None:
    """Streams of dashboards look at it, and `unread` is counted again by it: neither saw what
    another worker had applied until this one had a batch of its own."""
    events: list[Event] = [Relation(FOLLOW, 1, 9), Post(9, make_id(START_MS, 0, 0))]
    for number, event in enumerate(events):
        page = json.loads(two.other.reader.dashboard(1, limit=20))
        assert page["unread"] == 0
        version = two.other.runner.version()
        two.world.append([Timed(START_MS + number, event)])
        two.apply()
        assert two.other.runner.version() > version
    assert json.loads(two.other.reader.dashboard(1, limit=20))["unread"] == 1


def test_many_follows_close_a_batch_by_the_keys_that_they_copy(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were not counted: an import of follows made batches of millions of keys (I12)."""
    mix = Mix(**dict.fromkeys(Mix.__dataclass_fields__, 0) | {"post": 1})
    two.world.append(churn(5, count=300, users=2, mix=mix))
    two.apply()
    authors = two.world.users()
    two.world.append(
        Timed(START_MS + 10**6, Relation(FOLLOW, reader, author))
        for author in authors
        for reader in range(100)
    )
    monkeypatch.setattr("engine.limits.WORKER_KEYS_AIM", 1_000)
    records = read_all(two.world.log, two.one.worker.next_offsets, 1_000)
    batch = two.one.worker.plan(records)
    assert batch.consumed < len(records) and len(batch.facts.inbox) <= 1_100
    two.one.worker.finish(batch)
