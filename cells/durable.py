"""Step 5 of the worker: the one order in which a batch becomes durable (I1).

On the thread of the worker."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine import limits
from engine.ports import Facts, Store


def no_crash(point: str) -> None:
    """What production passes: crash points are for tests (`planned`, `decided`, `rows`, `inbox`,
    `done`)."""


def make_durable(
    store: Store, facts: Facts, crash: Callable[[str], None], seconds: dict[str, float]
) -> None:
    """Step 5, the order of durability (I1): rows, then inbox keys, then the position.

    A crash between two of them leaves posts that no key names, or keys that the position does not
    cover: both are written again, the same, when the batch is applied again. Never a key without
    its post (I3).
    """
    started = time.perf_counter()
    if store.atomic and len(facts.inbox) < limits.RUN_KEYS_MIN:
        store.write_all(facts)  # all three at once
        seconds["rows"] += time.perf_counter() - started
        crash("done")
        return
    store.write_rows(facts)
    rows = time.perf_counter()
    crash("rows")
    store.write_inbox(facts.inbox)
    inbox = time.perf_counter()
    crash("inbox")
    if facts.positions:  # a replay has its own
        store.write_positions(facts.positions)
    crash("done")
    seconds["rows"] += rows - started
    seconds["inbox"] += inbox - rows
    seconds["done"] += time.perf_counter() - inbox
