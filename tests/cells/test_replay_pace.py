"""How much of the time replays get: a share of what live work leaves, all of it when idle."""

from __future__ import annotations

from cells.replay_pace import Pace
from engine import limits


class Clock:
    """Seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def simulate(live_share: float, step_s: float, seconds: float) -> float:
    """The share of the time that steps took, beside live batches of 50 ms."""
    clock = Clock()
    pace = Pace(clock)
    busy = spent = 0.0
    started = clock.now
    while clock.now - started < seconds:
        batch = 0.05 if live_share else 0.0
        clock.now += batch
        busy += batch
        until = clock.now + (batch / live_share - batch if live_share else 0.05)
        while clock.now < until:
            if pace.may_step(busy):
                clock.now += step_s
                spent += step_s
                pace.spent(step_s)
            else:
                clock.now += 0.005
    return spent / (clock.now - started)


def test_alone_it_gets_all_of_the_time() -> None:
    assert simulate(0.0, 0.2, 20) > 0.95


def test_beside_live_work_it_gets_its_share_of_the_headroom() -> None:
    for live in (0.25, 0.5, 0.75):
        share = simulate(live, 0.02, 60)
        wanted = (1 - live) * limits.REPLAY_SHARE
        assert 0.6 * wanted < share < 1.3 * wanted, (live, share)


def test_long_steps_are_paid_for() -> None:
    assert simulate(0.5, 0.3, 120) < 0.35


def test_live_work_is_noticed_within_its_first_batches() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(1_000):
        clock.now += 0.01
        pace.may_step(0.0)
    assert pace.alone
    clock.now += 0.05
    pace.may_step(0.05)
    assert not pace.alone


def test_it_steps_aside_while_merging_is_behind() -> None:
    """Beside live work at half of what it can do, its sorted runs had the brake stop everybody:
    p99 went from 236 ms to 2,986 ms."""
    clock, pressure = Clock(), [1.5]
    pace = Pace(clock, pressure=lambda: pressure[0])
    busy, steps = 0.0, 0
    for number in range(1_000):
        clock.now += 0.05
        busy += 0.025
        if pace.may_step(busy):
            steps += 1
            pace.spent(0.01)
        if number == 499:
            held, pressure[0] = steps, 1.0
    assert 10 <= held <= 25 / limits.REPLAY_HELD_S + 1  # it goes on, a step now and then
    assert steps - held > 10 * held
