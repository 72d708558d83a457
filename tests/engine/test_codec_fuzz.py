"""Any bytes at all are an event or bad input: a publisher's bug never stops a cell (I11)."""

from __future__ import annotations

import msgpack
from hypothesis import example, given
from hypothesis import strategies as st

from engine.codec import decode, encode
from engine.errors import BadInput
from engine.events import Delete, Edit, Event, Post, Reaction, Relation
from engine.limits import AT_MS_MAX, POST_ID_MAX, U64_MAX
from tests.strategies import all_events, looks

SPECIAL = st.sampled_from(
    [0x00, 0x7F, 0x80, 0x81, 0x8F, 0x90, 0x9C, 0x9F, 0xA0, 0xBF, *range(0xC0, 0xE1), 0xFF]
)


def check_event(event: Event) -> None:
    """The rules once more, in this file's own words: nothing that decodes may break them."""

    def whole(value: object, highest: int) -> bool:
        return type(value) is int and 0 <= value <= highest

    assert whole(event.author, U64_MAX)
    assert whole(event.at_ms, AT_MS_MAX)
    if isinstance(event, Relation | Reaction):
        assert whole(event.reader, U64_MAX)
    if isinstance(event, Edit | Delete | Reaction):
        assert whole(event.post, POST_ID_MAX)
    if isinstance(event, Edit | Post):
        assert type(event.text) is str
        assert len(event.text.encode()) <= 65_536
    if isinstance(event, Post):
        assert whole(event.id, POST_ID_MAX)
        for strings, count in ((event.tags, 32), (event.media, 16)):
            assert type(strings) is tuple
            assert len(strings) <= count
            assert all(type(string) is str for string in strings)
        assert all(len(tag) <= 140 for tag in event.tags)
        assert all(len(url.encode()) <= 2_048 for url in event.media)
        assert type(event.mentions) is tuple
        assert len(event.mentions) <= 50
        assert all(whole(user, U64_MAX) for user in event.mentions)
        for post, author in (
            (event.reblog_of, event.reblog_author),
            (event.reply_to, event.reply_author),
        ):
            assert (post is None) == (author is None)
            assert post is None or (whole(post, POST_ID_MAX) and whole(author, U64_MAX))


def try_to_decode(frame: bytes) -> None:
    try:
        event = decode(frame)
    except BadInput as error:  # TooLarge is one
        assert error.message
    else:
        check_event(event)
        assert decode(encode(event)) == event


@looks(200)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\x01")
def test_any_bytes_fuzz(raw):
    try_to_decode(raw)
    try_to_decode(b"\x01" + raw)


@looks(600)
@given(
    all_events(),
    st.lists(
        st.tuples(
            st.sampled_from(["set", "insert", "cut", "drop", "repeat"]),
            st.integers(0, 10**6),
            SPECIAL | st.integers(0, 255),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutations_of_valid_frames_fuzz(event, changes):
    frame = bytearray(encode(event))
    for how, where, byte in changes:
        at = where % (len(frame) + 1)
        if how == "set" and at < len(frame):
            frame[at] = byte
        elif how == "insert":
            frame.insert(at, byte)
        elif how == "cut":
            del frame[at:]
        elif how == "drop":
            del frame[at : at + 1]
        else:
            frame[at:at] = frame[max(at - 3, 0) : at]
    try_to_decode(bytes(frame))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), U64_MAX)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=3)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@looks(200)
@given(st.integers(-1, 13), st.lists(VALUES, max_size=13))
def test_well_formed_msgpack_of_anything_fuzz(kind, values):
    try_to_decode(b"\x01" + msgpack.packb([kind, *values], use_bin_type=True))


@looks(200)
@given(all_events(), st.integers(0, 11), VALUES)
def test_one_field_replaced_by_anything_fuzz(event, index, value):
    fields = msgpack.unpackb(encode(event)[1:])
    fields[index % len(fields)] = value
    try_to_decode(b"\x01" + msgpack.packb(fields, use_bin_type=True))
