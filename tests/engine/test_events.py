"""The records: which account each is about, and that they are values."""

from __future__ import annotations

import pytest

from engine import events
from engine.events import KIND_NAMES, KINDS, NO_ID, Delete, Edit, Post, Reaction, Relation


def test_kinds_golden():
    """Never change these: they are in every frame."""
    assert KIND_NAMES == {
        1: "post",
        2: "edit",
        3: "delete",
        4: "follow",
        5: "unfollow",
        6: "like",
        7: "unlike",
        8: "block",
        9: "unblock",
        10: "mute",
        11: "unmute",
    }
    assert {KINDS[name]: name for name in KINDS} == KIND_NAMES
    for kind, name in KIND_NAMES.items():
        assert getattr(events, name.upper()) == kind


@pytest.mark.parametrize(
    ("event", "kind", "account"),
    [
        (Post(author=7, id=1), "post", 7),
        (Edit(author=7, post=1, at_ms=0, text="x"), "edit", 7),
        (Delete(author=7, post=1), "delete", 7),
        (Relation(events.FOLLOW, reader=1, author=7), "follow", 7),
        (Relation(events.UNFOLLOW, reader=1, author=7), "unfollow", 7),
        (Reaction(events.LIKE, reader=1, author=7, post=3), "like", 7),
        (Reaction(events.UNLIKE, reader=1, author=7, post=3), "unlike", 7),
        (Relation(events.BLOCK, reader=1, author=7), "block", 1),
        (Relation(events.UNBLOCK, reader=1, author=7), "unblock", 1),
        (Relation(events.MUTE, reader=1, author=7), "mute", 1),
        (Relation(events.UNMUTE, reader=1, author=7), "unmute", 1),
    ],
)
def test_account_is_the_one_that_the_event_is_about(event, kind, account):
    """DESIGN 2: follow lies with the followee's posts, so the two never race."""
    assert event.account == account
    assert KIND_NAMES[event.kind] == kind


def test_records_are_frozen_values():
    post = Post(author=7, id=1, tags=("a",))
    assert post == Post(author=7, id=1, tags=("a",))
    assert hash(post) == hash(Post(author=7, id=1, tags=("a",)))
    assert post != Post(author=7, id=1, tags=("b",))
    for event in (post, Edit(7, 1, 0, "x"), Delete(7, 1), Relation(4, 1, 7), Reaction(6, 1, 7, 3)):
        with pytest.raises(AttributeError):
            event.author = 8


def test_records_of_another_kind_differ():
    assert Relation(events.FOLLOW, 1, 7) != Relation(events.UNFOLLOW, 1, 7)
    assert Delete(7, 1) != Edit(7, 1, 0, "")


def test_defaults():
    post = Post(author=7, id=NO_ID)
    assert (post.at_ms, post.text, post.tags, post.media, post.mentions) == (0, "", (), (), ())
    assert (post.reblog_of, post.reblog_author, post.reply_to, post.reply_author) == (None,) * 4
    assert NO_ID < 0  # so no post can have it
