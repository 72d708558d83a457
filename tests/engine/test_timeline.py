"""The *visible* rule against its definition in other words (DESIGN 2), and cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.ids import EPOCH_MS, id_at, id_ms
from engine.keys import inbox_key
from engine.limits import (
    BACKFILL_AGE_MS_MAX,
    BACKFILL_POSTS_MAX,
    CURSOR_CHARACTERS_MAX,
    FLOOR_NONE,
    POST_ID_MAX,
    U64_MAX,
)
from engine.ports import OutboxEntry
from engine.timeline import (
    Cursor,
    Interval,
    backfill,
    covers,
    fold_toggles,
    page_times,
    parse_cursor,
    settled_cursor,
)
from tests.strategies import looks, post_ids, u64s

NOW = 1_800_000_000_000
OLDEST = id_at(NOW - BACKFILL_AGE_MS_MAX)

# --- the fold of toggles ---

toggle_lists = st.lists(
    st.tuples(st.integers(0, 30), st.booleans(), post_ids), max_size=12, unique_by=lambda t: t[0]
).map(sorted)


def open_interval(toggles):
    """In other words: open iff the last toggle follows; since the first follow after the last
    unfollow, with that follow's floor."""
    if not toggles or not toggles[-1][1]:
        return None
    unfollows = [offset for offset, follows, _ in toggles if not follows]
    since = max(unfollows, default=-1)
    return min((offset, floor) for offset, follows, floor in toggles if offset > since)


@looks(250)
@given(toggle_lists, st.none() | st.integers(0, 31))
def test_fold_against_its_definition(toggles, below):
    known = [toggle for toggle in toggles if below is None or toggle[0] < below]
    assert fold_toggles(iter(toggles), below) == open_interval(known)


def test_a_repeated_follow_opens_nothing():
    assert fold_toggles([(1, True, 50), (4, True, 10)]) == Interval(start=1, floor=50)


def test_a_new_follow_after_an_unfollow_opens_anew():
    toggles = [(1, True, 50), (4, False, FLOOR_NONE), (9, True, 70)]
    assert fold_toggles(toggles) == Interval(start=9, floor=70)
    assert fold_toggles(toggles, below=9) is None
    assert fold_toggles(toggles, below=4) == Interval(start=1, floor=50)
    assert fold_toggles(toggles, below=1) is None
    assert fold_toggles([]) is None


@looks(200)
@given(u64s, post_ids | st.just(FLOOR_NONE), u64s, post_ids)
def test_covers(start, floor, offset, post):
    assert covers(Interval(start, floor), offset, post) == (offset >= start or post >= floor)


def test_no_post_reaches_the_floor_of_nothing():
    assert not covers(Interval(10, FLOOR_NONE), 9, POST_ID_MAX)
    assert covers(Interval(10, FLOOR_NONE), 10, 0)


# --- backfill ---


def entry(post, offset=0, delete_offset=-1):
    return OutboxEntry(post, offset, delete_offset)


def by_definition(entries, follow_offset, follow_time_ms):
    """The definition of `floor`, line by line."""
    candidates = [
        e.post
        for e in entries
        if e.offset >= 0
        and e.offset < follow_offset
        and not (e.delete_offset >= 0 and e.delete_offset < follow_offset)
        and id_ms(e.post) >= follow_time_ms - BACKFILL_AGE_MS_MAX
    ]
    highest = sorted(candidates, reverse=True)[:100]
    return highest, highest[-1] if highest else 2**63


@looks(150)
@given(
    st.lists(
        st.builds(
            entry,
            st.integers(-300, 300).map(lambda near: OLDEST + near) | post_ids,
            st.integers(-1, 12),
            st.sampled_from([-1, -1, 0, 5, 6, 7, 12]),
        ),
        max_size=150,
        unique_by=lambda e: e.post,
    ),
    st.integers(0, 12),
)
def test_backfill_against_its_definition(entries, follow_offset):
    entries = sorted(entries, reverse=True)
    assert backfill(iter(entries), follow_offset, NOW) == by_definition(entries, follow_offset, NOW)


def test_nothing_to_copy():
    assert backfill([], 5, NOW) == ([], FLOOR_NONE)


@pytest.mark.parametrize("count", [99, 100, 101, 250])
def test_at_most_the_100_highest(count):
    assert BACKFILL_POSTS_MAX == 100
    newest = id_at(NOW)
    entries = [entry(newest - i, offset=0) for i in range(count)]
    copied, floor = backfill(entries, 1, NOW)
    assert copied == [newest - i for i in range(min(count, 100))]
    assert floor == copied[-1]


def test_deleted_and_later_posts_do_not_use_up_the_100():
    newest = id_at(NOW)
    entries = [
        *(entry(newest - i, offset=0, delete_offset=1) for i in range(100)),
        *(entry(newest - 100 - i, offset=9) for i in range(100)),
        *(entry(newest - 200 - i, offset=0) for i in range(101)),
    ]
    copied, floor = backfill(entries, 5, NOW)
    assert copied == [newest - 200 - i for i in range(100)]
    assert floor == newest - 299


def test_age_is_30_days_to_the_millisecond():
    exactly, too_old = OLDEST, OLDEST - 1
    assert id_ms(exactly) == NOW - 30 * 86_400_000
    assert backfill([entry(exactly), entry(too_old)], 1, NOW) == ([exactly], exactly)
    assert backfill([entry(too_old)], 1, NOW) == ([], FLOOR_NONE)


@pytest.mark.parametrize(
    ("delete_offset", "copied"), [(-1, True), (0, False), (4, False), (5, True), (6, True)]
)
def test_delete_before_at_and_after_the_follow(delete_offset, copied):
    """The follow is at offset 5: what was deleted before it is not copied, later is."""
    post = id_at(NOW)
    found = backfill([entry(post, 0, delete_offset)], 5, NOW)
    assert found == (([post], post) if copied else ([], FLOOR_NONE))


@pytest.mark.parametrize(("offset", "copied"), [(0, True), (4, True), (5, False), (6, False)])
def test_posts_at_and_behind_the_follow_are_not_copied(offset, copied):
    """A replay sees entries from beyond the follow; the interval itself covers those."""
    post = id_at(NOW)
    assert backfill([entry(post, offset)], 5, NOW)[0] == ([post] if copied else [])


def test_a_delete_whose_post_never_came_is_no_post():
    assert backfill([entry(id_at(NOW), -1, 2)], 5, NOW) == ([], FLOOR_NONE)
    assert backfill([entry(id_at(NOW), -1, 9)], 5, NOW) == ([], FLOOR_NONE)


def test_posts_from_the_time_before_ids():
    """30 days before the first id: nothing is too old."""
    assert backfill([entry(1), entry(0)], 1, EPOCH_MS + 1) == ([1, 0], 0)
    assert backfill([entry(1), entry(0)], 1, 0) == ([1, 0], 0)


def test_reads_no_further_than_it_must():
    """I12: an author's outbox may be endless."""
    newest = id_at(NOW)

    def endless():
        for number in range(100):
            yield entry(newest - number)
        raise AssertionError("asked for a 101st entry, which may cost a scan of the store")

    assert len(backfill(endless(), 1, NOW)[0]) == 100


# --- cursors ---


@looks(150)
@given(post_ids, u64s)
def test_cursors_come_back(post, author):
    cursor = Cursor(post, author)
    text = str(cursor)
    assert text == f"v1-{post}-{author}"
    assert len(text) <= CURSOR_CHARACTERS_MAX
    assert parse_cursor(text, "cursor") == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v1",
        "v1-",
        "v1--",
        "v1-1",
        "v1-1-",
        "v1--1",
        "v1-1-2-3",
        "v1-1-2-",
        "v2-1-2",
        "V1-1-2",
        "1-2",
        "v1-+1-2",
        "v1--1-2",
        "v1-1.0-2",
        "v1-0x1-2",
        "v1-1_0-2",
        " v1-1-2",
        "v1-1-2 ",
        "v1-1-2\n",
        "v1-1- 2",
        "v1-\u0667-2",
        "v1-²-2",
        f"v1-{POST_ID_MAX + 1}-0",
        f"v1-0-{U64_MAX + 1}",
        "v1-" + "9" * 100_000 + "-1",
        "v1-1-" + "0" * 60,
        "x" * 100_000,
        "\x00",
    ],
)
def test_cursors_that_are_not_ours(text):
    with pytest.raises(BadInput, match="newer: no cursor of ours") as caught:
        parse_cursor(text, "newer")
    assert caught.value.field == "newer"


@looks(150)
@given(st.text(max_size=70) | st.from_regex(r"\Av1-[0-9]{0,22}-[0-9]{0,22}\Z"))
def test_any_text_is_a_cursor_or_bad_input_fuzz(text):
    try:
        cursor = parse_cursor(text, "cursor")
    except BadInput:
        return
    assert 0 <= cursor.post <= POST_ID_MAX
    assert 0 <= cursor.author <= U64_MAX
    assert parse_cursor(str(cursor), "cursor") == cursor


def newer_than(cursor, post, author):
    """As pages do it: strictly in front of the cursor's key."""
    return inbox_key(1, post, author) < inbox_key(1, cursor.post, cursor.author)


@looks(200)
@given(st.integers(-(10**12), 2**42 + EPOCH_MS), post_ids, st.integers(0, U64_MAX - 1))
def test_newer_than_settled_is_all_from_that_time_on(settled_ms, post, author):
    cursor = settled_cursor(settled_ms)
    assert parse_cursor(str(cursor), "newer") == cursor
    if post >= id_at(settled_ms):
        assert newer_than(cursor, post, author)
    elif post < id_at(settled_ms) - 1:
        assert not newer_than(cursor, post, author)


def test_settled_golden():
    assert str(settled_cursor(EPOCH_MS + 1)) == f"v1-{2**22 - 1}-0"


@pytest.mark.parametrize("settled_ms", [0, EPOCH_MS - 1, EPOCH_MS])
def test_settled_of_a_fresh_cell_has_post_0_before_it(settled_ms):
    """Id 0 may be an importer's: the first `settled` of a cell lay in front of it."""
    assert newer_than(settled_cursor(settled_ms), 0, 0)
    assert newer_than(settled_cursor(settled_ms), 0, U64_MAX - 1)


def test_page_times():
    assert page_times(None, None, 99) == (0, 99)
    assert page_times(id_at(NOW), id_at(NOW - 7), 99) == (NOW - 7, NOW)
    assert page_times(None, id_at(NOW), NOW + 1) == (NOW, NOW + 1)
