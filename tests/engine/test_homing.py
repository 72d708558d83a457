"""Partitions and homes: fixed for ever, even, without a hole, the same for one and for many."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Misconfigured
from engine.homing import (
    HomeRange,
    mix64,
    mix64_many,
    partition_of,
    partition_of_many,
    split_by_share,
)
from engine.limits import U64_MAX
from tests.strategies import looks, u64s

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def u64_array(values):
    return np.array(values, dtype=np.uint64)


@pytest.mark.parametrize(
    ("seed", "outputs"),
    [
        (
            0,
            [
                0xE220A8397B1DCDAF,
                0x6E789E6AA1B965F4,
                0x06C45D188009454F,
                0xF88BB8A8724C81EC,
                0x1B39896A51A8749B,
            ],
        ),
        (
            1_234_567,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ],
        ),
    ],
)
def test_published_outputs_of_splitmix64_golden(seed, outputs):
    """SplitMix64's nth output is the finalizer of seed + n gammas. Never change it: on disk."""
    states = [(seed + n * _GOLDEN_GAMMA) & U64_MAX for n in range(1, len(outputs) + 1)]
    assert [mix64(state) for state in states] == outputs
    assert mix64_many(u64_array(states)).tolist() == outputs


def test_partitions_golden():
    """Never change these: an account's events would move to another partition."""
    assert mix64(0) == 0
    assert mix64(1) == 0x5692161D100B05E5
    assert mix64(U64_MAX) == 0xB4D055FCF2CBBD7B
    accounts = (0, 1, 2, 7, 42, U64_MAX)
    assert [partition_of(account, 32) for account in accounts] == [0, 5, 10, 20, 2, 27]


@looks(100)
@given(st.lists(u64s, max_size=50), st.integers(1, 1_024))
def test_scalar_and_vector_agree(values, partitions):
    array = u64_array(values)
    before = array.copy()
    mixed = mix64_many(array)
    assert mixed.dtype == np.uint64
    assert mixed.tolist() == [mix64(value) for value in values]
    found = partition_of_many(array, partitions).tolist()
    assert found == [partition_of(value, partitions) for value in values]
    assert all(0 <= partition < partitions for partition in found)
    assert np.array_equal(array, before)  # the caller's array stays as it was


def unmix64(value: int) -> int:
    """The inverse of mix64, worked out on its own: it exists, so mix64 is a bijection."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, None)):
        undone = value
        for _ in range(64 // shift + 1):
            undone = value ^ (undone >> shift)
        value = undone if factor is None else (undone * pow(factor, -1, 2**64)) & U64_MAX
    return value


@looks(100)
@given(u64s)
def test_mix64_is_a_bijection(value):
    assert unmix64(mix64(value)) == value


@pytest.mark.parametrize("partitions", [2, 3, 32, 100])
def test_consecutive_accounts_spread_evenly(partitions):
    accounts = np.arange(100_000, dtype=np.uint64)
    counts = np.bincount(partition_of_many(accounts, partitions).astype(np.int64))
    mean = len(accounts) / partitions
    assert len(counts) == partitions
    assert np.abs(counts - mean).max() < 5 * mean**0.5  # five standard deviations


def test_home_range_is_inclusive_at_both_ends():
    user = 42
    at = mix64(user)
    for first, last, inside in [
        (at, at, True),
        (0, at, True),
        (at, U64_MAX, True),
        (at + 1, U64_MAX, False),
        (0, at - 1, False),
        (0, U64_MAX, True),
    ]:
        home = HomeRange(first, last)
        assert (user in home) is inside
        assert home.contains_many(u64_array([user])).tolist() == [inside]
    assert HomeRange().first == 0
    assert HomeRange().last == U64_MAX
    assert "0x00000000000000ff" in repr(HomeRange(255))


def check_cover(ranges):
    """All of u64, in order, each place once."""
    assert ranges[0].first == 0
    assert ranges[-1].last == U64_MAX
    for left, right in pairwise(ranges):
        assert right.first == left.last + 1
    assert all(home.first <= home.last for home in ranges)


SHARES = [
    [1],
    [0.3],
    [1, 1],
    [1, 2, 3],
    [0.1] * 10,
    [1] * 100,
    [1 / 3, 1 / 3, 1 / 3],
    [1e-9, 1, 1e-9],
    [1e-18, 1.0],
    [1.0, 1e-18, 1.0, 1e-18],  # floats lost these: 1 + 1e-18 == 1
    [1e308, 1e308, 1e308],  # their float sum is infinite
    [5e-324, 5e-324],
    [2**60, 1, 2**60],
]


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_split_covers_every_user_once(shares):
    ranges = split_by_share(shares)
    assert len(ranges) == len(shares)
    check_cover(ranges)
    edges = u64_array([edge for home in ranges for edge in (home.first, home.last)])
    users = [unmix64(edge) for edge in edges.tolist()]
    for index, home in enumerate(ranges):
        inside = home.contains_many(u64_array(users))
        assert inside.tolist() == [user in home for user in users]
        assert set(np.flatnonzero(inside).tolist()) >= {2 * index, 2 * index + 1}
    homes = [[user in home for home in ranges].count(True) for user in users]
    assert homes == [1] * len(users)


@looks(150)
@given(st.lists(st.floats(1e-6, 1e6) | st.integers(1, 10**6), min_size=1, max_size=40))
def test_split_gives_every_share_its_part_fuzz(shares):
    ranges = split_by_share(shares)
    check_cover(ranges)
    for share, home in zip(shares, ranges, strict=True):
        part = (home.last - home.first + 1) / 2**64
        assert part == pytest.approx(share / sum(shares), rel=1e-6, abs=2**-60)


def test_split_golden():
    """Never change these: the cells' ranges are on disk."""
    third = split_by_share([1, 1, 1])
    assert [home.last for home in third] == [
        6_148_914_691_236_517_204,
        12_297_829_382_473_034_409,
        18_446_744_073_709_551_615,
    ]
    assert [home.last for home in split_by_share([1, 3])] == [2**62 - 1, 2**64 - 1]


def test_split_does_not_depend_on_how_floats_are_summed():
    """Ten times 0.1 are not 1.0 up to Python 3.11, and are from 3.12 on: users would have moved."""
    tenths = split_by_share([0.1] * 10)
    assert [home.last for home in tenths] == [home.last for home in split_by_share([7] * 10)]


@pytest.mark.parametrize(
    "shares",
    [[0], [1, 0], [1, -1], [float("nan")], [1, float("inf")], [1, 1e-30, 1e-30], [1e-300, 1]],
)
def test_split_refuses_a_share_without_users(shares):
    """An empty range broke `contains_many`, and a cell without users is a slip."""
    with pytest.raises(Misconfigured, match="share"):
        split_by_share(shares)


def test_cells_get_users_by_their_share():
    users = np.arange(50_000, dtype=np.uint64)
    counts = [int(home.contains_many(users).sum()) for home in split_by_share([1, 2, 2])]
    assert sum(counts) == 50_000
    assert counts == pytest.approx([10_000, 20_000, 20_000], rel=0.03)
