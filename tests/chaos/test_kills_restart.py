"""kill -9 of a cell, for real: at every numbered step and at random moments, with work in hand.

A victim is a process of its own that applies the firehose. After each kill the store is opened and
checked; the kill counts only if events were still to be applied. In the end the oracle finds every
page as it must be, and no page was ever older than one that was read before.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from bench.churn import Random, churn
from bench.oracle import Summary
from cells.cell import Cell, open_cell
from cells.settings import load_settings
from engine import limits
from engine.keys import parse_inbox_keys, post_key
from tests.worlds import World, read_all, walk

STEPS = ("planned", "rows", "inbox", "done")
KILLS_AT_STEPS = 7  # of each
KILLS_AT_RANDOM = 26
RUN_KEYS_MIN = 40  # so that small batches take the path of sorted runs too


class KillAt:
    """SIGKILL to oneself at the n-th visit of a step."""

    def __init__(self, step: str, visit: int) -> None:
        self._step = step
        self._left = visit

    def __call__(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def victim(config: Path, step: str, visit: int, batch: int) -> None:
    """Apply the firehose in small batches until killed or done."""
    limits.RUN_KEYS_MIN = RUN_KEYS_MIN
    cell = open_cell(load_settings(config, environment={}), "c1", crash=KillAt(step, visit))
    while records := read_all(cell.log, cell.worker.next_offsets, batch):
        while records:
            records = records[cell.worker.apply(records) :]
    cell.close()


@pytest.fixture
def processes() -> Iterator[ForkServerContext]:
    """Victims fork from a server that has imported everything: a kill costs no start-up."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.chaos.test_kills_restart"])
    yield context
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def run_victim(
    processes: ForkServerContext, config: Path, step: str, visit: int, batch: int
) -> BaseProcess:
    process = processes.Process(target=victim, args=(config, step, visit, batch))
    process.start()
    return process


def check_after_kill(world: World, users: list[int], seen: dict[int, set[tuple[int, int]]]) -> int:
    """Open, check I3 and that nothing applied was taken back; the number of events still to do."""
    cell = world.open()
    try:
        left = sum(world.log.end_offsets()) - sum(cell.worker.next_offsets)
        for user in users:
            _, posts, authors = parse_inbox_keys(cell.store.inbox_older(user, b"", 10_000))
            keys = [(int(p), int(a)) for p, a in zip(posts, authors, strict=True)]
            assert len(set(keys)) == len(keys)
            assert None not in cell.store.post_rows([post_key(*key) for key in keys])
            assert seen.setdefault(user, set()) <= set(keys), "a key that was stored is gone"
            seen[user] = set(keys)
        return left
    finally:
        cell.close()


def compare_all(world: World, users: list[int]) -> Summary:
    cell: Cell = world.open()
    while records := read_all(world.log, cell.worker.next_offsets, 1_000):
        cell.worker.apply(records)
    oracle, summary = world.oracle(), Summary()
    for user in users:
        summary.add(oracle.compare(user, walk(cell, user, 7)))
    cell.close()
    return summary


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_cell_killed_at_every_step_and_at_random_moments(
    seed: int, tmp_path: Path, processes: ForkServerContext
) -> None:
    random = Random(seed)
    world = World(tmp_path)
    config = tmp_path / "firecell.toml"
    kills = {step: 0 for step in (*STEPS, "random")}
    wanted = {step: KILLS_AT_STEPS // 2 + 1 for step in STEPS} | {"random": KILLS_AT_RANDOM // 2}
    seen: dict[int, set[tuple[int, int]]] = {}
    round_number = 0
    try:
        while kills != wanted:
            round_number += 1
            assert round_number < 120, f"seed {seed}: too few kills had work in hand: {kills}"
            events = list(churn(seed * 1_000, count=150 * round_number))[-150:]
            world.append(events)
            users = world.users()
            step = next(step for step in wanted if kills[step] < wanted[step])
            point = step if step != "random" else "never"
            process = run_victim(processes, config, point, random.below(3), 1 + random.below(8))
            if step == "random":
                time.sleep(0.02 + random.below(200) / 1_000)
                process.kill()
            process.join(30)
            killed = process.exitcode == -signal.SIGKILL
            left = check_after_kill(world, users, seen)
            print(f"seed {seed} round {round_number}: killed at {step}: {killed}, {left} in hand")
            if killed and left:
                kills[step] += 1
        assert sum(kills.values()) >= 25
        summary = compare_all(world, users)
        assert summary.ok and summary.posts > 500, f"seed {seed}: {summary}"
    finally:
        world.close()
