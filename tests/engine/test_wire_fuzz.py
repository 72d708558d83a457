"""Any bytes at all are an event or a named refusal; what is accepted lives through the codec."""

from __future__ import annotations

import json

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from engine.codec import decode, encode
from engine.errors import FirecellError
from engine.events import KIND_NAMES, NO_ID, Event, Post
from engine.limits import POST_ID_MAX
from engine.times import format_ms
from engine.wire import parse_event
from tests.strategies import all_events, looks, u64s

FIELDS = [
    "type", "author", "reader", "post", "id", "at", "text", "tags", "media", "mentions",
    "reblog_of", "reblog_author", "reply_to", "reply_author", "zz", "",
]  # fmt: skip


def try_to_parse(raw: bytes) -> Event | None:
    """The event, checked to survive the codec; None when refused as the contract says."""
    try:
        event = parse_event(raw)
    except FirecellError as error:
        assert error.status in (400, 413)
        assert error.message
        json.dumps({"detail": error.message, **error.extra}).encode()  # fits a problem document
        error.message.encode()
        return None
    published = event
    if isinstance(event, Post) and event.id == NO_ID:
        published = msgspec.structs.replace(event, id=POST_ID_MAX)
    assert decode(encode(published)) == published
    return event


def to_json(event: Event, numbers: bool) -> dict[str, object]:
    """What a client would write for an event."""

    def user(value: int) -> int | str:
        return value if numbers and value < 2**53 else str(value)

    shape: dict[str, object] = {"type": KIND_NAMES[event.kind]}
    for name in event.__struct_fields__:
        value = getattr(event, name)
        if name == "kind" or value is None:
            continue
        if name == "at_ms":
            if value:
                shape["at"] = format_ms(value)
        elif name == "mentions":
            shape[name] = [user(item) for item in value]
        elif isinstance(value, tuple):
            shape[name] = list(value)
        else:
            shape[name] = value if isinstance(value, str) else user(value)
    return shape


@looks(200)
@given(all_events(), st.booleans(), st.booleans(), st.randoms(use_true_random=False))
def test_every_event_can_be_written_as_json(event, numbers, ascii_only, random):
    shape = list(to_json(event, numbers).items())
    random.shuffle(shape)  # the order of fields means nothing
    raw = json.dumps(dict(shape), ensure_ascii=ascii_only).encode()
    assert try_to_parse(raw) == event


@looks(200)
@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
@example(b"")
@example(b"\x00")
def test_any_bytes_fuzz(raw):
    try_to_parse(raw)
    try_to_parse(b'{"type":"post","author":' + raw)
    try_to_parse(b'{"type":"post","author":7,"text":"' + raw + b'"}')
    try_to_parse(b'{"type":"' + raw + b'"}')
    try_to_parse(b'{"type":"post","author":7,"' + raw + b'":1}')


@looks(200)
@given(
    all_events(),
    st.lists(
        st.tuples(
            st.sampled_from(["set", "insert", "cut", "drop", "repeat"]),
            st.integers(0, 10**6),
            st.sampled_from(list(b'{}[]":,\\u0-9eEnft\x00\xff\xed\xa0d8')) | st.integers(0, 255),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutations_of_valid_json_fuzz(event, changes):
    text = bytearray(json.dumps(to_json(event, True)).encode())
    for how, where, byte in changes:
        at = where % (len(text) + 1)
        if how == "set" and at < len(text):
            text[at] = byte
        elif how == "insert":
            text.insert(at, byte)
        elif how == "cut":
            del text[at:]
        elif how == "drop":
            del text[at : at + 1]
        else:
            text[at:at] = text[max(at - 6, 0) : at]
    try_to_parse(bytes(text))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | u64s
    | u64s.map(str)
    | st.floats()  # NaN and infinities too: Python writes them
    | st.text(st.characters(exclude_categories=()), max_size=6)  # surrogates too, as \\ud800
    | st.sampled_from([*KIND_NAMES.values(), "2026-01-31T12:00:00Z", "7", ""]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)


@looks(200)
@given(st.sampled_from(sorted(KIND_NAMES.values())), st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_values_in_the_contracts_fields_fuzz(name, fields):
    try_to_parse(json.dumps({"type": name, **fields}).encode())
    try_to_parse(json.dumps({"type": name, "author": "7", "reader": "1", "post": "5"}).encode())


@looks(200)
@given(all_events(), st.sampled_from(FIELDS), JSON)
def test_one_field_replaced_by_anything_fuzz(event, field, value):
    try_to_parse(json.dumps({**to_json(event, False), field: value}).encode())


@looks(100)
@given(JSON)
def test_any_json_fuzz(value):
    try_to_parse(json.dumps(value).encode())
