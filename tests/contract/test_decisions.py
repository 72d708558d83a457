"""The contract of the port `Decisions`: every backend passes the same tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cells.decisions import EmbeddedDecisions
from cells.hbase_decisions import HBaseDecisions
from engine.limits import U64_MAX
from engine.materialize import OPEN
from engine.ports import AuthorInterval, Decisions
from tests.hbase_backend import empty_cell

BACKENDS = ["embedded", pytest.param("hbase", marks=pytest.mark.real)]
NOW = 1_767_225_600_000
Opens = Callable[[], Decisions]


@pytest.fixture(params=BACKENDS)
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    opened: list[Decisions] = []

    def embedded() -> Decisions:
        for decisions in opened:
            decisions.close()
        opened.append(EmbeddedDecisions.open(tmp_path / "decisions"))
        return opened[-1]

    def hbase() -> Decisions:
        opened.append(HBaseDecisions.open(url))
        return opened[-1]

    with ExitStack() as stack:
        if request.param == "embedded":
            yield embedded
        else:
            url = stack.enter_context(empty_cell())
            yield hbase
        for decisions in opened:
            decisions.close()


@pytest.fixture
def decisions(opens: Opens) -> Decisions:
    return opens()


def opening(author: int, start: int) -> AuthorInterval:
    return AuthorInterval(author, start, NOW + start, 101, 100, OPEN, 0, 0)


def closing(author: int, start: int, end: int) -> AuthorInterval:
    return opening(author, start)._replace(to_offset=end, to_ms=NOW + end, to_followers=79)


def test_nothing_is_decided_at_first(decisions: Decisions) -> None:
    assert decisions.intervals() == []
    decisions.record([])
    assert decisions.intervals() == []


def test_intervals_come_by_author_and_place_restart(opens: Opens) -> None:
    edges = [0, 1, 2**63, U64_MAX]
    told = [opening(author, start) for author in edges for start in (0, 7, 2**40)]
    decisions = opens()
    shuffled = list(told)
    random.Random(1).shuffle(shuffled)
    decisions.record(shuffled[:5])
    decisions.record(shuffled[5:])
    assert decisions.intervals() == told
    assert opens().intervals() == told


def test_what_is_told_again_changes_nothing_and_the_lowest_end_counts(decisions: Decisions) -> None:
    told = [opening(9, 3), closing(9, 3, 20), closing(9, 3, 9), opening(9, 3), opening(9, 30)]
    decisions.record(told)
    assert decisions.intervals() == [closing(9, 3, 9), opening(9, 30)]
    for each in told[::-1]:
        decisions.record([each])
    assert decisions.intervals() == [closing(9, 3, 9), opening(9, 30)]


def test_more_than_one_scan(decisions: Decisions) -> None:
    told = [opening(author, 5) for author in range(1_205)]
    decisions.record(told)
    assert decisions.intervals() == told


def test_whose_they_are_is_kept_and_is_none_of_them_restart(opens: Opens) -> None:
    decisions = opens()
    assert decisions.owner() is None
    decisions.begin(b"mine")
    decisions.begin(b"mine")
    decisions.record([opening(9, 3)])
    again = opens()
    assert again.owner() == b"mine"
    assert again.intervals() == [opening(9, 3)]


def test_close_is_idempotent(decisions: Decisions) -> None:
    decisions.close()
    decisions.close()
