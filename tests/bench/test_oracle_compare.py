"""The oracle's samples, bulk follows and comparing: what benchmarks and simulations use it for."""

from __future__ import annotations

import numpy as np
import pytest

from bench.oracle import Oracle, Summary
from engine import events, limits
from engine.errors import Corruption
from engine.ids import make_id

R, Q = 1, 2  # readers
A, B = 70, 71  # authors
NOW = 1_800_000_000_000


def id_of(number: int) -> int:
    return make_id(NOW, 0, number)


def post(number: int, author: int = A) -> events.Post:
    return events.Post(author, id_of(number))


def delete(number: int, author: int = A) -> events.Delete:
    return events.Delete(author, id_of(number))


def edit(number: int, text: str, author: int = A) -> events.Edit:
    return events.Edit(author, id_of(number), 0, text)


def relation(kind: int, reader: int = R, author: int = A) -> events.Relation:
    return events.Relation(kind, reader, author)


def follow(reader: int = R, author: int = A) -> events.Relation:
    return relation(events.FOLLOW, reader, author)


def unfollow(reader: int = R, author: int = A) -> events.Relation:
    return relation(events.UNFOLLOW, reader, author)


def told(*stream: events.Event, readers: set[int] | None = None) -> Oracle:
    oracle = Oracle(readers)
    for offset, event in enumerate(stream):
        oracle.apply(0, offset, NOW, event)
    return oracle


# --- samples, bulk ------------------------------------------------------------


def test_a_sample_answers_for_its_readers_as_the_whole_does() -> None:
    stream = [post(1), follow(R), follow(Q), relation(events.BLOCK, A, Q), post(2)]
    stream += [relation(events.MUTE, R, B), unfollow(Q), follow(Q)]
    whole = told(*stream)
    for reader in (R, Q):
        sampled = told(*stream, readers={reader})
        assert sampled.visible(reader) == whole.visible(reader)


def test_a_sample_refuses_other_readers() -> None:
    with pytest.raises(Corruption, match="reader 2 is not in the oracle's sample"):
        told(post(1), readers={R}).visible(Q)


def test_wants_says_what_a_sample_keeps() -> None:
    oracle = Oracle({R})
    block_of_sampled = relation(events.BLOCK, A, R)
    kept = [post(1), delete(1), edit(1, ""), follow(R), unfollow(R), block_of_sampled]
    assert all(oracle.wants(event) for event in kept)
    dropped = [follow(Q), relation(events.MUTE, Q, A), events.Reaction(events.LIKE, R, A, id_of(1))]
    assert not any(oracle.wants(event) for event in dropped)


@pytest.mark.parametrize("sample", [None, {R}])
def test_bulk_follows_are_follows(sample: set[int] | None) -> None:
    one_by_one = told(post(1), follow(R), follow(Q), post(2), readers=sample)
    bulk = Oracle(sample)
    bulk.apply(0, 0, NOW, post(1))
    bulk.apply(0, 3, NOW, post(2))
    columns = ([R, Q], [A, A], [1, 2], [NOW, NOW])
    bulk.follow_edges_bulk(*[np.array(column, dtype=np.uint64) for column in columns])
    assert bulk.visible(R) == one_by_one.visible(R)
    assert bulk.interval(R, A) == one_by_one.interval(R, A) == (1, id_of(1))


def test_ids_beyond_63_bits_and_users_of_64_bits() -> None:
    author, reader = limits.U64_MAX, limits.U64_MAX - 1
    top = events.Post(author, limits.POST_ID_MAX)
    oracle = Oracle({reader})
    oracle.apply(0, 0, limits.AT_MS_MAX, top)
    oracle.follow_edges_bulk(*[np.array([n], dtype=np.uint64) for n in (reader, author, 1, 5)])
    assert oracle.visible(reader) == [(limits.POST_ID_MAX, author)]


# --- comparing ----------------------------------------------------------------


def four() -> tuple[Oracle, list[tuple[int, int]]]:
    oracle = told(follow(), post(1), post(2), post(3), post(4))
    return oracle, oracle.visible(R)


def test_compare_finds_nothing_wrong_with_right_pages() -> None:
    oracle, lines = four()
    verdict = oracle.compare(R, [lines[:3], [], lines[3:]])
    assert verdict.ok
    assert verdict.posts == 4


def test_compare_names_missing_and_extra() -> None:
    oracle, lines = four()
    stray = (id_of(3), B)
    verdict = oracle.compare(R, [[lines[0], lines[1], stray, lines[2]]])
    assert (verdict.missing, verdict.extra) == ([lines[3]], [stray])
    assert (verdict.duplicates, verdict.disorder) == ([], 0)
    assert not verdict.ok


def test_compare_finds_duplicates_across_pages() -> None:
    oracle, lines = four()
    verdict = oracle.compare(R, [lines[:2], lines[1:]])
    assert (verdict.duplicates, verdict.disorder) == ([lines[1]], 0)
    assert (verdict.missing, verdict.extra) == ([], [])


def test_compare_counts_disorder_in_and_across_pages() -> None:
    oracle, (a, b, c, d) = four()
    assert oracle.compare(R, [[b, a, c, d]]).disorder == 1
    assert oracle.compare(R, [[c, d], [a, b]]).disorder == 1
    assert oracle.compare(R, [[d, c], [b, a]]).disorder == 3


def test_compare_knows_the_order_of_authors_within_an_id() -> None:
    oracle = told(follow(), follow(author=B), post(1), post(1, B))
    assert oracle.compare(R, [[(id_of(1), A), (id_of(1), B)]]).ok
    assert oracle.compare(R, [[(id_of(1), B), (id_of(1), A)]]).disorder == 1


def test_summary_adds_up() -> None:
    oracle, lines = four()
    summary = Summary()
    for pages in ([lines], [lines[1:]], [lines, lines]):
        summary.add(oracle.compare(R, pages))
    assert (summary.readers, summary.posts, summary.missing) == (3, 12, 1)
    assert (summary.extra, summary.duplicates, summary.out_of_order) == (0, 4, 1)
    assert not summary.ok
    assert Summary().ok
