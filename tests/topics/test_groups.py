"""Positions of groups: too many of them are named, and harm nobody who was there before."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Unavailable
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
