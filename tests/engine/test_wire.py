"""The public contract's JSON, rule by rule (API.md, Events). What is wrong is named."""

from __future__ import annotations

import json

import pytest

from engine import events, limits
from engine.errors import BadInput, TooLarge
from engine.events import NO_ID, Delete, Edit, Post, Reaction, Relation
from engine.limits import POST_ID_MAX, U64_MAX
from engine.wire import parse_event, parse_post_id, parse_u64, parse_user

POST = {"type": "post", "author": "7"}


def raw(shape, **more):
    return json.dumps({**shape, **more}).encode()


def refused(text, field=None, error=BadInput):
    """The error of a text that must be refused, and whose field must be named."""
    with pytest.raises(error) as caught:
        parse_event(text if isinstance(text, bytes) else text.encode())
    assert type(caught.value) is error
    if field is not None:
        assert caught.value.field == field
        assert field in caught.value.message
    return caught.value


# --- every kind ---

RELATIONS = ["follow", "unfollow", "block", "unblock", "mute", "unmute"]


def test_post_with_nothing_but_its_author():
    assert parse_event(raw(POST)) == Post(author=7, id=NO_ID)


def test_post_with_everything():
    shape = {
        "type": "post",
        "author": "7",
        "id": str(POST_ID_MAX),
        "at": "2026-01-31T12:00:00.5Z",
        "text": "hi \U0001f600",
        "tags": ["a", "b c"],
        "media": ["https://x/1"],
        "mentions": ["9", 10, str(U64_MAX)],
        "reblog_of": "11",
        "reblog_author": "12",
        "reply_to": 13,
        "reply_author": "14",
    }
    assert parse_event(raw(shape)) == Post(
        author=7,
        id=POST_ID_MAX,
        at_ms=1_769_860_800_500,
        text="hi \U0001f600",
        tags=("a", "b c"),
        media=("https://x/1",),
        mentions=(9, 10, U64_MAX),
        reblog_of=11,
        reblog_author=12,
        reply_to=13,
        reply_author=14,
    )


def test_edit_and_delete():
    at = "1970-01-01T00:00:01Z"
    edit = {"type": "edit", "author": "7", "post": "5", "text": "new"}
    assert parse_event(raw(edit)) == Edit(7, 5, 0, "new")
    assert parse_event(raw(edit, at=at)) == Edit(7, 5, 1_000, "new")
    delete = {"type": "delete", "author": "7", "post": "5"}
    assert parse_event(raw(delete)) == Delete(7, 5, 0)
    assert parse_event(raw(delete, at=at)) == Delete(7, 5, 1_000)


@pytest.mark.parametrize("name", RELATIONS)
def test_relations(name):
    shape = {"type": name, "reader": "1", "author": "7"}
    assert parse_event(raw(shape)) == Relation(events.KINDS[name], 1, 7, 0)
    later = parse_event(raw(shape, at="1970-01-01T00:00:00.007Z"))
    assert later == Relation(events.KINDS[name], 1, 7, 7)


@pytest.mark.parametrize("name", ["like", "unlike"])
def test_reactions(name):
    shape = {"type": name, "reader": "1", "author": "7", "post": "5"}
    assert parse_event(raw(shape)) == Reaction(events.KINDS[name], 1, 7, 5, 0)


def test_type_may_come_last_and_blanks_anywhere():
    text = b' \n{ "author" : 7 ,\t"text":"x", "type" : "post" }\r\n'
    assert parse_event(text) == Post(author=7, id=NO_ID, text="x")


# --- unknown and missing: named ---


@pytest.mark.parametrize("name", ["pots", "", "POST", "post ", "\U0001f600", "unpost"])
def test_unknown_types_are_named(name):
    error = refused(raw({"type": name, "author": "7"}), "type")
    assert "unknown type of event" in error.message
    assert repr(name) in error.message


@pytest.mark.parametrize("value", [7, None, True, ["post"], {"post": 1}])
def test_type_is_a_string(value):
    refused(raw({"type": value, "author": "7"}), "type")


def test_missing_type():
    refused(raw({"author": "7"}), "type")


@pytest.mark.parametrize(
    ("shape", "field"),
    [
        (POST, "reply_of"),
        (POST, "\U0001f600"),
        (POST, "post"),
        ({"type": "edit", "author": "7", "post": "5", "text": ""}, "tags"),
        ({"type": "delete", "author": "7", "post": "5"}, "text"),
        ({"type": "follow", "reader": "1", "author": "7"}, "post"),
        ({"type": "like", "reader": "1", "author": "7", "post": "5"}, "text"),
        ({"type": "mute", "reader": "1", "author": "7"}, "id"),
    ],
)
def test_unknown_fields_are_named(shape, field):
    parse_event(raw(shape))
    refused(raw(shape, **{field: "1"}), field)
    refused(raw(shape, **{field: None}), field)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("post", ["author"]),
        ("edit", ["author", "post", "text"]),
        ("delete", ["author", "post"]),
        ("like", ["reader", "author", "post"]),
        ("unlike", ["reader", "author", "post"]),
        *[(name, ["reader", "author"]) for name in RELATIONS],
    ],
)
def test_required_fields_are_named_when_missing_or_null(name, fields):
    whole = {"type": name, **dict.fromkeys(fields, "1")}
    parse_event(raw(whole))
    for field in fields:
        refused(raw({key: value for key, value in whole.items() if key != field}), field)
        refused(raw(whole, **{field: None}), field)


@pytest.mark.parametrize("field", ["text", "tags", "media", "mentions"])
def test_fields_that_are_never_null(field):
    refused(raw(POST, **{field: None}), field)


@pytest.mark.parametrize(
    "field", ["id", "at", "reblog_of", "reblog_author", "reply_to", "reply_author"]
)
def test_null_means_not_given(field):
    assert parse_event(raw(POST, **{field: None})) == Post(author=7, id=NO_ID)


@pytest.mark.parametrize("text", ["[]", "7", '"post"', "null", "true", "[{}]"])
def test_an_event_is_an_object(text):
    refused(text)


# --- ids ---


@pytest.mark.parametrize("value", ["0", "7", "007", 0, 7, 2**53 - 1, str(2**53), str(U64_MAX)])
def test_users(value):
    event = parse_event(raw({"type": "post", "author": value}))
    assert event.author == int(value)


@pytest.mark.parametrize(
    "value",
    [
        2**53,  # such integers are rounded by JSON readers all over the world
        2**64 - 1,
        2**64,
        10**300,
        -1,
        -(2**63),
        str(2**64),
        "99999999999999999999",
        "0" * 21,
        "",
        " 7",
        "7 ",
        "7\n",
        "+7",
        "-7",
        "-0",
        "7.0",
        "1e3",
        "0x7",
        "1_000",
        "\u0667",
        "\U0001d7d5",
        "seven",
        7.0,
        7.5,
        1e3,
        True,
        False,
        ["7"],
        {"id": "7"},
    ],
    ids=repr,
)
def test_no_users(value):
    refused(raw({"type": "post", "author": value}), "author")
    refused(raw({"type": "follow", "reader": value, "author": "7"}), "reader")
    refused(raw(POST, mentions=["1", value]), "mentions")
    refused(raw(POST, reblog_of="1", reblog_author=value), "reblog_author")


@pytest.mark.parametrize("digits", [400, 4_299, 4_300, 4_301, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_integers_far_beyond_u64(sign, digits):
    number = sign + "9" * digits
    refused('{"type":"post","author":' + number + "}", "author")
    refused('{"type":"post","author":"' + number + '"}', "author")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "0x1", "1e999"])
def test_numbers_that_json_has_not(text):
    refused('{"type":"post","author":' + text + "}")


def test_post_ids_have_bit_63_zero():
    assert parse_event(raw(POST, id=str(POST_ID_MAX))).id == POST_ID_MAX
    assert parse_event(raw(POST, id="0")).id == 0
    for value in (str(2**63), str(U64_MAX)):
        refused(raw(POST, id=value), "id")
        refused(raw(POST, reblog_of=value, reblog_author="1"), "reblog_of")
        refused(raw({"type": "edit", "author": "7", "post": value, "text": ""}), "post")
        refused(raw({"type": "delete", "author": "7", "post": value}), "post")
        refused(raw({"type": "like", "reader": "1", "author": "7", "post": value}), "post")


@pytest.mark.parametrize(("post", "author"), [("reblog_of", "reblog_author"), ("reply_to",) * 2])
def test_references_go_in_pairs(post, author):
    author = "reply_author" if author == post else author
    event = parse_event(raw(POST, **{post: "0", author: "0"}))
    assert (getattr(event, post), getattr(event, author)) == (0, 0)
    refused(raw(POST, **{post: "5"}), post)
    refused(raw(POST, **{author: "5"}), post)
    refused(raw(POST, **{post: "5", author: None}), post)


def test_ids_from_paths_and_queries():
    assert parse_user("18446744073709551615", "id") == U64_MAX
    assert parse_post_id("9223372036854775807", "id") == POST_ID_MAX
    assert parse_u64(0, "id") == 0
    for text in ("18446744073709551616", "", "-1", "x" * 100_000, "9" * 100_000, "\u0667", "7/"):
        with pytest.raises(BadInput) as caught:
            parse_user(text, "id")
        assert caught.value.field == "id"
        assert len(caught.value.message) < 200
    with pytest.raises(BadInput):
        parse_post_id("9223372036854775808", "id")


# --- at ---


@pytest.mark.parametrize(
    "at", ["", "2h", "yesterday", "2026-13-01", "1969-12-31T23:59:59Z", "9" * 1_000, 5, True, []]
)
def test_no_times(at):
    refused(raw(POST, at=at), "at")
    refused(raw({"type": "follow", "reader": "1", "author": "7"}, at=at), "at")


# --- sizes: exact at the edge, and the same status whoever finds it ---

SIZES = [  # field, the most, one more
    ("text", "x" * 65_536, "x" * 65_537),
    ("text", "é" * 32_768, "é" * 32_769),
    ("text", "\U0001f600" * 16_384, "\U0001f600" * 16_384 + "x"),
    ("tags", ["t"] * 32, ["t"] * 33),
    ("tags", ["\U0001f600" * 140], ["t" * 141]),
    ("media", ["m"] * 16, ["m"] * 17),
    ("media", ["m" * 2_048], ["m" * 2_049]),
    ("media", ["é" * 1_024], ["é" * 1_024 + "x"]),
    ("mentions", ["1"] * 50, ["1"] * 51),
]


@pytest.mark.parametrize(("field", "most", "more"), SIZES)
def test_sizes_at_their_edges(field, most, more):
    def utf_8(value):
        return json.dumps({**POST, field: value}, ensure_ascii=False).encode()

    event = parse_event(utf_8(most))
    kept = getattr(event, field)
    assert kept == most if field == "text" else len(kept) == len(most)
    error = refused(utf_8(more), field, TooLarge)
    assert error.status == 413


def test_the_longest_text_of_an_edit():
    edit = {"type": "edit", "author": "7", "post": "5"}
    assert len(parse_event(raw(edit, text="x" * 65_536)).text) == 65_536
    refused(raw(edit, text="x" * 65_537), "text", TooLarge)
    refused(
        json.dumps({**edit, "text": "é" * 32_769}, ensure_ascii=False).encode(), "text", TooLarge
    )


def test_an_event_of_128_kib_is_looked_at_and_no_more():
    padded = raw(POST).ljust(limits.EVENT_BYTES_MAX)
    assert parse_event(padded) == Post(author=7, id=NO_ID)
    refused(padded + b" ", error=TooLarge)
