"""What is pushed and what is pulled: the rules on recorded intervals, and their bytes."""

from __future__ import annotations

import random

import pytest

from engine import materialize
from engine.errors import Corruption
from engine.ids import make_id
from engine.limits import POST_ID_MAX, PULL_LATE_MS_MAX, PULL_ORDER_MS, U64_MAX
from engine.materialize import OPEN, PushPolicy
from engine.ports import AuthorInterval

NOW = 1_767_225_600_000
POLICY = PushPolicy(100)


def interval(start: int, end: int = OPEN, *, seconds: int = 0, author: int = 9) -> AuthorInterval:
    """From `start` on; one offset a second."""
    opened = materialize.opened(author, start, NOW + start * 1_000, 101, POLICY)
    return opened if end == OPEN else materialize.closed(opened, end, NOW + end * 1_000, 79)


def test_opens_above_the_bound_and_closes_below_four_fifths_of_it() -> None:
    pulled, changes = False, []
    for followers in [*range(95, 106), *range(105, 74, -1), *range(75, 106)]:
        if POLICY.pulls(pulled, followers) != pulled:
            pulled = not pulled
            changes.append(followers)
    assert changes == [101, 79, 101]


def test_a_bound_of_one_opens_and_closes() -> None:
    policy = PushPolicy(1)
    assert not policy.pulls(False, 1) and policy.pulls(False, 2)
    assert policy.pulls(True, 1) and not policy.pulls(True, 0)


def test_an_interval_is_half_open() -> None:
    found = [offset for offset in range(30) if materialize.covers(interval(10, 20), offset)]
    assert found == list(range(10, 20))
    assert materialize.covers(interval(10), U64_MAX) and not materialize.covers(interval(10), 9)


def test_late_posts_are_pushed_inside_an_interval() -> None:
    time_ms = NOW + 15_000
    oldest = make_id(time_ms - PULL_LATE_MS_MAX, 0, 0)
    kept = [interval(1, 5), interval(10)]
    assert materialize.leaves_out(kept, oldest, 15, time_ms)
    assert not materialize.leaves_out(kept, oldest - 1, 15, time_ms)
    assert not materialize.leaves_out(kept, oldest, 5, time_ms)
    assert not materialize.leaves_out([], oldest, 15, time_ms)


def test_every_post_that_is_left_out_lies_in_the_range_that_pages_look_at() -> None:
    dice = random.Random(1)
    for _ in range(2_000):
        kept = [interval(10, 20), interval(30, 31), interval(40, dice.choice([OPEN, 50]))]
        kept = kept[: dice.randrange(1, 4)]
        low, high = materialize.id_range(kept)
        offset = dice.randrange(60)
        time_ms = NOW + offset * 1_000
        post = make_id(time_ms + dice.randrange(-70_000, 60_001), 0, dice.randrange(4_096))
        if materialize.leaves_out(kept, post, offset, time_ms):
            assert low <= post <= high
    assert materialize.id_range([interval(0)])[1] == POST_ID_MAX


def test_ids_further_apart_than_the_order_are_in_the_order_of_offsets() -> None:
    """What lets a page stop below a post from before the follow."""
    before_ahead = make_id(NOW + 60_000, 0, 0)  # appended at NOW, as far ahead as it may be
    after_late = make_id(NOW - PULL_LATE_MS_MAX, 0, 0)  # appended at NOW too, behind it
    assert materialize.oldest_in_order(before_ahead) <= after_late
    assert materialize.oldest_in_order(make_id(NOW, 0, 7)) == make_id(NOW - PULL_ORDER_MS, 0, 0)
    assert materialize.oldest_in_order(5) == 0


def test_the_record_decides_up_to_its_last_decision() -> None:
    assert materialize.decided_to([]) == -1
    assert materialize.decided_to([interval(3, 9), interval(12)]) == 12
    assert materialize.decided_to([interval(3, 9)]) == 9


def test_join_is_the_same_in_any_order_and_closed_wins() -> None:
    told = [interval(3), interval(3, 20), interval(3, 9), interval(3)]
    dice = random.Random(2)
    for _ in range(50):
        dice.shuffle(told)
        kept = told[0]
        for each in told[1:]:
            kept = materialize.join(kept, each)
        assert kept == interval(3, 9)


def test_bytes_of_a_record_golden() -> None:
    """They lie on disks: never change them, add a version."""
    closed = AuthorInterval(9, 258, NOW, 20_001, 20_000, 772, NOW + 1, 15_999)
    key, value = materialize.pack_key(closed), materialize.pack_value(closed)
    assert key.hex() == "0000000000000009" + "0000000000000102"
    assert value.hex() == (
        "01" + "0000019b76daa800" + "0000000000004e21" + "0000000000004e20"
        + "0000000000000304" + "0000019b76daa801" + "0000000000003e7f"
    )  # fmt: skip
    still = closed._replace(to_offset=OPEN, to_ms=0, to_followers=0)
    tail = "ff" * 8 + "00" * 16
    assert materialize.pack_value(still).hex() == value.hex()[:50] + tail
    for each in (closed, still):
        assert materialize.unpack(key, materialize.pack_value(each)) == each


@pytest.mark.parametrize("value", [b"", b"\x01", b"\x02" + bytes(48), b"\x01" + bytes(49)])
def test_another_version_is_refused(value: bytes) -> None:
    with pytest.raises(Corruption, match="version 1"):
        materialize.unpack(bytes(16), value)
