"""A store, and a record of decisions, that fail at any call, before or after they have done it, and
a process that ends at any step: what is shown is what the oracle says (I1-I6).

Few users, so the same pair follows, unfollows and follows again within one batch. In process and
seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from bench.churn import Mix, Random, churn
from cells.cell import Cell
from cells.verify import Verify
from engine import limits
from engine.errors import Unavailable
from tests.sim.test_author_intervals import lines_of
from tests.sim.test_cell_against_oracle import STEPS, Crash, Crasher, check_texts, compare
from tests.worlds import World, read_all

USERS = 6
TANGLED = Mix(
    post=300, edit=80, delete=80, follow=300, unfollow=250, refollow=250, repeated_follow=60,
    repeated_id=60, shared_id=40, old_id=60, early_delete=40, early_edit=30, block=20, unblock=20,
)  # fmt: skip
FLAKY = (
    "write_all", "write_rows", "write_inbox", "write_positions", "outbox", "outboxes", "post_rows",
    "toggles_between",
)  # fmt: skip
_Result = TypeVar("_Result")


class Flaky:
    """Makes methods fail now and then, half of the times after they have done their work."""

    def __init__(self, random: Random, one_in: int) -> None:
        self.random = random
        self.one_in = one_in
        self.failed = 0

    def spoil(self, owner: Any, *names: str) -> None:
        for name in names:
            setattr(owner, name, partial(self.call, getattr(owner, name)))

    def call(self, method: Callable[..., _Result], *given: Any, **more: Any) -> _Result:
        dice = self.random.below(2 * self.one_in)
        if dice == 0:
            self.failed += 1
            raise Unavailable("it is away")
        result = method(*given, **more)
        if dice == 1:
            self.failed += 1
            raise Unavailable("its answer got lost")
        return result

    def patiently(self, step: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return step()
            except Unavailable:
                pass


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of a few keys are sorted runs, the graph merges often, outboxes go on in steps."""
    monkeypatch.setattr(limits, "RUN_KEYS_MIN", 15)
    monkeypatch.setattr(limits, "GRAPH_OVERLAY_EDGES_MIN", 3)
    monkeypatch.setattr(limits, "OUTBOX_SCAN_KEYS", 3)
    monkeypatch.setattr(limits, "PULL_CHUNK_ENTRIES", 2)
    monkeypatch.setattr(limits, "PULL_HEAD_ENTRIES", 3)


def apply_all(world: World, random: Random, crasher: Crasher, remote: bool) -> tuple[int, int]:
    """(failures, crashes) on the way to the firehose's end."""
    flaky = Flaky(random, 10)

    def opened() -> Cell:
        cell = world.open("c1", crasher)
        cell.store.remote = remote  # heads of outboxes are asked for together
        cell.store.atomic = not remote
        flaky.spoil(cell.store, *FLAKY)
        flaky.spoil(cell.decisions, "record")
        return cell

    cell = opened()
    while records := read_all(world.log, cell.worker.next_offsets, 1 + random.below(40)):
        if random.below(2) == 0:
            crasher.arm()
        if random.below(3) == 0:
            cell._save_graph(list(cell.worker.next_offsets))
        try:
            while records:
                batch = flaky.patiently(partial(cell.worker.plan, records))
                crasher("planned")
                flaky.patiently(partial(cell.worker.finish, batch))
                records = records[batch.consumed :]
        except Crash:
            cell.close()
            cell = opened()
    cell.close()
    return flaky.failed, len(crasher.fired)


def replay(cell: Cell, random: Random) -> None:
    """Random spans again, beside nothing."""
    replays = cell.begin_beside()
    for _ in range(2):
        ends = cell.worker.next_offsets
        starts = [random.below(end + 1) for end in ends]
        span = ",".join(f"{p}:{at}" for p, at in enumerate(starts))
        replays.start(replays.span(span, None))
        while replays.stats()["replays_running"]:
            replays.step(0.0)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_fails_and_ends_pages_are_what_the_oracle_says_restart(
    seed: int, remote: bool, tmp_path: Path
) -> None:
    random = Random(1_000 + seed)
    world = World(tmp_path, partitions=2, push_followers_max=2 + seed % 3)
    try:
        world.append(churn(500 + seed, count=900, users=USERS, mix=TANGLED))
        failed, crashed = apply_all(world, random, Crasher(random, ("decided", *STEPS)), remote)
        assert failed > 10 and crashed > 1, "too little happened to prove anything"
        oracle, users = world.oracle(), world.users()
        cell = world.open()
        summary = compare(cell, oracle, users, 3)
        assert summary.ok, summary
        check_texts(cell, oracle, users)
        report = Verify(cell.store, cell.whose.home).everything(world.log, digest=True)
        before, digest = lines_of(cell, users), report.digest
        replay(cell, random)
        assert lines_of(cell, users) == before
        report = Verify(cell.store, cell.whose.home).everything(world.log, digest=True)
        assert report.digest == digest
        cell.close()
        cell = world.open()
        assert lines_of(cell, users) == before
        cell.close()
    finally:
        world.close()
