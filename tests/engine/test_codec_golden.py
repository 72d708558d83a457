"""Frames of every kind, frozen. Never change a vector here: frames are on disk for ever.

Worked out by hand from msgpack's specification: byte 0 is the version, then an array of the kind
and the record's fields in order, every int in its shortest form.
"""

from __future__ import annotations

import pytest

from engine import events
from engine.codec import decode, encode
from engine.events import Delete, Edit, Post, Reaction, Relation

U64_MAX, ID_MAX = 2**64 - 1, 2**63 - 1

VECTORS = {
    "post, only what must be": (
        Post(author=7, id=5),
        "01 9c 01 07 05 00 a0 90 90 90 c0 c0 c0 c0",
    ),
    "post with a text and a time": (
        Post(author=7, id=5, at_ms=1_800_000_000_000, text="hi \u00e9"),
        "01 9c 01 07 05 cf000001a3185c5000 a5 686920c3a9 90 90 90 c0 c0 c0 c0",
    ),
    "post with everything, at the edges": (
        Post(
            author=U64_MAX,
            id=ID_MAX,
            at_ms=253_402_300_799_999,
            text="\U0001f600\x00",
            tags=("a", "b c"),
            media=("u://",),
            mentions=(9, 300, 2**32),
            reblog_of=70_000,
            reblog_author=128,
            reply_to=0,
            reply_author=U64_MAX,
        ),
        "01 9c 01 cfffffffffffffffff cf7fffffffffffffff cf0000e677d21fdbff"
        " a5 f09f988000 92 a161 a3622063 91 a4753a2f2f 93 09 cd012c cf0000000100000000"
        " ce00011170 cc80 00 cfffffffffffffffff",
    ),
    "post with a long text: 16-bit length": (
        Post(author=1, id=2, text="x" * 300),
        "01 9c 01 01 02 00 da012c " + "78" * 300 + " 90 90 90 c0 c0 c0 c0",
    ),
    "post with the longest text: 32-bit length": (
        Post(author=1, id=2, text="x" * 65_536),
        "01 9c 01 01 02 00 db00010000 " + "78" * 65_536 + " 90 90 90 c0 c0 c0 c0",
    ),
    "post with 16 tags: 16-bit length": (
        Post(author=1, id=2, tags=("t",) * 16),
        "01 9c 01 01 02 00 a0 dc0010 " + "a174" * 16 + " 90 90 c0 c0 c0 c0",
    ),
    "edit": (Edit(7, 5, 65_535, "new"), "01 95 02 07 05 cdffff a36e6577"),
    "delete": (Delete(256, 127, 255), "01 94 03 cd0100 7f ccff"),
    "follow": (Relation(events.FOLLOW, 1, 7, 0), "01 94 04 01 07 00"),
    "unfollow": (Relation(events.UNFOLLOW, 1, 7, 0), "01 94 05 01 07 00"),
    "like": (Reaction(events.LIKE, 1, 7, 5, 0), "01 95 06 01 07 05 00"),
    "unlike": (Reaction(events.UNLIKE, 1, 7, 2**32, 0), "01 95 07 01 07 cf0000000100000000 00"),
    "block": (Relation(events.BLOCK, 1, 7, 0), "01 94 08 01 07 00"),
    "unblock": (Relation(events.UNBLOCK, 1, 7, 0), "01 94 09 01 07 00"),
    "mute": (Relation(events.MUTE, 1, 7, 0), "01 94 0a 01 07 00"),
    "unmute": (Relation(events.UNMUTE, 1, U64_MAX, 9), "01 94 0b 01 cfffffffffffffffff 09"),
}


@pytest.mark.parametrize("name", VECTORS)
def test_frame_golden(name):
    event, text = VECTORS[name]
    frame = bytes.fromhex(text)
    assert encode(event).hex() == frame.hex()
    assert decode(frame) == event


def test_every_kind_has_a_vector():
    assert {event.kind for event, _ in VECTORS.values()} == set(events.KIND_NAMES)


@pytest.mark.parametrize(
    ("text", "event"),
    [  # other writers' msgpack: longer forms of the same values
        ("01 94 04 cc01 cf0000000000000007 d000", Relation(events.FOLLOW, 1, 7)),
        ("01 dc0004 03 07 d105ff 00", Delete(7, 0x5FF)),
        ("01 dd00000005 02 07 05 00 d903 6e6577", Edit(7, 5, 0, "new")),
    ],
)
def test_longer_forms_are_read_golden(text, event):
    assert decode(bytes.fromhex(text)) == event
