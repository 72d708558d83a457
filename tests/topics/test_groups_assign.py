"""Partitions among members: even, stable, complete."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from topics.groups_assign import assign


def test_nobody_has_nothing():
    assert assign(4, [], {0: "a"}) == {}


def test_a_newcomer_takes_half_and_the_rest_stays():
    before = assign(8, ["a"], {})
    after = assign(8, ["a", "b"], before)
    assert sorted(after.values()) == ["a"] * 4 + ["b"] * 4
    assert sum(before[p] != after[p] for p in range(8)) == 4


def test_more_members_than_partitions_leaves_some_waiting():
    assert len(set(assign(2, ["a", "b", "c"], {}).values())) == 2


@given(st.integers(1, 40), st.lists(st.integers(0, 30), min_size=1, unique=True), st.data())
def test_every_partition_has_a_member_and_shares_are_even(partitions, names, data):
    members = [f"m{name}" for name in names]
    owners = {
        partition: f"m{data.draw(st.integers(0, 30))}"
        for partition in data.draw(st.sets(st.integers(0, partitions - 1)))
    }
    found = assign(partitions, members, owners)
    assert found.keys() == set(range(partitions))
    sizes = [list(found.values()).count(member) for member in members]
    assert max(sizes) - min(sizes) <= 1
    # No partition leaves a member that stays within its share.
    held = {m: [p for p, owner in owners.items() if owner == m] for m in members}
    for member, parts in held.items():
        kept = sum(found[p] == member for p in parts)
        assert kept >= min(len(parts), partitions // len(members))
