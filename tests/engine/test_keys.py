"""Keys sort as pages and scans need them, come back whole, and arrays equal scalars."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import keys
from engine.limits import U16_MAX, U64_MAX
from tests.strategies import edges, looks, post_ids, u64s

u16s = edges(U16_MAX)
# Few values, so that equal first parts come often and the later parts decide.
near = st.sampled_from([0, 1, 255, 256, 2**32, 2**63 - 2, 2**63 - 1])
far = st.sampled_from([0, 1, 255, 256, 2**63, U64_MAX - 1, U64_MAX])
triples = st.lists(st.tuples(u64s | far, post_ids | near, u64s | far), max_size=40, unique=True)


def u64_array(values):
    return np.array(list(values), dtype=np.uint64)


@looks(100)
@given(triples)
def test_inbox_order_is_reader_then_newest_then_author(rows):
    in_bytes = sorted(rows, key=lambda row: keys.inbox_key(*row))
    assert in_bytes == sorted(rows, key=lambda row: (row[0], -row[1], row[2]))


@looks(100)
@given(triples)
def test_outbox_order_is_author_then_newest(rows):
    pairs = list({(row[0], row[1]) for row in rows})
    in_bytes = sorted(pairs, key=lambda pair: keys.outbox_key(*pair))
    assert in_bytes == sorted(pairs, key=lambda pair: (pair[0], -pair[1]))


@looks(100)
@given(triples)
def test_post_order_is_newest_then_author(rows):
    pairs = list({(row[1], row[2]) for row in rows})
    in_bytes = sorted(pairs, key=lambda pair: keys.post_key(*pair))
    assert in_bytes == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))


@looks(100)
@given(st.lists(st.tuples(u16s, u64s | far, u64s | far, u64s | far), max_size=40, unique=True))
def test_other_keys_sort_by_their_parts(rows):
    assert sorted(rows, key=lambda row: keys.toggle_key(*row)) == sorted(rows)
    follows = [row[1:] for row in rows]
    assert sorted(follows, key=lambda row: keys.following_key(*row)) == sorted(follows)
    places = [row[:2] for row in rows]
    assert sorted(places, key=lambda row: keys.place_key(*row)) == sorted(places)
    relations = [(row[1], row[0] % 3 + 1, row[2]) for row in rows]
    assert sorted(relations, key=lambda row: keys.relation_key(*row)) == sorted(relations)


@looks(100)
@given(u16s, u64s, post_ids, u64s, st.integers(0, 255))
def test_every_key_comes_back(partition, one, post, two, relation):
    assert keys.parse_inbox_key(keys.inbox_key(one, post, two)) == (one, post, two)
    assert keys.parse_inbox_key(keys.outbox_key(one, post)) == (one, post, one)
    assert keys.parse_post_key(keys.post_key(post, one)) == (post, one)
    assert keys.parse_toggle_key(keys.toggle_key(partition, one, two, post)) == (
        partition,
        one,
        two,
        post,
    )
    assert keys.parse_following_key(keys.following_key(one, two, post)) == (one, two, post)
    assert keys.parse_relation_key(keys.relation_key(one, relation, two)) == (one, relation, two)
    assert keys.parse_place_key(keys.place_key(partition, one)) == (partition, one)


@looks(100)
@given(triples)
def test_scalars_equal_arrays(rows):
    readers, posts, authors = (u64_array(row[i] for row in rows) for i in range(3))
    made = keys.inbox_keys(readers, posts, authors)
    assert made.dtype == np.uint8
    assert made.shape == (len(rows), 24)
    assert made.flags["C_CONTIGUOUS"]
    assert [bytes(row) for row in made] == [keys.inbox_key(*row) for row in rows]
    parsed = keys.parse_inbox_keys(made.tobytes())
    assert all(part.dtype == np.uint64 for part in parsed)
    assert [tuple(row) for row in zip(*(part.tolist() for part in parsed), strict=True)] == rows


def test_no_keys_at_all():
    none = u64_array([])
    assert keys.inbox_keys(none, none, none).shape == (0, 24)
    assert [len(part) for part in keys.parse_inbox_keys(b"")] == [0, 0, 0]


@looks(100)
@given(
    st.binary(max_size=6) | st.sampled_from([b"\xff", b"\xff" * 8, b"a\xff\xff", b"\x00"]),
    st.binary(max_size=8),
)
def test_after_prefix_bounds_exactly_what_begins_with_it(prefix, other):
    behind = keys.after_prefix(prefix)
    if behind is None:
        assert prefix == b"\xff" * len(prefix)
    for key in (other, prefix, prefix + other, prefix + b"\xff" * 9):
        inside = key >= prefix and (behind is None or key < behind)
        assert inside == key.startswith(prefix)


@looks(100)
@given(u16s, u64s, u64s, post_ids, u64s)
def test_prefixes_begin_their_keys(partition, user, other, post, offset):
    assert keys.inbox_key(user, post, other).startswith(keys.user_prefix(user))
    assert keys.outbox_key(user, post).startswith(keys.user_prefix(user))
    assert keys.following_key(user, other, offset).startswith(keys.user_prefix(user))
    assert keys.following_key(user, other, offset).startswith(keys.pair_prefix(user, other))
    assert keys.relation_key(user, keys.MUTES, other).startswith(keys.user_prefix(user))
    assert keys.post_key(post, user).startswith(keys.post_prefix(post))
    assert keys.toggle_key(partition, user, other, offset).startswith(
        keys.partition_prefix(partition)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: keys.inbox_key(-1, 0, 0),
        lambda: keys.inbox_key(2**64, 0, 0),
        lambda: keys.inbox_key(0, 0, 2**64),
        lambda: keys.inbox_key(0, 2**64, 0),
        lambda: keys.post_key(-1, 0),
        lambda: keys.toggle_key(2**16, 0, 0, 0),
        lambda: keys.place_key(0, -1),
        lambda: keys.relation_key(0, 256, 0),
    ],
)
def test_numbers_that_do_not_fit_make_no_key(make):
    """Never a wrapped key: it would be somebody else's."""
    with pytest.raises(struct.error):
        make()


@pytest.mark.parametrize("size", [1, 8, 23, 25])
def test_bytes_that_are_no_whole_keys_are_refused(size):
    with pytest.raises(ValueError):
        keys.parse_inbox_keys(b"x" * size)
    with pytest.raises(struct.error):
        keys.parse_inbox_key(b"x" * size)
