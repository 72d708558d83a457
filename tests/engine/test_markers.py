"""Read markers only grow (I7), whatever devices report in whatever order."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from engine.limits import POST_ID_MAX
from engine.markers import advance, is_seen
from tests.strategies import looks, post_ids


def test_first_report_sets_it():
    assert advance(None, 0) == 0
    assert advance(None, POST_ID_MAX) == POST_ID_MAX


@looks(200)
@given(st.lists(post_ids, min_size=1), st.randoms(use_true_random=False))
def test_grows_and_ends_at_the_maximum_in_any_order(reports, random):
    states = list(accumulate([None, *reports], advance))[1:]
    assert states == sorted(states)
    shuffled = reports * 2  # repeated reports too
    random.shuffle(shuffled)
    final = list(accumulate([None, *shuffled], advance))[-1]
    assert final == states[-1] == max(reports)


def test_seen_is_at_or_below_the_marker():
    assert not is_seen(0, None)
    assert is_seen(0, 0)
    assert is_seen(5, 5)
    assert is_seen(4, 5)
    assert not is_seen(6, 5)


@looks(100)
@given(st.none() | post_ids, post_ids, post_ids)
def test_seen_stays_seen(marker, report, post):
    assert is_seen(report, advance(marker, report))
    if is_seen(post, marker):
        assert is_seen(post, advance(marker, report))
