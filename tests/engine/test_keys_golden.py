"""The bytes of every key, frozen. Never change a vector here: the keys are on disk.

Worked out by hand from the table in `engine/keys.py`; `~` is bitwise not, all is big-endian.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine import keys
from engine.limits import U64_MAX

A, B, C = 0x0102030405060708, 0x1112131415161718, 0x2122232425262728
NOT_B = "eeedecebeae9e8e7"  # ~B

VECTORS = [  # made, hex
    (keys.inbox_key(1, 2, 3), "0000000000000001 fffffffffffffffd 0000000000000003"),
    (keys.inbox_key(A, B, C), f"0102030405060708 {NOT_B} 2122232425262728"),
    (keys.inbox_key(0, 0, 0), "0000000000000000 ffffffffffffffff 0000000000000000"),
    (
        keys.inbox_key(U64_MAX, 2**63 - 1, U64_MAX),
        "ffffffffffffffff 8000000000000000 ffffffffffffffff",
    ),
    (keys.outbox_key(7, 2), "0000000000000007 fffffffffffffffd 0000000000000007"),
    (keys.outbox_key(A, B), f"0102030405060708 {NOT_B} 0102030405060708"),
    (keys.post_key(2, 7), "fffffffffffffffd 0000000000000007"),
    (keys.post_key(B, A), f"{NOT_B} 0102030405060708"),
    (keys.post_key(2**63 - 1, U64_MAX), "8000000000000000 ffffffffffffffff"),
    (keys.post_prefix(B), NOT_B),
    (keys.user_prefix(A), "0102030405060708"),
    (keys.toggle_key(5, 7, 1, 9), "0005 0000000000000007 0000000000000001 0000000000000009"),
    (
        keys.toggle_key(0xFFFE, A, B, C),
        "fffe 0102030405060708 1112131415161718 2122232425262728",
    ),
    (keys.partition_prefix(5), "0005"),
    (keys.partition_prefix(0xFFFF), "ffff"),
    (keys.following_key(1, 7, 9), "0000000000000001 0000000000000007 0000000000000009"),
    (keys.following_key(A, B, C), "0102030405060708 1112131415161718 2122232425262728"),
    (keys.pair_prefix(A, B), "0102030405060708 1112131415161718"),
    (keys.relation_key(1, keys.BLOCKS, 7), "0000000000000001 01 0000000000000007"),
    (keys.relation_key(A, keys.MUTES, B), "0102030405060708 02 1112131415161718"),
    (keys.relation_key(A, keys.BLOCKED_BY, B), "0102030405060708 03 1112131415161718"),
    (keys.place_key(5, 9), "0005 0000000000000009"),
    (keys.place_key(0xFFFE, A), "fffe 0102030405060708"),
]


@pytest.mark.parametrize(("made", "expected"), VECTORS, ids=[row[1] for row in VECTORS])
def test_key_golden(made, expected):
    assert made == bytes.fromhex(expected)


def test_sizes_golden():
    assert keys.INBOX_KEY_BYTES == len(keys.inbox_key(1, 2, 3)) == 24
    assert len(keys.outbox_key(1, 2)) == 24
    assert keys.POST_KEY_BYTES == len(keys.post_key(1, 2)) == 16
    assert len(keys.toggle_key(1, 2, 3, 4)) == 26
    assert len(keys.following_key(1, 2, 3)) == 24
    assert len(keys.relation_key(1, 1, 2)) == 17
    assert len(keys.place_key(1, 2)) == 10


def test_classes_of_relations_golden():
    assert (keys.BLOCKS, keys.MUTES, keys.BLOCKED_BY) == (1, 2, 3)


def test_arrays_golden():
    made = keys.inbox_keys(
        np.array([1, A, U64_MAX], dtype=np.uint64),
        np.array([2, B, 0], dtype=np.uint64),
        np.array([3, C, U64_MAX], dtype=np.uint64),
    )
    assert made.dtype == np.uint8
    assert made.shape == (3, 24)
    assert [row.tobytes().hex() for row in made] == [
        "0000000000000001" + "fffffffffffffffd" + "0000000000000003",
        "0102030405060708" + NOT_B + "2122232425262728",
        "ffffffffffffffff" + "ffffffffffffffff" + "ffffffffffffffff",
    ]
