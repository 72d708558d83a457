"""Who may coordinate by clocks alone: no two at once, whatever is stopped, slow or forgotten."""

from __future__ import annotations

import math
from copy import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import Unavailable
from engine.limits import KAFKA_FENCED_S, KAFKA_LEADER_SESSION_S
from topics.groups_tenure import VALID_S, Sightings, Sign, TimedTenure


class Seconds:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def sign(number: int, holder: str = "other", *, released: bool = False) -> Sign:
    return Sign(number, holder, f"http://{holder}", released)


def test_it_holds_from_before_the_question_and_lapses_for_ever():
    clock = Seconds()
    asked_s = clock.now_s
    clock.now_s += 3  # the answer took that long
    tenure = TimedTenure(clock, asked_s)
    assert tenure.holds()
    clock.now_s = asked_s + VALID_S - 0.01
    assert tenure.holds()
    assert tenure.confirm(asked_s + 5)
    clock.now_s = asked_s + 5 + VALID_S
    assert not tenure.holds()
    assert not tenure.confirm(clock.now_s)
    clock.now_s -= 10
    assert not tenure.holds()


def test_a_confirmation_that_was_asked_for_before_a_long_sleep_revives_nothing_restart():
    clock = Seconds()
    tenure = TimedTenure(clock, clock.now_s)
    asked_s = clock.now_s + 1
    clock.now_s += 60
    assert not tenure.confirm(asked_s)
    assert not tenure.holds()
    assert not TimedTenure(clock, asked_s).holds()


def test_an_older_question_shortens_nothing_and_an_end_is_one():
    clock = Seconds()
    tenure = TimedTenure(clock, clock.now_s)
    assert tenure.confirm(clock.now_s - 5)
    clock.now_s += VALID_S - 0.01
    assert tenure.holds()
    tenure.end()
    assert not tenure.holds()
    with pytest.raises(Unavailable, match="connect again"):
        tenure.fence()


def test_a_write_begins_only_with_time_enough_to_end_in():
    clock = Seconds()
    tenure = TimedTenure(clock, clock.now_s)
    tenure.fence()
    clock.now_s += VALID_S - KAFKA_FENCED_S - 0.01
    tenure.fence()
    clock.now_s += 0.02
    with pytest.raises(Unavailable, match="answers slowly"):
        tenure.fence()
    assert tenure.holds()


def test_a_successor_waits_a_session_from_when_it_first_saw_the_last_sign():
    seen = Sightings("me")
    assert seen.free_s() == -math.inf
    assert seen.number == -1
    seen.saw(None, 1)
    assert seen.free_s() == -math.inf
    seen.saw(sign(4), 10)
    seen.saw(sign(4), 15)
    assert seen.free_s() == 10 + KAFKA_LEADER_SESSION_S
    seen.saw(sign(5), 16)
    seen.saw(None, 17)  # Kafka has lost it: who left it does not know
    assert seen.free_s() == 16 + KAFKA_LEADER_SESSION_S
    assert seen.leader(17) == "http://other"
    assert seen.leader(16 + KAFKA_LEADER_SESSION_S) is None
    assert seen.number == 5


def test_who_left_by_itself_or_was_oneself_is_not_waited_for():
    seen = Sightings("me")
    seen.saw(sign(4), 10)
    seen.saw(sign(5, released=True), 11)
    assert seen.free_s() == -math.inf
    assert seen.leader(11) is None
    seen.saw(sign(6, "me"), 12)
    assert seen.free_s() == -math.inf
    assert seen.leader(12) is None


_seconds = st.floats(0, 12)


@settings(max_examples=500)
@given(
    calls=st.lists(st.tuples(_seconds, _seconds, _seconds), min_size=1, max_size=8),
    evicted_later_s=_seconds,
    looks=st.lists(_seconds, max_size=12),
    took_s=_seconds,
    drift=st.floats(-0.05, 0.05),
)
def test_two_never_lead_at_once_however_slow_and_whenever_evicted_fuzz(
    calls: list[tuple[float, float, float]],
    evicted_later_s: float,
    looks: list[float],
    took_s: float,
    drift: float,
):
    """A leader confirms: it rests, asks, Kafka takes it, it hears so, each as much later as it may
    be. Its successor, whose clock runs apart, looks now and then; it is given the partition at any
    moment, even while the other one lives, and looks once more."""
    clock = Seconds()
    tenure: TimedTenure | None = None
    kept: list[tuple[float, Sign]] = []  # when Kafka took it
    until_s = -math.inf  # the leader leads until then
    for number, (rest_s, there_s, back_s) in enumerate(calls):
        asked_s = clock.now_s + rest_s
        if tenure is not None and asked_s >= until_s:
            break
        kept.append((asked_s + there_s, sign(number)))
        clock.now_s = asked_s + there_s + back_s
        tenure = tenure or TimedTenure(clock, asked_s)
        tenure.confirm(asked_s)
        until_s = max(until_s, led_until_s(tenure, clock))
    evicted_s = kept[-1][0] + evicted_later_s
    seen = Sightings("me")

    def look(asked_s: float) -> None:
        before = [one for at_s, one in kept if at_s <= asked_s]
        seen.saw(before[-1] if before else None, (asked_s + took_s) * (1 + drift))

    now_s = kept[0][0]
    for pause_s in looks:
        now_s += pause_s
        if now_s < evicted_s:
            look(now_s)
    look(evicted_s)
    begins_s = max(seen.free_s() / (1 + drift), evicted_s)
    assert begins_s >= until_s


def led_until_s(tenure: TimedTenure, clock: Seconds) -> float:
    """When it would lapse if nothing more came, found by asking it ahead of time, on a copy."""
    probe = copy(tenure)
    ahead = Seconds()
    probe._clock = ahead
    low, high = clock.now_s, clock.now_s + 2 * KAFKA_LEADER_SESSION_S
    ahead.now_s = low
    if not probe.holds():
        return -math.inf
    while high - low > 1e-6:
        ahead.now_s = (low + high) / 2
        again = copy(probe)
        if again.holds():
            low = ahead.now_s
        else:
            high = ahead.now_s
    return low
