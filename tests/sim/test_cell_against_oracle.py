"""Whole cells against the oracle, with crashes between any two numbered steps and page sizes of 3.

In process and seeded: each seed replays exactly. Real kills are in tests/chaos.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.churn import START_MS, Random, Timed, churn
from bench.oracle import Oracle, Summary
from cells.cell import Cell
from engine import limits
from engine.events import FOLLOW, UNFOLLOW, Post, Relation
from engine.ids import make_id
from engine.keys import parse_inbox_keys, post_key
from tests.worlds import World, read_all, walk

USERS = 60
STEPS = ("planned", "rows", "inbox", "done")


class Crash(Exception):
    """Stands for the end of the process."""


class Crasher:
    """Raises at the n-th visit of a step."""

    def __init__(self, random: Random, steps: Sequence[str] = STEPS) -> None:
        self._random = random
        self._steps = steps
        self.armed: tuple[str, int] | None = None
        self.fired: list[str] = []

    def arm(self) -> None:
        self.armed = (self._random.choice(self._steps), self._random.below(3))

    def __call__(self, step: str) -> None:
        if self.armed is None or self.armed[0] != step:
            return
        if self.armed[1] == 0:
            self.armed = None
            self.fired.append(step)
            raise Crash(step)
        self.armed = (step, self.armed[1] - 1)


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a batch of a few keys takes the path of sorted runs, as well as that of puts."""
    monkeypatch.setattr(limits, "RUN_KEYS_MIN", 40)


def apply_with_crashes(
    world: World, name: str, random: Random, steps: Sequence[str] = STEPS
) -> list[str]:
    """Apply the whole firehose in random batches; after each crash open the cell anew."""
    crasher = Crasher(random, steps)
    cell = world.open(name, crasher)
    users = world.users()
    while True:
        records = read_all(world.log, cell.worker.next_offsets, 1 + random.below(60))
        if not records:
            break
        if random.below(3) == 0:
            crasher.arm()
        if random.below(4) == 0:  # else the graph is loaded from the store's toggles
            cell._save_graph(list(cell.worker.next_offsets))
        try:
            while records:
                records = records[cell.worker.apply(records) :]
        except Crash:
            check_no_dangling_key(cell, users)
            cell.close()
            cell = world.open(name, crasher)
            check_no_dangling_key(cell, users)
    cell.close()
    return crasher.fired


def check_no_dangling_key(cell: Cell, users: list[int]) -> None:
    """I3: every inbox key has a row."""
    for user in users:
        if cell.directory.home(user) != cell.name:
            continue
        raw = cell.store.inbox_older(user, b"", 10_000)
        _, posts, authors = parse_inbox_keys(raw)
        keys = [post_key(int(p), int(a)) for p, a in zip(posts, authors, strict=True)]
        assert None not in cell.store.post_rows(keys)


def compare(cell: Cell, oracle: Oracle, users: list[int], limit: int) -> Summary:
    """The pages of every user at home in the cell."""
    summary = Summary()
    for user in users:
        if cell.directory.home(user) == cell.name:
            summary.add(oracle.compare(user, walk(cell, user, limit)))
    return summary


@pytest.mark.parametrize("seed", range(12))
def test_two_cells_show_what_the_oracle_says_after_crashes_restart(
    seed: int, tmp_path: Path
) -> None:
    random = Random(seed)
    world = World(tmp_path, {"c1": 1, "c2": 2})
    try:
        world.append(churn(seed, count=1_500, users=USERS))
        fired = [step for name in ("c1", "c2") for step in apply_with_crashes(world, name, random)]
        assert fired, "no crash happened: the run proves nothing"
        oracle = world.oracle()
        readers = posts = 0
        for name in ("c1", "c2"):
            cell = world.open(name)
            summary = compare(cell, oracle, world.users(), 3 + random.below(5))
            check_texts(cell, oracle, world.users())
            cell.close()
            assert summary.ok, f"seed {seed}, cell {name}: {summary}"
            readers += summary.readers
            posts += summary.posts
        assert readers > USERS / 2 and posts > 100, "too little was visible to prove anything"
    finally:
        world.close()


def check_texts(cell: Cell, oracle: Oracle, users: list[int]) -> None:
    """The shown text is the newest edit's; deleted posts are gone from the author's page."""
    for author in users:
        page = json.loads(cell.reader.posts(author, limit=200))
        shown = [(int(post["id"]), post["text"]) for post in page["posts"]]
        wanted = [(post, oracle.text(post, author)) for post, _ in oracle.posts_of(author)]
        assert shown == wanted


@pytest.mark.parametrize("seed", range(3))
def test_applying_any_span_again_changes_no_page(seed: int, tmp_path: Path) -> None:
    """I2, by a worker whose positions were put back: every answer is the same bytes."""
    world = World(tmp_path)
    try:
        world.append(churn(seed + 100, count=1_000, users=USERS))
        cell = world.open()
        users = world.users()
        while records := read_all(world.log, cell.worker.next_offsets, 50):
            cell.worker.apply(records)
        cell.close()
        cell = world.open()
        before = [cell.reader.dashboard(user, limit=200) for user in users]
        end = list(cell.worker.next_offsets)
        random = Random(seed)
        start = {p: (random.below(offset + 1), 0) for p, offset in enumerate(end)}
        cell.store.write_positions(start)
        cell.close()
        cell = world.open()
        assert cell.worker.next_offsets == [start[p][0] for p in range(len(end))]
        while records := read_all(world.log, cell.worker.next_offsets, 70):
            cell.worker.apply(records)
        after = [cell.reader.dashboard(user, limit=200) for user in users]
        cell.close()
        assert after == before
    finally:
        world.close()


def test_a_graph_ahead_of_its_store_is_not_saved(tmp_path: Path) -> None:
    """Once saved after a crash between plan and rows, it cost a re-follow its backfill."""
    world = World(tmp_path)
    try:
        nine = 9
        first = [Relation(FOLLOW, 1, nine), Post(nine, make_id(START_MS, 0, 1))]
        world.append(Timed(START_MS + n, event) for n, event in enumerate(first))
        cell = world.open()
        cell.worker.apply(read_all(world.log, cell.worker.next_offsets, 10))
        again = [Relation(UNFOLLOW, 1, nine), Relation(FOLLOW, 1, nine)]
        world.append(Timed(START_MS + 10 + n, event) for n, event in enumerate(again))
        cell.worker.plan(read_all(world.log, cell.worker.next_offsets, 10))
        cell._save_graph(list(cell.worker.next_offsets))
        cell.close()
        cell = world.open()
        cell.worker.apply(read_all(world.log, cell.worker.next_offsets, 10))
        assert walk(cell, 1) == [[(make_id(START_MS, 0, 1), nine)]]
        cell.close()
    finally:
        world.close()
