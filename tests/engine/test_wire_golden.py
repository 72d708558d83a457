"""The JSON of a post, byte for byte: caches keep it, pages join it, clients parse it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from engine.codec import encode
from engine.errors import BadInput
from engine.events import Delete, Edit, Post
from engine.limits import POST_ID_MAX, U64_MAX
from engine.ports import PostRow
from engine.times import format_ms
from engine.wire import post_json, post_shape
from tests.strategies import looks, posts

APPENDED, EDITED = 1_769_860_800_000, 1_769_860_860_000  # 2026-01-31T12:00:00Z, a minute later


def row(post, edit=None):
    edit_frame = b"" if edit is None else encode(edit)
    edit_offset = -1 if edit is None else 9
    return PostRow(3, APPENDED, encode(post), edit_offset, EDITED, edit_frame, -1)


def test_plain_post_golden():
    assert post_json(row(Post(author=7, id=5, text="hi"))) == (
        b'{"id":"5","author":"7","at":"2026-01-31T12:00:00.000Z","text":"hi","tags":[],"media":[],'
        b'"mentions":[],"reblog_of":null,"reblog_author":null,"reply_to":null,"reply_author":null,'
        b'"edited_at":null}'
    )


def test_full_post_golden():
    """Every id is a decimal string: JSON numbers lose u64."""
    post = Post(
        author=U64_MAX,
        id=POST_ID_MAX,
        at_ms=1,
        text='é"\n\x00',
        tags=("a", "b"),
        media=("u",),
        mentions=(0, U64_MAX),
        reblog_of=1,
        reblog_author=2,
        reply_to=0,
        reply_author=2**53,
    )
    assert (
        post_json(row(post))
        == (
            '{"id":"9223372036854775807","author":"18446744073709551615",'
            '"at":"1970-01-01T00:00:00.001Z","text":"é\\"\\n\\u0000",'
            '"tags":["a","b"],"media":["u"],'
            '"mentions":["0","18446744073709551615"],"reblog_of":"1","reblog_author":"2",'
            '"reply_to":"0","reply_author":"9007199254740992","edited_at":null}'
        ).encode()
    )


def test_at_is_shown_when_given_else_the_append_time():
    assert post_shape(row(Post(7, 5, at_ms=1_000))).at == "1970-01-01T00:00:01.000Z"
    assert post_shape(row(Post(7, 5))).at == "2026-01-31T12:00:00.000Z"


def test_the_newest_edit_gives_the_text_and_nothing_else():
    post = Post(7, 5, at_ms=1_000, text="old", tags=("a",), reply_to=1, reply_author=2)
    before = post_shape(row(post))
    after = post_shape(row(post, Edit(7, 5, 0, "new")))
    assert (after.text, after.edited_at) == ("new", "2026-01-31T12:01:00.000Z")
    assert (before.text, before.edited_at) == ("old", None)
    after.text, after.edited_at = before.text, before.edited_at
    assert after == before


def test_an_edits_own_time_is_shown_when_given():
    shape = post_shape(row(Post(7, 5), Edit(7, 5, 2_000, "")))
    assert (shape.text, shape.edited_at) == ("", "1970-01-01T00:00:02.000Z")


@looks(200)
@given(posts())
def test_json_holds_the_post(post):
    shown = json.loads(post_json(row(post)))
    text = {None: None}
    assert shown == {
        "id": str(post.id),
        "author": str(post.author),
        "at": format_ms(post.at_ms or APPENDED),
        "text": post.text,
        "tags": list(post.tags),
        "media": list(post.media),
        "mentions": [str(user) for user in post.mentions],
        "reblog_of": text.get(post.reblog_of, str(post.reblog_of)),
        "reblog_author": text.get(post.reblog_author, str(post.reblog_author)),
        "reply_to": text.get(post.reply_to, str(post.reply_to)),
        "reply_author": text.get(post.reply_author, str(post.reply_author)),
        "edited_at": None,
    }


def test_rows_with_frames_of_other_kinds_are_refused():
    good = row(Post(7, 5))
    with pytest.raises(BadInput, match="no post"):
        post_json(good._replace(frame=encode(Delete(7, 5))))
    with pytest.raises(BadInput, match="no edit"):
        post_json(good._replace(edit_frame=encode(Post(7, 5))))
    with pytest.raises(BadInput):
        post_json(good._replace(frame=b""))  # a tombstone's row has no JSON
