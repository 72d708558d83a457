"""One gateway coordinates: the holder of the lock, until it lets go or dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Unavailable
from topics.groups_lock import FileLeadership


def test_the_first_one_asked_leads_and_the_others_know_where(tmp_path: Path):
    one = FileLeadership(tmp_path, lambda: "http://127.0.0.1:1")
    two = FileLeadership(tmp_path, lambda: "http://127.0.0.1:22")
    assert one.leader() is None
    assert two.leader() == "http://127.0.0.1:1"
    assert one.leader() is None
    one.release()
    assert two.leader() is None
    assert one.leader() == "http://127.0.0.1:22"
    two.release()
    two.release()


def test_while_it_changes_hands_nobody_is_named(tmp_path: Path):
    one = FileLeadership(tmp_path, lambda: "")
    assert one.leader() is None
    with pytest.raises(Unavailable, match="try again"):
        FileLeadership(tmp_path, lambda: "http://x").leader()
    one.release()
