"""The oracle, clause by clause of DESIGN 2 (**Visible**), on scenarios small enough to do by hand.

A scenario is a list of events; each gets the next offset of its account's partition (one partition
here, so the offset is its index) and an append time.
"""

from __future__ import annotations

import pytest

from bench.oracle import Oracle
from engine import events, limits
from engine.ids import make_id

R, Q = 1, 2  # readers
A, B = 70, 71  # authors
NOW = 1_800_000_000_000
DAY = 24 * 3_600_000
FAR = limits.FLOOR_NONE


def id_of(number: int, ms: int = NOW) -> int:
    return make_id(ms, 0, number)


def post(number: int, author: int = A, text: str = "", ms: int = NOW) -> events.Post:
    return events.Post(author, id_of(number, ms), text=text)


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


def numbers(oracle: Oracle, reader: int = R) -> list[int]:
    """The numbers of the visible posts, in page order."""
    return [post_id & limits.ID_SEQUENCE_MAX for post_id, _ in oracle.visible(reader)]


# --- follows: from ------------------------------------------------------------


def test_a_follower_sees_and_a_stranger_does_not() -> None:
    oracle = told(follow(), post(1))
    assert oracle.visible(R) == [(id_of(1), A)]
    assert oracle.visible(Q) == []


def test_pages_go_by_id_descending_then_author_ascending() -> None:
    oracle = told(follow(), follow(author=B), post(2, B), post(1), post(2, A), post(3))
    assert oracle.visible(R) == [(id_of(3), A), (id_of(2), A), (id_of(2), B), (id_of(1), A)]


def test_the_offset_decides_not_the_id() -> None:
    """Posted after the follow with an id far older than the backfill's age: still seen."""
    old = post(1, ms=NOW - 400 * DAY)
    assert len(told(follow(), old).visible(R)) == 1
    assert told(old, follow()).visible(R) == []


def test_unfollowed_sees_nothing() -> None:
    assert numbers(told(follow(), post(1), unfollow(), post(2))) == []


def test_an_unfollow_without_a_follow_changes_nothing() -> None:
    assert numbers(told(unfollow(), follow(), post(1))) == [1]


def test_refollow_opens_a_new_interval_and_backfills_what_it_missed() -> None:
    oracle = told(follow(), post(1), unfollow(), post(2), follow(), post(3))
    assert oracle.interval(R, A) == (4, id_of(1))
    assert numbers(oracle) == [3, 2, 1]


def test_refollow_ends_what_the_earlier_interval_saw_beyond_the_backfill() -> None:
    posts = [post(number) for number in range(1, 151)]
    assert len(numbers(told(follow(), *posts))) == 150
    assert numbers(told(follow(), *posts, unfollow(), follow())) == list(range(150, 50, -1))


def test_a_repeated_follow_opens_nothing() -> None:
    """The floor stays that of the first: a post with an id below it, in between, is seen by its
    offset; had the second follow opened an interval, its 100 would leave older ones out."""
    posts = [post(number) for number in range(1, 121)]
    oracle = told(follow(), *posts, follow())
    assert oracle.interval(R, A) == (0, FAR)
    assert len(numbers(oracle)) == 120


def test_toggles_fold_by_offset_whatever_order_they_come_in() -> None:
    oracle = Oracle()
    for offset, event in ((5, unfollow()), (7, follow()), (2, follow()), (6, post(1))):
        oracle.apply(0, offset, NOW, event)
    assert oracle.interval(R, A) == (7, id_of(1))
    assert oracle.following(R) == [A]


# --- follows: floor -----------------------------------------------------------


def test_floor_of_a_follow_with_nothing_to_copy() -> None:
    assert told(follow(), post(1)).interval(R, A) == (0, FAR)
    assert told(post(1, B), follow()).interval(R, A) == (1, FAR)


def test_floor_is_the_oldest_copied() -> None:
    oracle = told(post(5), post(3), post(4), follow())
    assert oracle.interval(R, A) == (3, id_of(3))
    assert numbers(oracle) == [5, 4, 3]


def test_floor_takes_the_hundred_highest_ids_not_the_latest_offsets() -> None:
    """101 posts in falling order of ids: the last posted has the lowest id and is left out."""
    stream = [post(number) for number in range(101, 0, -1)]
    oracle = told(*stream, follow())
    assert oracle.interval(R, A) == (101, id_of(2))
    assert numbers(oracle) == list(range(101, 1, -1))


@pytest.mark.parametrize("count", [99, 100, 101])
def test_floor_copies_a_hundred_at_most(count: int) -> None:
    oracle = told(*[post(number) for number in range(1, count + 1)], follow())
    assert len(numbers(oracle)) == min(count, 100)
    assert oracle.interval(R, A) == (count, id_of(max(1, count - 99)))


def test_floor_leaves_out_what_is_older_than_thirty_days_to_the_millisecond() -> None:
    edge = NOW - 30 * DAY
    oracle = told(post(1, ms=edge - 1), post(2, ms=edge), post(3), follow())
    assert oracle.interval(R, A) == (3, id_of(2, edge))
    assert oracle.visible(R) == [(id_of(3), A), (id_of(2, edge), A)]


def test_floor_age_counts_from_the_follow_not_from_now() -> None:
    oracle = Oracle()
    oracle.apply(0, 0, NOW, post(1))
    oracle.apply(0, 1, NOW + 30 * DAY, follow())
    oracle.apply(0, 2, NOW + 90 * DAY, post(2, ms=NOW + 90 * DAY))
    assert oracle.interval(R, A) == (1, id_of(1))
    oracle.apply(0, 3, NOW + 90 * DAY, unfollow())
    oracle.apply(0, 4, NOW + 90 * DAY, follow())
    assert oracle.interval(R, A) == (4, id_of(2, NOW + 90 * DAY))


def test_floor_skips_what_was_deleted_before_the_follow() -> None:
    """Of 101 one is deleted: the copy reaches one further down."""
    stream = [post(number) for number in range(1, 102)]
    oracle = told(*stream, delete(50), follow())
    assert oracle.interval(R, A) == (102, id_of(1))
    assert numbers(oracle) == [number for number in range(101, 0, -1) if number != 50]


def test_floor_keeps_what_is_deleted_after_the_follow() -> None:
    """The copy had it, so it does not reach further down; the post itself is gone."""
    stream = [post(number) for number in range(1, 102)]
    oracle = told(*stream, follow(), delete(50), delete(2))
    assert oracle.interval(R, A) == (101, id_of(2))
    assert numbers(oracle) == [number for number in range(101, 2, -1) if number != 50]


def test_floor_skips_a_post_whose_delete_came_before_it() -> None:
    oracle = told(delete(1), post(1), post(2), follow())
    assert oracle.interval(R, A) == (3, id_of(2))


def test_floor_ignores_posts_behind_the_follow() -> None:
    oracle = told(post(9), follow(), post(1))
    assert oracle.interval(R, A) == (1, id_of(9))
    assert numbers(oracle) == [9, 1]


def test_floor_when_the_only_copied_post_is_deleted_later() -> None:
    oracle = told(post(3), follow(), delete(3))
    assert oracle.interval(R, A) == (1, id_of(3))
    assert numbers(oracle) == []


def test_backfill_is_by_the_follower_alone() -> None:
    oracle = told(post(1), follow(R), unfollow(R), follow(Q))
    assert (numbers(oracle, R), numbers(oracle, Q)) == ([], [1])


# --- deletes ------------------------------------------------------------------


def test_deleted_is_gone_for_all_and_for_the_author() -> None:
    oracle = told(follow(), post(1), post(2), delete(1))
    assert numbers(oracle, R) == numbers(oracle, A) == [2]
    assert oracle.text(id_of(1), A) is None


def test_deleted_after_it_was_seen_is_gone() -> None:
    oracle = told(follow(), post(1), post(2))
    assert numbers(oracle) == [2, 1]
    oracle.apply(0, 3, NOW, delete(2))
    assert numbers(oracle) == [1]


def test_deleted_before_the_post_is_deleted_for_ever() -> None:
    assert numbers(told(follow(), delete(1), post(1))) == []


def test_a_post_again_after_its_delete_stays_deleted() -> None:
    assert numbers(told(follow(), post(1), delete(1), post(1))) == []


def test_a_foreign_delete_touches_nothing() -> None:
    assert numbers(told(follow(), post(1), delete(1, B))) == [1]


def test_delete_of_one_of_two_posts_with_the_same_id() -> None:
    oracle = told(follow(), follow(author=B), post(1), post(1, B), delete(1))
    assert oracle.visible(R) == [(id_of(1), B)]


# --- blocks and mutes ---------------------------------------------------------


def test_blocked_by_the_reader() -> None:
    stream = [follow(), post(1), relation(events.BLOCK)]
    assert numbers(told(*stream)) == []
    assert numbers(told(*stream, relation(events.UNBLOCK))) == [1]


def test_the_author_blocks_the_reader() -> None:
    stream = [follow(), post(1), relation(events.BLOCK, A, R)]
    assert numbers(told(*stream)) == []
    assert numbers(told(*stream, relation(events.UNBLOCK, A, R))) == [1]


def test_an_unblock_by_the_other_side_changes_nothing() -> None:
    assert numbers(told(follow(), post(1), relation(events.BLOCK), unblock_by_author())) == []


def unblock_by_author() -> events.Relation:
    return relation(events.UNBLOCK, A, R)


def test_muted_by_the_reader() -> None:
    stream = [follow(), post(1), relation(events.MUTE)]
    assert numbers(told(*stream)) == []
    assert numbers(told(*stream, relation(events.UNMUTE))) == [1]


def test_muted_by_the_author_hides_nothing() -> None:
    assert numbers(told(follow(), post(1), relation(events.MUTE, A, R))) == [1]


def test_unblock_does_not_unmute() -> None:
    stream = [follow(), post(1), relation(events.MUTE), relation(events.BLOCK)]
    assert numbers(told(*stream, relation(events.UNBLOCK))) == []
    assert numbers(told(*stream, relation(events.UNMUTE))) == []


def test_a_block_does_not_end_the_follow() -> None:
    """What was posted meanwhile shows once the block is gone."""
    stream = [follow(), relation(events.BLOCK), post(1), relation(events.UNBLOCK), post(2)]
    assert numbers(told(*stream)) == [2, 1]


def test_relations_by_highest_offset_whatever_order_they_come_in() -> None:
    oracle = told(follow(), post(1))
    oracle.apply(1, 9, NOW, relation(events.UNMUTE))
    oracle.apply(1, 4, NOW, relation(events.MUTE))
    assert numbers(oracle) == [1]


def test_a_block_hides_one_author_only() -> None:
    stream = [follow(), follow(author=B), post(1), post(2, B), relation(events.BLOCK)]
    assert numbers(told(*stream)) == [2]


# --- oneself ------------------------------------------------------------------


def test_everybody_sees_their_own_posts() -> None:
    assert numbers(told(post(1), post(2, B)), A) == [1]


def test_towards_oneself_nothing_has_an_effect() -> None:
    oneself = [events.UNFOLLOW, events.FOLLOW, events.BLOCK, events.MUTE]
    oracle = told(post(1), *[relation(kind, A, A) for kind in oneself], post(2))
    assert numbers(oracle, A) == [2, 1]
    assert oracle.following(A) == []


def test_own_posts_have_neither_age_nor_count() -> None:
    posts = [post(number) for number in range(1, 131)]
    oracle = told(post(1, ms=NOW - 400 * DAY), *posts)
    assert len(oracle.visible(A)) == 131
    assert oracle.visible(A) == oracle.posts_of(A)


# --- repeated ids, edits, bad ids ---------------------------------------------


def test_repeated_id_the_lowest_offset_wins() -> None:
    oracle = told(post(1, text="first"), follow(), post(1, text="second"))
    assert oracle.text(id_of(1), A) == "first"
    assert oracle.interval(R, A) == (1, id_of(1))
    assert numbers(oracle) == [1]


def test_repeated_id_keeps_the_place_of_the_lowest_offset() -> None:
    """Too old for the backfill; posting it again behind the follow does not make it new."""
    old = post(1, ms=NOW - 31 * DAY)
    assert numbers(told(old, follow(), old)) == []


def test_edit_with_the_highest_offset_is_shown() -> None:
    oracle = Oracle()
    stream = ((0, post(1, text="a")), (2, edit(1, "c")), (1, edit(1, "b")))
    for offset, event in stream:
        oracle.apply(0, offset, NOW, event)
    assert oracle.text(id_of(1), A) == "c"


def test_edit_before_the_post_is_shown() -> None:
    assert told(edit(1, "early"), post(1, text="a")).text(id_of(1), A) == "early"


def test_a_foreign_edit_touches_nothing() -> None:
    oracle = told(post(1, text="a"), edit(1, "b", B))
    assert oracle.text(id_of(1), A) == "a"
    assert oracle.text(id_of(1), B) is None


def test_an_edit_makes_no_post() -> None:
    oracle = told(follow(), edit(1, "b"))
    assert numbers(oracle) == []
    assert oracle.text(id_of(1), A) is None


@pytest.mark.parametrize(("ahead_ms", "applied"), [(60_000, True), (60_001, False)])
def test_an_id_too_far_ahead_of_its_append_time_is_not_applied(
    ahead_ms: int, applied: bool
) -> None:
    oracle = told(follow(), post(1, ms=NOW + ahead_ms))
    assert bool(oracle.visible(R)) is applied


def test_a_refused_post_does_not_stand_in_the_way_of_a_later_good_one() -> None:
    ms = NOW + DAY
    oracle = told(events.Post(A, id_of(1, ms), text="too early"), follow())
    oracle.apply(0, 2, ms, events.Post(A, id_of(1, ms), text="in time"))
    assert oracle.visible(R) == [(id_of(1, ms), A)]
    assert oracle.text(id_of(1, ms), A) == "in time"


def test_likes_change_no_page() -> None:
    like = events.Reaction(events.LIKE, R, A, id_of(1))
    assert numbers(told(follow(), post(1), like)) == [1]


def test_applying_twice_changes_nothing_replay() -> None:
    stream = [post(1), follow(), edit(1, "b"), unfollow(), post(2), follow(), delete(1), post(3)]
    once, twice = told(*stream), told(*stream)
    for offset, event in reversed(list(enumerate(stream))):
        twice.apply(0, offset, NOW, event)
    assert once.visible(R) == twice.visible(R) == [(id_of(3), A), (id_of(2), A)]
    assert once.interval(R, A) == twice.interval(R, A)
