"""A group's state under a clock of the test's: moves, leases, checkpoints of both kinds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.errors import BadInput, Conflict, Precondition, Unavailable
from engine.limits import GROUP_SETTLE_S
from topics.filters import ALL
from topics.groups_lock import Unlimited
from topics.groups_state import GroupState, Member
from topics.stream_passage import Passage
from topics.stream_reader import Page


def group(partitions: int = 4) -> GroupState:
    return GroupState("g", ALL, dict.fromkeys(range(partitions), 0), Unlimited())


def joined(state: GroupState, name: str, now: float = 0.0, **options: Any) -> Member:
    settings = {"manual": True, "lease_s": 30.0, "client": name, **options}
    member = Member(state, name, **settings)
    state.join(member, now)
    return member


def page(partition: int, first: int, following: int, lines: int | None = None) -> Page:
    count = following - first if lines is None else lines
    return Page(partition, first, following, b"x\n" * count, range(first, first + count))


def test_one_member_has_everything_and_a_second_takes_half_at_once():
    state = group()
    one = joined(state, "one")
    assert one.places() == {0: 0, 1: 0, 2: 0, 3: 0}
    two = joined(state, "two")
    assert len(one.places()) == len(two.places()) == 2
    assert one.places().keys() | two.places().keys() == {0, 1, 2, 3}
    assert [notice["control"] for notice in one.notices][-1] == "rebalance"


def test_a_partition_moves_only_once_all_of_it_is_acknowledged():
    state = group(2)
    one = joined(state, "one")
    assert one.give(page(0, 0, 3), 0.0)
    assert one.give(page(1, 0, 5), 0.0)
    two = joined(state, "two", 1.0)
    assert two.places() == {}
    assert len(one.places()) == 1  # no more is given of the one that is to move
    moving = ({0, 1} - one.places().keys()).pop()
    end = {0: 3, 1: 5}[moving]
    assert not one.give(page(moving, end, end + 1), 1.0)
    state.acknowledge("one", {moving: end - 1}, 2.0)
    assert two.places() == {}
    state.acknowledge("one", {moving: end}, 3.0)
    assert two.places() == {moving: end}
    assert two.wake.is_set()
    state.acknowledge("one", {moving: end}, 4.0)  # said again: it has moved on, nothing happens
    two.give(page(moving, end, end + 2), 4.0)
    with pytest.raises(Conflict, match="is not session one"):
        state.acknowledge("one", {moving: end + 1}, 5.0)


def test_a_member_that_leaves_gives_back_what_it_did_not_acknowledge():
    state = group(1)
    one = joined(state, "one")
    one.give(page(0, 0, 10), 0.0)
    state.acknowledge("one", {0: 4}, 0.0)
    state.leave(one, clean=True)
    two = joined(state, "two")
    assert two.places() == {0: 4}


def test_a_lease_ends_only_with_something_unacknowledged():
    state = group(1)
    one = joined(state, "one", lease_s=10.0)
    assert state.tick(1_000.0) == []
    one.give(page(0, 0, 1), 1_000.0)
    assert state.tick(1_009.0) == []
    assert state.tick(1_010.5) == [one]
    state.acknowledge("one", {0: 1}, 1_011.0)
    assert state.tick(5_000.0) == []


def test_an_automatic_members_lease_ends_when_it_takes_nothing():
    state = group(1)
    one = joined(state, "one", manual=False, lease_s=10.0)
    one.give(page(0, 0, 1), 0.0)
    one.sending_since = 0.0
    assert state.tick(9.0) == []
    assert state.tick(11.0) == [one]


def test_automatic_checkpoints_are_what_was_taken_a_while_ago():
    state = group(1)
    one = joined(state, "one", manual=False)
    pages = [page(0, 0, 3), page(0, 3, 5)]
    for number, one_page in enumerate(pages):
        one.give(one_page, float(number))
        one.took([one_page], float(number))
    assert state.unkept() == {}
    state.tick(GROUP_SETTLE_S + 0.5)
    assert state.unkept() == {0: 3}
    state.tick(GROUP_SETTLE_S + 1.5)
    assert state.unkept() == {0: 5}


def test_what_a_broken_connection_took_last_comes_again_and_after_a_clean_end_it_does_not():
    for clean, offset in ((False, 0), (True, 3)):
        state = group(1)
        one = joined(state, "one", manual=False)
        one.give(page(0, 0, 3), 0.0)
        one.took([page(0, 0, 3)], 0.1)
        one.give(page(0, 3, 6), 0.2)  # never taken
        state.leave(one, clean=clean)
        assert joined(state, "two").places() == {0: offset}


def test_filtered_out_events_need_no_acknowledgement():
    state = group(1)
    one = joined(state, "one")
    assert one.give(page(0, 0, 100, lines=0), 0.0)
    assert not one.unacknowledged()
    assert state.unkept() == {0: 100}
    assert one.give(page(0, 100, 200, lines=1), 0.0)
    assert one.unacknowledged()
    state.acknowledge("one", {0: 101}, 0.0)
    assert state.unkept() == {0: 200}


def test_acknowledging_is_checked_all_or_nothing():
    state = group(2)
    one = joined(state, "one")
    one.give(page(0, 0, 3), 0.0)
    with pytest.raises(BadInput, match="beyond what was delivered of partition 1, 0"):
        state.acknowledge("one", {0: 3, 1: 1}, 0.0)
    assert state.unkept() == {}
    with pytest.raises(Conflict, match="none of group"):
        state.acknowledge("other", {0: 1}, 0.0)
    with pytest.raises(Precondition, match="ack=manual"):
        joined(state, "auto", manual=False)
        state.acknowledge("auto", {0: 0}, 0.0)


def test_a_page_that_is_not_next_or_not_ones_own_is_not_sent():
    state = group(2)
    one = joined(state, "one")
    assert not one.give(page(0, 5, 6), 0.0)
    two = joined(state, "two")
    mine = next(iter(two.places()))
    assert not one.give(page(mine, 0, 1), 0.0)


def test_too_much_unacknowledged_makes_a_member_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.groups_state.STREAM_UNACKED_MAX", 10)
    state = group(1)
    one = joined(state, "one")
    one.give(page(0, 0, 10), 0.0)
    assert one.places() == {}
    state.acknowledge("one", {0: 1}, 0.0)
    assert one.places() == {0: 10}


def test_a_relayed_member_whose_client_takes_nothing_is_cut_at_the_end_of_the_tenure():
    """The error would wait behind what lies in the other gateway; who has taken all gets it."""
    state, cut = group(), []
    for name, taken in (("behind", 0), ("caught up", 4)):
        member = joined(state, name)
        member.abort = lambda name=name: cut.append(name)
        member.passage = Passage(lambda: 0.0, member.passed)
        asyncio.run(member.passage.counted(nothing)(b"1234"))
        member.passage.heard(b"%d\n" % taken)
    state.end(Unavailable("another one coordinates"))
    assert cut == ["behind"]


async def nothing(content: bytes) -> None:
    """Takes it."""
