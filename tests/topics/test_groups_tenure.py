"""Who may coordinate by clocks alone: no two at once, whatever is stopped, slow or forgotten."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Unavailable
from engine.limits import KAFKA_FENCED_S, KAFKA_LEADER_MARGIN_S, KAFKA_LEADER_SESSION_S
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
    with pytest.raises(Unavailable, match="connect again"):
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


@given(
    pauses=st.lists(st.tuples(*[st.floats(0, 30)] * 3), min_size=1, max_size=8),
    looks=st.lists(st.floats(0.01, 20), min_size=1, max_size=12),
    evicted_s=st.floats(0, 60),
    drift=st.floats(-KAFKA_LEADER_MARGIN_S / 12, KAFKA_LEADER_MARGIN_S / 12),
)
def test_two_never_lead_at_once_however_slow_and_whenever_evicted_fuzz(
    pauses: list[tuple[float, float, float]],
    looks: list[float],
    evicted_s: float,
    drift: float,
):
    """A leader confirms with any delays; its successor, whose clock drifts, looks now and then,
    and is given the partition at any moment, even while the other one lives."""
    clock = Seconds()
    clock.now_s = 0.0
    tenure: TimedTenure | None = None
    kept: list[tuple[float, Sign]] = []  # when Kafka took it
    valid: list[tuple[float, float]] = []  # spans of true time in which the leader leads
    for number, (rest, there, back) in enumerate(pauses):
        began_s = clock.now_s + rest
        at_s = began_s + there
        if at_s >= evicted_s:
            break
        kept.append((at_s, sign(number)))
        clock.now_s = at_s + back
        if tenure is None:
            tenure = TimedTenure(clock, began_s)
        else:
            tenure.confirm(began_s)
        if not tenure.holds():
            break
        valid.append((clock.now_s, began_s + VALID_S))
    seen = Sightings("me")

    def look(asked_s: float, answered_s: float) -> None:
        before = [one for at_s, one in kept if at_s <= asked_s]
        seen.saw(before[-1] if before else None, answered_s * (1 + drift))

    now_s = 0.0
    for pause in looks:
        now_s += pause
        if now_s >= evicted_s:
            break
        look(now_s, now_s + 0.5)
    look(evicted_s, evicted_s + 0.5)  # the one after it was given the partition
    begins_s = max(seen.free_s() / (1 + drift), evicted_s)
    assert all(until_s <= begins_s for _, until_s in valid if until_s > evicted_s)
