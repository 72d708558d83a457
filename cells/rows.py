"""Values of the embedded store: what is behind each key, and how two versions of a post row merge.

Every value begins with a version byte (1). All integers are big-endian; an offset is signed and
-1 means: not there. Golden bytes: tests/cells/test_rows_golden.py; never change them.

| table | key (engine/keys.py) | value behind the version byte |
| --- | --- | --- |
| post | post | offset i64, time u64, edit offset i64, edit time u64, delete offset i64, frame |
|      |      | length u32, edit frame length u32; then the two frames; a tombstone has none |
| outbox | outbox | post's offset i64, delete offset i64 |
| toggle | toggle | follows u8 |
| following | following | follows u8, floor u64 |
| relation | relation | offset i64, on u8 |
| position | partition | next offset u64, time of the last applied record u64 |
| quarantine | place | time u64, frame length u32; frame; cause in UTF-8 |
| gap | place (first offset) | last offset i64, from u64, to u64; cause in UTF-8 |
| meta | "cell" | JSON: format, identity, partitions, cell, home_first, home_last |
|      | "begun" | msgpack: what was begun beside the store -> whose it was (cells/born.py) |
| inbox | inbox | empty |

`merge_posts` is a join: in any order, any number of times, the same facts give the same rows (I2).
All pure; safe from any thread.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import msgspec

from engine.errors import Corruption
from engine.keys import parse_place_key
from engine.ports import Facts, Gap, OutboxEntry, PostRow, Record

VERSION = 1
_POST = struct.Struct(">BqQqQqII")
_POST_BYTES, _post_head = _POST.size, _POST.unpack_from  # looked up once: pages live on these
_OUTBOX = struct.Struct(">Bqq")
_FOLLOWING = struct.Struct(">BBQ")
_RELATION = struct.Struct(">BqB")
_POSITION = struct.Struct(">BQQ")
_QUARANTINE = struct.Struct(">BQI")
_GAP = struct.Struct(">BqQQ")

FOLLOWS = bytes([VERSION, 1])
FOLLOWS_NOT = bytes([VERSION, 0])
NO_POST = PostRow(-1, 0, b"", -1, 0, b"", -1)


class Meta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose data a store holds: written once, compared at every open."""

    identity: str
    partitions: int
    cell: str
    home_first: int
    home_last: int
    format: int = VERSION


def _refuse(table: str, value: bytes) -> NoReturn:
    version = value[0] if value else "none"
    raise Corruption(
        f"a {table} value of version {version} and {len(value)} bytes; this software reads version"
        f" {VERSION}: use the software that wrote the store, or restore a snapshot, or rebuild"
    )


def pack_meta(meta: Meta) -> bytes:
    """The meta record's value."""
    return bytes([VERSION]) + msgspec.json.encode(meta)


def unpack_meta(value: bytes) -> Meta:
    """Raises Corruption when it is none of ours."""
    try:
        if value[:1] == bytes([VERSION]):
            return msgspec.json.decode(value[1:], type=Meta)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    _refuse("meta", value)


def pack_begun(begun: Mapping[str, bytes]) -> bytes:
    """What was begun beside the store -> whose it was: cells/born.py."""
    return bytes([VERSION]) + msgspec.msgpack.encode(begun)


def unpack_begun(value: bytes) -> dict[str, bytes]:
    """Raises Corruption when it is none of ours."""
    try:
        if value[:1] == bytes([VERSION]):
            return msgspec.msgpack.decode(value[1:], type=dict[str, bytes])
    except msgspec.MsgspecError:
        pass
    _refuse("begun", value)


def pack_post(row: PostRow) -> bytes:
    """A post row's value."""
    offset, time_ms, frame, edit_offset, edit_time_ms, edit_frame, delete_offset = row
    head = _POST.pack(
        VERSION,
        offset,
        time_ms,
        edit_offset,
        edit_time_ms,
        delete_offset,
        len(frame),
        len(edit_frame),
    )
    return head + frame + edit_frame


def unpack_post(value: bytes) -> PostRow:
    """Raises Corruption when version or lengths are wrong."""
    if len(value) < _POST_BYTES or value[0] != VERSION:
        _refuse("post", value)
    _, offset, time_ms, edit_offset, edit_time_ms, delete_offset, size, edit_size = _post_head(
        value
    )
    middle = _POST_BYTES + size
    if middle + edit_size != len(value):
        _refuse("post", value)
    return PostRow(
        offset,
        time_ms,
        value[_POST_BYTES:middle],
        edit_offset,
        edit_time_ms,
        value[middle:],
        delete_offset,
    )


def post_keys(facts: Facts) -> list[bytes]:
    """The keys of all post rows that `facts` touch, each once."""
    keys = {fact[0] for fact in facts.posts}
    if facts.edits:
        keys.update(fact[0] for fact in facts.edits)
    if facts.deletes:
        keys.update(fact[0] for fact in facts.deletes)
    return list(keys)


def merge_posts(
    facts: Facts, keys: Sequence[bytes], stored: Sequence[bytes | None]
) -> dict[bytes, PostRow]:
    """The rows that `facts` change, given the values now `stored` under `post_keys(facts)`.

    Lowest offset of a post wins, highest of an edit, lowest of a delete; a delete drops the
    frames for ever, also those that come later (I6). Rows that stay as they are are left out.
    """
    before = {
        key: unpack_post(value)
        for key, value in zip(keys, stored, strict=True)
        if value is not None
    }
    rows = before.copy()
    for key, offset, time_ms, frame in facts.posts:
        row = rows.get(key)
        if row is None:
            rows[key] = PostRow(offset, time_ms, frame, -1, 0, b"", -1)
        elif row.offset < 0 or offset < row.offset:
            kept = b"" if row.delete_offset >= 0 else frame
            rows[key] = PostRow(offset, time_ms, kept, *row[3:])
    for key, offset, time_ms, frame in facts.edits:
        row = rows.get(key, NO_POST)
        if offset > row.edit_offset:
            kept = b"" if row.delete_offset >= 0 else frame
            rows[key] = PostRow(*row[:3], offset, time_ms, kept, row.delete_offset)
    for key, offset in facts.deletes:
        row = rows.get(key, NO_POST)
        if row.delete_offset < 0 or offset < row.delete_offset:
            rows[key] = PostRow(
                row.offset, row.time_ms, b"", row.edit_offset, row.edit_time_ms, b"", offset
            )
    if not before:
        return rows
    return {key: row for key, row in rows.items() if row is not before.get(key)}


def pack_outbox(row: PostRow) -> bytes:
    """The outbox value of a row that has a post part."""
    return _OUTBOX.pack(VERSION, row.offset, row.delete_offset)


def outbox_of_post(value: bytes) -> bytes | None:
    """The outbox value that belongs to a post row's value, without unpacking its frames; None
    for a row that was never posted. Raises Corruption on another version."""
    if len(value) < _POST_BYTES or value[0] != VERSION:
        _refuse("post", value)
    head = _post_head(value)
    return _OUTBOX.pack(VERSION, head[1], head[5]) if head[1] >= 0 else None


def unpack_outbox(post: int, value: bytes) -> OutboxEntry:
    """Raises Corruption on another version."""
    if len(value) != _OUTBOX.size or value[0] != VERSION:
        _refuse("outbox", value)
    _, offset, delete_offset = _OUTBOX.unpack(value)
    return OutboxEntry(post, offset, delete_offset)


def pack_following(follows: bool, floor: int) -> bytes:
    """The value of a toggle as kept by reader."""
    return _FOLLOWING.pack(VERSION, follows, floor)


def unpack_following(value: bytes) -> tuple[bool, int]:
    """(follows, floor). Raises Corruption on another version."""
    if len(value) != _FOLLOWING.size or value[0] != VERSION:
        _refuse("following", value)
    _, follows, floor = _FOLLOWING.unpack(value)
    return bool(follows), floor


def pack_relation(offset: int, on: bool) -> bytes:
    """The value of a relation's newest state."""
    return _RELATION.pack(VERSION, offset, on)


def unpack_relation(value: bytes) -> tuple[int, bool]:
    """(offset, on). Raises Corruption on another version."""
    if len(value) != _RELATION.size or value[0] != VERSION:
        _refuse("relation", value)
    _, offset, on = _RELATION.unpack(value)
    return offset, bool(on)


def pack_position(next_offset: int, time_ms: int) -> bytes:
    """The value of a partition's position."""
    return _POSITION.pack(VERSION, next_offset, time_ms)


def unpack_position(value: bytes) -> tuple[int, int]:
    """(next offset, time ms). Raises Corruption on another version."""
    if len(value) != _POSITION.size or value[0] != VERSION:
        _refuse("position", value)
    _, next_offset, time_ms = _POSITION.unpack(value)
    return next_offset, time_ms


def pack_quarantined(record: Record, cause: str) -> bytes:
    """The value of a kept bad record."""
    head = _QUARANTINE.pack(VERSION, record.time_ms, len(record.frame))
    return head + record.frame + cause.encode()


def unpack_quarantined(key: bytes, value: bytes) -> tuple[Record, str]:
    """(record, cause). Raises Corruption on another version."""
    if len(value) < _QUARANTINE.size or value[0] != VERSION:
        _refuse("quarantine", value)
    _, time_ms, size = _QUARANTINE.unpack_from(value)
    frame, cause = value[_QUARANTINE.size :][:size], value[_QUARANTINE.size + size :]
    return Record(*parse_place_key(key), time_ms, frame), cause.decode()


def pack_gap(gap: Gap) -> bytes:
    """The value of a gap; its place is the key."""
    head = _GAP.pack(VERSION, gap.last_offset, gap.from_ms, gap.to_ms)
    return head + gap.cause.encode()


def unpack_gap(key: bytes, value: bytes) -> Gap:
    """Raises Corruption on another version."""
    if len(value) < _GAP.size or value[0] != VERSION:
        _refuse("gap", value)
    _, last_offset, from_ms, to_ms = _GAP.unpack_from(value)
    partition, first_offset = parse_place_key(key)
    cause = value[_GAP.size :].decode()
    return Gap(partition, first_offset, last_offset, from_ms, to_ms, cause)


def widest_gap(gaps: Iterable[Gap]) -> Gap:
    """Of several gaps that begin at one place the one that counts: the longest."""
    return max(gaps, key=lambda gap: (gap.last_offset, gap.to_ms, -gap.from_ms, gap.cause))
