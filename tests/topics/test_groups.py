"""Positions of groups: too many of them are named, and harm nobody who was there before."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Precondition, Unavailable
from topics import groups
from topics.groups import GroupPositions


def test_too_many_groups_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "POSITIONS_MAP_BYTES", 256 * 1024)
    GroupPositions.create(tmp_path)
    positions = GroupPositions(tmp_path, 100)
    vector = dict.fromkeys(range(100), 2**63)
    kept: list[str] = []
    with pytest.raises(Unavailable, match="too many groups"):
        for number in range(1_000):
            positions.commit(f"group-{number:04d}", vector)
            kept.append(f"group-{number:04d}")
    assert len(kept) > 10
    assert positions.groups() == kept
    assert all(positions.committed(group) == vector for group in kept)
    positions.close()


def test_one_group_more_than_are_kept_is_refused_by_name_until_one_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUPS_KEPT_MAX", 3)
    GroupPositions.create(tmp_path)
    positions = GroupPositions(tmp_path, 4)
    for name in ("a", "a.b", "b"):
        positions.commit(name, {0: 1, 3: 2})
    with pytest.raises(Precondition, match=r"3 groups .* 'c' gets none.*groups forget"):
        positions.commit("c", {0: 1})
    positions.commit("a", {0: 9})  # who was there before goes on
    positions.commit("cell.c1", {0: 1})  # a cell is never refused
    positions.commit("relay.east", {0: 1})
    positions.forget("a")
    positions.forget("nobody")
    assert positions.committed("a") == {}
    assert positions.committed("a.b") == positions.committed("b") == {0: 1, 3: 2}
    positions.commit("c", {0: 1})
    assert positions.groups() == ["a.b", "b", "c", "cell.c1", "relay.east"]
    positions.close()
