"""Frames -> lines of JSON, in bulk: what a consumer of the firehose gets.

A line is the event as it was published, and `id` (posts), `at`, `appended_at`, `position`. Members
that a post does not have are left out. The frame is decoded by msgspec in one go and the numbers
are set into ready-made text: 2 us an event, where building objects and encoding them takes 12.
A frame that is no event of ours (cells quarantine it) becomes a line of type `malformed`.
Pure; safe from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine import events
from engine.codec import VERSION
from engine.limits import AT_MS_MAX
from engine.ports import Record
from engine.times import format_ms
from topics.filters import Filter

MALFORMED = "malformed"
_Number = Annotated[int, Meta(ge=0)]
_Time = Annotated[int, Meta(ge=0, le=AT_MS_MAX)]


class _Post(Struct, array_like=True, tag=events.POST, forbid_unknown_fields=True, gc=False):
    author: _Number
    id: _Number
    at_ms: _Time
    text: str
    tags: list[str]
    media: list[str]
    mentions: list[_Number]
    reblog_of: _Number | None
    reblog_author: _Number | None
    reply_to: _Number | None
    reply_author: _Number | None


class _Edit(Struct, array_like=True, tag=events.EDIT, forbid_unknown_fields=True, gc=False):
    author: _Number
    post: _Number
    at_ms: _Time
    text: str


class _Delete(Struct, array_like=True, tag=events.DELETE, forbid_unknown_fields=True, gc=False):
    author: _Number
    post: _Number
    at_ms: _Time


def _relation(name: str, kind: int) -> Any:
    fields = [("reader", _Number), ("author", _Number), ("at_ms", _Time)]
    return msgspec.defstruct(
        name, fields, array_like=True, tag=kind, forbid_unknown_fields=True, gc=False
    )


def _reaction(name: str, kind: int) -> Any:
    fields = [("reader", _Number), ("author", _Number), ("post", _Number), ("at_ms", _Time)]
    return msgspec.defstruct(
        name, fields, array_like=True, tag=kind, forbid_unknown_fields=True, gc=False
    )


_REACTIONS = (events.LIKE, events.UNLIKE)
_OTHERS = {
    kind: (_reaction if kind in _REACTIONS else _relation)(name, kind)
    for kind, name in events.KIND_NAMES.items()
    if kind > events.DELETE
}
_union: Any = _Post | _Edit | _Delete
for _shape in _OTHERS.values():
    _union = _union | _shape
_decode: Callable[[Any], Any] = msgspec.msgpack.Decoder(_union).decode
_json = msgspec.json.Encoder().encode
_KIND_OF: dict[type, int] = {
    _Post: events.POST,
    _Edit: events.EDIT,
    _Delete: events.DELETE,
    **{shape: kind for kind, shape in _OTHERS.items()},
}
_HEAD = {kind: b'{"type":"%b"' % name.encode() for kind, name in events.KIND_NAMES.items()}
_TAIL = b',"at":"%b","appended_at":"%b","position":"%d:%d"}\n'
_POST = b'{"type":"post","author":"%d","id":"%d","text":%b%b' + _TAIL
_EDIT = b'{"type":"edit","author":"%d","post":"%d","text":%b' + _TAIL
_DELETE = b'{"type":"delete","author":"%d","post":"%d"' + _TAIL
_RELATION = {
    kind: head + b',"reader":"%d","author":"%d"' + _TAIL
    for kind, head in _HEAD.items()
    if kind > events.DELETE and kind not in _REACTIONS
}
_REACTION = {
    kind: _HEAD[kind] + b',"reader":"%d","author":"%d","post":"%d"' + _TAIL for kind in _REACTIONS
}
_BAD = b'{"type":"' + MALFORMED.encode() + b'","reason":%b' + _TAIL


def lines_of(records: Sequence[Record], wanted: Filter) -> tuple[list[bytes], list[int]]:
    """(lines with their line ends, index of each one's record) of the records that pass."""
    lines: list[bytes] = []
    indexes: list[int] = []
    kinds, authors, every = wanted.kinds, wanted.authors, wanted.passes_all
    kind_of, last_ms, appended = _KIND_OF, -1, b""
    for index, (partition, offset, time_ms, frame) in enumerate(records):
        if time_ms != last_ms:
            last_ms, appended = time_ms, format_ms(time_ms).encode()
        try:
            event = _decode(frame[1:])
            kind = kind_of[type(event)] if frame[0] == VERSION else 0
        except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
            kind = 0
        if not every:
            if (kinds or not kind) and kind not in kinds:
                continue
            if authors and event.author not in authors:
                continue
        at_ms = event.at_ms if kind else 0
        tail = (format_ms(at_ms).encode() if at_ms else appended, appended, partition, offset)
        indexes.append(index)
        if kind == events.POST:
            more = _more(event)
            lines.append(_POST % (event.author, event.id, _json(event.text), more, *tail))
        elif kind in _RELATION:
            lines.append(_RELATION[kind] % (event.reader, event.author, *tail))
        elif kind:
            lines.append(_other(kind, event, tail))
        else:
            lines.append(_BAD % (_json(_why(frame)), *tail))
    return lines, indexes


def _other(kind: int, event: Any, tail: tuple[bytes, bytes, int, int]) -> bytes:
    if kind in _REACTION:
        return _REACTION[kind] % (event.reader, event.author, event.post, *tail)
    if kind == events.EDIT:
        return _EDIT % (event.author, event.post, _json(event.text), *tail)
    return _DELETE % (event.author, event.post, *tail)


def _more(post: _Post) -> bytes:
    """The members that few posts have."""
    more = b""
    if post.tags:
        more += b',"tags":' + _json(post.tags)
    if post.media:
        more += b',"media":' + _json(post.media)
    if post.mentions:
        more += b',"mentions":' + _json(list(map(str, post.mentions)))
    if post.reblog_of is not None and post.reblog_author is not None:
        more += b',"reblog_of":"%d","reblog_author":"%d"' % (post.reblog_of, post.reblog_author)
    if post.reply_to is not None and post.reply_author is not None:
        more += b',"reply_to":"%d","reply_author":"%d"' % (post.reply_to, post.reply_author)
    return more


def _why(frame: bytes) -> str:
    if not frame or frame[0] != VERSION:
        return f"frame version {frame[0] if frame else 'none'}; this software reads {VERSION}"
    try:
        _decode(frame[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return str(error)
    return "no event of ours"
