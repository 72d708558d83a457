"""Lines of the stream: the event as it was published, whatever the frame holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.codec import decode, encode
from engine.errors import BadInput
from engine.events import KIND_NAMES, Post
from engine.ports import Record
from engine.times import format_ms
from engine.wire import parse_event
from tests.strategies import all_events
from topics.filters import ALL, parse_filter
from topics.stream_json import MALFORMED, lines_of

NOW_MS = 1_760_000_000_123
ADDED = ("position", "appended_at", "at")


def line_of(frame: bytes, **filters: Any) -> dict[str, Any] | None:
    wanted = parse_filter(filters.get("types"), filters.get("authors"))
    lines, indexes = lines_of([Record(3, 17, NOW_MS, frame)], wanted)
    assert len(lines) == len(indexes) <= 1
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    return json.loads(lines[0]) if lines else None


@given(all_events())
def test_a_line_published_again_is_the_same_event(event):
    line = line_of(encode(event))
    assert line is not None
    assert line["position"] == "3:17"
    assert line["appended_at"] == format_ms(NOW_MS)
    assert line["at"] == format_ms(event.at_ms or NOW_MS)
    assert line["type"] == KIND_NAMES[event.kind]
    again = {key: value for key, value in line.items() if key not in ADDED}
    if event.at_ms:
        again["at"] = line["at"]
    assert parse_event(json.dumps(again).encode()) == event


def test_ids_are_strings_and_absent_members_are_left_out():
    line = line_of(encode(Post(2**64 - 1, 2**63 - 1, 0, 'a "quote"\nü')))
    assert line is not None
    assert (line["author"], line["id"]) == (str(2**64 - 1), str(2**63 - 1))
    assert line["text"] == 'a "quote"\nü'
    assert line.keys() == {"type", "author", "id", "text", *ADDED}


@pytest.mark.parametrize(
    "frame", [b"", b"\x01", b"\x02\x90", b"\x01\xc0", b"\x01\x91\x63", b"\x00"]
)
def test_a_frame_that_is_no_event_is_told_and_passes_no_filter(frame: bytes):
    line = line_of(frame)
    assert line is not None
    assert line["type"] == MALFORMED
    assert line["position"] == "3:17"
    assert line["reason"]
    assert line_of(frame, types="post") is None
    assert line_of(frame, authors="7") is None


@given(st.binary(max_size=60).map(lambda raw: b"\x01" + raw))
def test_any_bytes_make_one_line_fuzz(frame: bytes):
    line = line_of(frame)
    assert line is not None
    try:
        decode(frame)
    except BadInput:
        return
    assert line["type"] != MALFORMED


@given(st.lists(all_events(), max_size=20), st.sampled_from(["post", "like,follow", "edit,delete"]))
def test_filters_by_type_keep_order_and_places(found, types):
    records = [Record(0, at, NOW_MS, encode(event)) for at, event in enumerate(found)]
    lines, indexes = lines_of(records, parse_filter(types, None))
    wanted = [at for at, event in enumerate(found) if KIND_NAMES[event.kind] in types.split(",")]
    assert indexes == wanted
    assert [json.loads(line)["position"] for line in lines] == [f"0:{at}" for at in wanted]


@given(st.lists(all_events(), max_size=20))
def test_filters_by_author(found):
    records = [Record(0, at, NOW_MS, encode(event)) for at, event in enumerate(found)]
    author = found[0].author if found else 1
    _, indexes = lines_of(records, parse_filter(None, str(author)))
    assert indexes == [at for at, event in enumerate(found) if event.author == author]
    assert lines_of(records, ALL)[1] == list(range(len(found)))
