"""Events become frames and come back; every rule of the contract holds exactly at its edge."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given

from engine import events, limits
from engine.codec import check_post, decode, encode
from engine.errors import BadInput, TooLarge
from engine.events import Post
from engine.limits import AT_MS_MAX, POST_ID_MAX, U64_MAX
from tests.strategies import all_events, looks

POST_FIELDS = [1, 7, 5, 0, "text", [], [], [], None, None, None, None]


def frame(fields, version=1):
    return bytes([version]) + msgpack.packb(fields, use_bin_type=True)


def post_with(index, value):
    """The frame of a post with one of its fields replaced."""
    fields = list(POST_FIELDS)
    fields[index] = value
    return frame(fields)


@looks(200)
@given(all_events())
def test_round_trip(event):
    back = decode(encode(event))
    assert back == event
    assert type(back) is type(event)
    assert back.kind == event.kind
    assert back.account == event.account


@looks(100)
@given(all_events())
def test_equal_events_have_equal_frames(event):
    assert encode(decode(encode(event))) == encode(event)


def test_post_fields_are_where_this_file_thinks():
    assert decode(frame(POST_FIELDS)) == Post(author=7, id=5, text="text")


# --- versions and shapes ---


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_named(version):
    with pytest.raises(BadInput, match=f"frame version {version}; this software reads version 1"):
        decode(frame(POST_FIELDS, version))


def test_no_frame():
    with pytest.raises(BadInput, match="frame version none"):
        decode(b"")


def test_a_version_alone_is_no_event():
    with pytest.raises(BadInput, match="no msgpack"):
        decode(b"\x01")


@pytest.mark.parametrize(
    "fields",
    [
        7,
        "post",
        None,
        True,
        {},
        [],
        [[]],
        [None],
        ["post"],
        [True],
        [1.0],
        [-1],
        [0],
        [12],
        [2**63],
    ],
    ids=str,
)
def test_no_event(fields):
    with pytest.raises(BadInput):
        decode(frame(fields))


@pytest.mark.parametrize("kind", sorted(events.KIND_NAMES))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 12])
def test_wrong_arity(kind, count):
    right = {1: 11, 2: 4, 3: 3, 6: 4, 7: 4}.get(kind, 3)
    if count != right:
        with pytest.raises(BadInput, match="fields, not"):
            decode(frame([kind] + [1] * count))


@pytest.mark.parametrize("name", sorted(events.KINDS))
def test_every_true_is_no_one(name):
    """msgpack has bools, Python takes them for ints: a user id `true` is no user id 1."""
    kind = events.KINDS[name]
    if kind == events.POST:
        good = list(POST_FIELDS)
    elif kind == events.EDIT:
        good = [kind, 7, 5, 0, "x"]
    else:
        good = [kind] + [1] * (4 if kind in (events.LIKE, events.UNLIKE) else 3)
    decode(frame(good))
    for index, value in enumerate(good):
        if type(value) is int:
            for wrong in (True, False, float(value), str(value), None, b"1", [1]):
                bad = list(good)
                bad[index] = wrong
                with pytest.raises(BadInput):
                    decode(frame(bad))


# --- ranges, exact at the edge: (field of the post, accepted, refused) ---

EDGES = [
    (1, [0, U64_MAX], [-1], "author"),
    (2, [0, POST_ID_MAX], [-1, POST_ID_MAX + 1, U64_MAX], "id"),
    (3, [0, AT_MS_MAX], [-1, AT_MS_MAX + 1], "at"),
    (4, ["", "x" * 65_536, "é" * 32_768, "\U0001f600" * 16_384, "\x00"], [7, b"x", None], "text"),
    (5, [["t" * 140] * 32, ["\U0001f600" * 140], [""]], [[7], [b"t"], [None], 7, "t", {}], "tags"),
    (6, [["m" * 2_048] * 16, ["é" * 1_024]], [[7], [["u"]], None, "u"], "media"),
    (7, [[0] * 50, [U64_MAX]], [["7"], [-1], [True], [1.0], None, 7], "mentions"),
]


@pytest.mark.parametrize(("index", "good", "bad", "field"), EDGES, ids=[e[3] for e in EDGES])
def test_values_at_their_edges(index, good, bad, field):
    for value in good:
        decode(post_with(index, value))
    for value in bad:
        with pytest.raises(BadInput) as caught:
            decode(post_with(index, value))
        assert type(caught.value) is BadInput
        # a binary field is refused by msgpack's own limit, before anybody knows which it was
        assert caught.value.field in (field, "tags", "")


@pytest.mark.parametrize(
    ("index", "value", "field"),
    [
        (4, "é" * 32_769, "text"),
        (5, ["t"] * 33, "tags"),
        (5, ["t" * 141], "tags"),
        (6, ["m"] * 17, "media"),
        (6, ["m" * 2_049], "media"),
        (6, ["é" * 1_025], "media"),
    ],
)
def test_one_more_is_too_large(index, value, field):
    fields = list(POST_FIELDS)
    fields[index] = tuple(value) if isinstance(value, list) else value
    with pytest.raises(TooLarge) as caught:
        check_post(Post(*fields[1:]))
    assert caught.value.field == field
    with pytest.raises(BadInput):
        decode(post_with(index, value))


def test_mentions_over_the_bound():
    with pytest.raises(TooLarge, match="mentions: at most 50"):
        check_post(Post(author=1, id=1, mentions=(1,) * 51))
    with pytest.raises(BadInput):
        decode(post_with(7, [1] * 51))


@pytest.mark.parametrize(
    "kind_fields", [[2, 7, 5, 0, "é" * 32_769], [2, 7, 5, 0, None], [2, 7, 2**63, 0, ""]], ids=str
)
def test_edits_keep_the_same_rules(kind_fields):
    with pytest.raises(BadInput):
        decode(frame(kind_fields))


@pytest.mark.parametrize(("first", "field"), [(8, "reblog_of"), (10, "reply_to")])
def test_references_go_in_pairs(first, field):
    def pair(post, author):
        fields = list(POST_FIELDS)
        fields[first : first + 2] = [post, author]
        return frame(fields)

    for post, author in ((0, 0), (POST_ID_MAX, U64_MAX)):
        event = decode(pair(post, author))
        assert isinstance(event, Post)
        assert (getattr(event, field), event.account) == (post, 7)
    for post, author in ((5, None), (None, 5), (POST_ID_MAX + 1, 5), (-1, 5), (5, -1), ("5", 5)):
        with pytest.raises(BadInput) as caught:
            decode(pair(post, author))
        assert caught.value.field == field


# --- sizes ---


def test_a_frame_is_at_most_128_kib():
    with pytest.raises(TooLarge, match="131073 bytes"):
        decode(b"\x01" * (limits.EVENT_BYTES_MAX + 1))
    with pytest.raises(BadInput) as caught:
        decode(b"\x01" * limits.EVENT_BYTES_MAX)
    assert type(caught.value) is BadInput  # long enough to be looked at


def test_encode_never_makes_a_frame_that_decode_refuses_for_its_size():
    fits = limits.EVENT_BYTES_MAX - len(encode(Post(1, 1, text="x" * 70_000))) + 70_000
    assert len(encode(Post(1, 1, text="x" * fits))) == limits.EVENT_BYTES_MAX
    with pytest.raises(TooLarge):
        encode(Post(1, 1, text="x" * (fits + 1)))


# --- msgpack that is out to hurt ---

HOSTILE = {
    "array of 4 G": "dd ffffffff",
    "array of 64 K": "dc ffff",
    "string of 4 G": "db ffffffff",
    "string of 4 G inside": "9c 01 07 05 00 db ffffffff",
    "binary": "c4 01 00",
    "binary of 4 G": "c6 ffffffff",
    "empty binary as a text": "95 02 07 05 00 c4 00",
    "map": "81 01 02",
    "map of 4 G": "df ffffffff",
    "ext": "d4 05 00",
    "ext of no length": "91 c7 00 05",
    "ext of 4 G": "c9 ffffffff 05",
    "timestamp 32": "d6 ff 00000000",
    "timestamp 64": "d7 ff 0000000000000000",
    "timestamp 96": "c7 0c ff 000000000000000000000000",
    "timestamp of no length": "c7 00 ff",
    "never used byte": "c1",
    "NaN as a kind": "94 cb7ff8000000000000 01 07 00",
    "NaN as a user": "94 04 cb7ff8000000000000 07 00",
    "infinity as a time": "94 04 01 07 cb7ff0000000000000",
    "surrogate in UTF-8": "95 02 07 05 00 a3 eda080",
    "broken UTF-8": "95 02 07 05 00 a1 ff",
    "overlong UTF-8": "95 02 07 05 00 a2 c080",
    "something behind": "94 04 01 07 00 00",
    "a second event behind": "94 04 01 07 00 94 04 01 07 00",
    "cut": "94 04 01",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_msgpack(name):
    with pytest.raises(BadInput):
        decode(b"\x01" + bytes.fromhex(HOSTILE[name]))


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("94 04 01 07 c4 01 00", "max_bin_len"),
        ("94 04 01 07 81 01 02", "max_map_len"),
        ("94 04 01 07 d4 05 00", "max_ext_len"),
        ("94 04 01 07 dc 0033", "max_array_len"),
        ("95 02 07 05 00 db 00010001 " + "78" * 65_537, "max_str_len"),
    ],
)
def test_every_limit_of_msgpack_is_set(text, limit):
    """Nothing is built of what no frame may hold (trap 23)."""
    with pytest.raises(BadInput, match=f"exceeds {limit}"):
        decode(b"\x01" + bytes.fromhex(text))


@pytest.mark.parametrize("opener", [b"\x91", b"\x92\x91", b"\x81", b"\xdc\x00\x01", b"\x81\x01"])
def test_deep_nesting(opener):
    depth = (limits.EVENT_BYTES_MAX - 1) // len(opener)
    for behind in (b"", b"\x01"):
        with pytest.raises(BadInput):
            decode((b"\x01" + opener * depth)[: limits.EVENT_BYTES_MAX - 1] + behind)


def test_every_double_is_no_user():
    for value in (0.0, 1.0, -0.0, 1e300, float("nan"), float("-inf")):
        raw = b"\x01\x94\x04" + b"\xcb" + struct.pack(">d", value) + b"\x07\x00"
        with pytest.raises(BadInput, match="reader is no u64"):
            decode(raw)
