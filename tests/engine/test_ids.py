"""Post ids: layout, order, what a clock that goes back or stands still does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput, Unavailable
from engine.ids import EPOCH_MS, IdGenerator, check_post_id, id_at, id_ms, make_id
from engine.limits import (
    ID_CLOCK_BACK_MS_MAX,
    ID_NODE_MAX,
    ID_SEQUENCE_MAX,
    POST_ID_MAX,
)
from tests.strategies import looks

LAST_MS = EPOCH_MS + 2**41 - 1
NOW = 1_800_000_000_000


def test_layout_golden():
    """Never change these: ids are on disk and in clients."""
    assert EPOCH_MS == 1_262_304_000_000
    assert make_id(EPOCH_MS, 0, 0) == 0
    assert make_id(EPOCH_MS, 0, 1) == 1
    assert make_id(EPOCH_MS, 1, 0) == 0x1000
    assert make_id(EPOCH_MS + 1, 0, 0) == 0x40_0000
    assert make_id(EPOCH_MS + 5, 3, 7) == 5 * 4_194_304 + 3 * 4_096 + 7
    assert make_id(LAST_MS, ID_NODE_MAX, ID_SEQUENCE_MAX) == POST_ID_MAX == 2**63 - 1


@looks(200)
@given(st.integers(EPOCH_MS, LAST_MS), st.integers(0, ID_NODE_MAX), st.integers(0, ID_SEQUENCE_MAX))
def test_parts_come_back(ms, node, sequence):
    post = make_id(ms, node, sequence)
    assert 0 <= post <= POST_ID_MAX
    assert id_ms(post) == ms
    assert (post >> 12) & ID_NODE_MAX == node
    assert post & ID_SEQUENCE_MAX == sequence
    assert id_at(ms) <= post < id_at(ms) + 2**22


@looks(100)
@given(st.integers(-(2**45), 2**45), st.integers(-(2**45), 2**45))
def test_id_at_is_clamped_and_never_descends(earlier, later):
    earlier, later = sorted((earlier, later))
    assert 0 <= id_at(earlier) <= id_at(later) <= POST_ID_MAX


def test_id_at_edges():
    assert id_at(EPOCH_MS - 1) == id_at(0) == 0
    assert id_at(LAST_MS + 1) == id_at(LAST_MS) == make_id(LAST_MS, 0, 0)


def test_one_millisecond_has_4096_ids_then_none():
    generator = IdGenerator(5)
    first = generator.take(4_000, NOW)
    rest = generator.take(4_000, NOW)
    assert len(first) == 4_000
    assert len(rest) == 96  # fewer: the millisecond has no more
    assert generator.take(1, NOW) == []
    assert first + rest == list(range(make_id(NOW, 5, 0), make_id(NOW, 5, ID_SEQUENCE_MAX) + 1))
    assert generator.take(1, NOW + 1) == [make_id(NOW + 1, 5, 0)]


def test_more_than_a_milliseconds_worth_at_once():
    assert len(IdGenerator(0).take(10_000, NOW)) == 4_096


def test_none_asked_none_given():
    generator = IdGenerator(0)
    assert generator.take(0, NOW) == []
    assert generator.take(2, NOW) == [make_id(NOW, 0, 0), make_id(NOW, 0, 1)]
    assert generator.take(0, NOW) == generator.take(-2, NOW) == []
    assert generator.take(1, NOW) == [make_id(NOW, 0, 2)]


def test_nothing_in_or_before_the_remembered_millisecond_restart():
    generator = IdGenerator(1, last_ms=NOW)
    assert generator.take(1, NOW) == []
    assert generator.take(1, NOW - 1) == []
    assert generator.take(1, NOW + 1) == [make_id(NOW + 1, 1, 0)]


def test_clock_back_waits_then_refuses():
    generator = IdGenerator(1)
    generator.take(1, NOW)
    assert generator.take(1, NOW - ID_CLOCK_BACK_MS_MAX) == []
    with pytest.raises(Unavailable, match="5001 ms behind the last id of node 1"):
        generator.take(1, NOW - ID_CLOCK_BACK_MS_MAX - 1)
    assert generator.take(1, NOW) == [make_id(NOW, 1, 1)]  # caught up: on where it was


@pytest.mark.parametrize("now_ms", [0, EPOCH_MS - 1, LAST_MS + 1])
def test_clock_that_no_id_can_hold(now_ms):
    """A machine that wakes up in 1970 gave negative ids."""
    with pytest.raises(Unavailable, match=r"outside 2010\.\.2079"):
        IdGenerator(0).take(1, now_ms)


@pytest.mark.parametrize("now_ms", [EPOCH_MS, LAST_MS])
def test_clock_at_the_edges_of_what_ids_hold(now_ms):
    assert IdGenerator(0).take(1, now_ms) == [make_id(now_ms, 0, 0)]


@looks(150)
@given(
    st.lists(
        st.tuples(st.integers(-ID_CLOCK_BACK_MS_MAX, 3), st.sampled_from([0, 1, 3, 4_095, 5_000])),
        max_size=20,
    )
)
def test_strictly_ascending_whatever_the_clock_does_fuzz(steps):
    generator = IdGenerator(9)
    taken: list[int] = []
    for drift, count in steps:
        now_ms = max(generator.last_ms, NOW) + drift
        ids = generator.take(count, now_ms)
        assert len(ids) <= count
        assert all(id_ms(post) == now_ms for post in ids)
        taken += ids
    assert taken == sorted(set(taken))


@pytest.mark.parametrize("node", [-1, ID_NODE_MAX + 1])
def test_no_such_node(node):
    with pytest.raises(BadInput, match=r"is not in 0\.\.1023"):
        IdGenerator(node)


def test_nodes_never_share_an_id():
    ids = [IdGenerator(node).take(4_096, NOW) for node in (0, 1, ID_NODE_MAX)]
    assert len({post for of_node in ids for post in of_node}) == 3 * 4_096


def test_check_post_id_bounds():
    assert check_post_id(0, "id") == 0
    assert check_post_id(2**63 - 1, "id") == 2**63 - 1
    for value in (2**63, 2**64, -1):
        with pytest.raises(BadInput, match=r"id: -?[0-9]+ is no post id") as caught:
            check_post_id(value, "id")
        assert caught.value.field == "id"
