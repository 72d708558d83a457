"""Event <-> frame: the only place where bytes become events.

Frame, version 1 (msgpack; golden vectors in tests/engine/test_codec_golden.py; never change it):

| byte | content |
| --- | --- |
| 0 | version = 1 |
| 1.. | msgpack array: kind, then the record's fields in order |

A frame from the firehose is untrusted input (a publisher's bug, another version): its length is
checked first, every msgpack limit is set, no ext types, no hooks; then types and ranges. Whatever
is wrong raises BadInput, and nothing else. Pure; safe from any thread.
"""

from __future__ import annotations

from typing import Any

import msgpack

from engine import limits
from engine.errors import BadInput, TooLarge
from engine.events import (
    DELETE,
    EDIT,
    KIND_NAMES,
    LIKE,
    POST,
    UNLIKE,
    Delete,
    Edit,
    Event,
    Post,
    Reaction,
    Relation,
)
from engine.limits import AT_MS_MAX, POST_ID_MAX, TEXT_BYTES_MAX, U64_MAX

VERSION = 1
_VERSION_BYTE = bytes([VERSION])
_LIST_MAX = max(limits.TAGS_MAX, limits.MEDIA_MAX, limits.MENTIONS_MAX)


def encode(event: Event) -> bytes:
    """The frame of `event`; TooLarge when it passes EVENT_BYTES_MAX."""
    if isinstance(event, Post):
        fields: list[Any] = [
            POST,
            event.author,
            event.id,
            event.at_ms,
            event.text,
            event.tags,
            event.media,
            event.mentions,
            event.reblog_of,
            event.reblog_author,
            event.reply_to,
            event.reply_author,
        ]
    elif isinstance(event, Relation):
        fields = [event.kind, event.reader, event.author, event.at_ms]
    elif isinstance(event, Reaction):
        fields = [event.kind, event.reader, event.author, event.post, event.at_ms]
    elif isinstance(event, Edit):
        fields = [EDIT, event.author, event.post, event.at_ms, event.text]
    else:
        fields = [DELETE, event.author, event.post, event.at_ms]
    frame: bytes = _VERSION_BYTE + msgpack.packb(fields)
    if len(frame) > limits.EVENT_BYTES_MAX:
        raise TooLarge(f"the event is {len(frame)} bytes; at most {limits.EVENT_BYTES_MAX}")
    return frame


def decode(frame: bytes) -> Event:
    """The event of a frame, with every rule checked; BadInput when it is none."""
    if len(frame) > limits.EVENT_BYTES_MAX:
        raise TooLarge(f"a frame of {len(frame)} bytes; at most {limits.EVENT_BYTES_MAX}")
    if not frame or frame[0] != VERSION:
        version = frame[0] if frame else "none"
        raise BadInput(f"frame version {version}; this software reads version {VERSION}")
    try:
        fields = msgpack.unpackb(
            memoryview(frame)[1:],
            use_list=False,
            strict_map_key=True,
            max_str_len=TEXT_BYTES_MAX,
            max_bin_len=0,
            max_array_len=_LIST_MAX,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"the frame is no msgpack within the limits: {error}") from None
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise BadInput("the frame is no array that begins with a kind")
    kind = fields[0]
    build = _BUILD.get(kind)
    if build is None:
        raise BadInput(f"unknown kind of event {kind}", "type")
    event: Event = build(fields)
    return event


def _u64(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise BadInput(f"{field} is no u64", field)
    return value


def _post_id(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= POST_ID_MAX:
        raise BadInput(f"{field} is no post id (0..2^63-1)", field)
    return value


def _at(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= AT_MS_MAX:
        raise BadInput("at is no time in Unix milliseconds", "at")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise BadInput("text is no string", "text")
    if len(value) * 4 > TEXT_BYTES_MAX and len(value.encode()) > TEXT_BYTES_MAX:
        raise TooLarge(f"text is longer than {TEXT_BYTES_MAX} bytes", "text")
    return value


def _strings(value: Any, field: str, count_max: int) -> tuple[str, ...]:
    if type(value) is not tuple or any(type(item) is not str for item in value):
        raise BadInput(f"{field} is no list of strings", field)
    if len(value) > count_max:
        raise TooLarge(f"{field} has {len(value)} items; at most {count_max}", field)
    return value


def _reference(post: Any, author: Any, field: str) -> None:
    if (post is None) != (author is None):
        raise BadInput(f"{field} and its author go together", field)
    if post is not None:
        _post_id(post, field)
        _u64(author, field)


def _arity(fields: tuple[Any, ...], count: int) -> None:
    if len(fields) != count:
        raise BadInput(f"{KIND_NAMES[fields[0]]} has {len(fields)} fields, not {count}", "type")


def check_post(post: Post) -> Post:
    """`post` when every rule of the contract holds, else BadInput that names the field."""
    _u64(post.author, "author")
    _post_id(post.id, "id")
    _at(post.at_ms)
    _text(post.text)
    if post.tags:
        for tag in _strings(post.tags, "tags", limits.TAGS_MAX):
            if len(tag) > limits.TAG_CHARACTERS_MAX:
                raise TooLarge(f"a tag is over {limits.TAG_CHARACTERS_MAX} characters", "tags")
    if post.media:
        for url in _strings(post.media, "media", limits.MEDIA_MAX):
            if len(url.encode()) > limits.MEDIA_BYTES_MAX:
                raise TooLarge(f"a media URL is over {limits.MEDIA_BYTES_MAX} bytes", "media")
    if post.mentions:
        if type(post.mentions) is not tuple or len(post.mentions) > limits.MENTIONS_MAX:
            raise TooLarge(f"mentions: at most {limits.MENTIONS_MAX}", "mentions")
        for user in post.mentions:
            _u64(user, "mentions")
    if post.reblog_of is not None or post.reblog_author is not None:
        _reference(post.reblog_of, post.reblog_author, "reblog_of")
    if post.reply_to is not None or post.reply_author is not None:
        _reference(post.reply_to, post.reply_author, "reply_to")
    return post


def _build_post(fields: tuple[Any, ...]) -> Post:
    _arity(fields, 12)
    if type(fields[5]) is not tuple or type(fields[6]) is not tuple or type(fields[7]) is not tuple:
        raise BadInput("tags, media and mentions are lists", "tags")
    return check_post(Post(*fields[1:]))


def _build_edit(fields: tuple[Any, ...]) -> Edit:
    _arity(fields, 5)
    author, post = _u64(fields[1], "author"), _post_id(fields[2], "post")
    return Edit(author, post, _at(fields[3]), _text(fields[4]))


def _build_delete(fields: tuple[Any, ...]) -> Delete:
    _arity(fields, 4)
    return Delete(_u64(fields[1], "author"), _post_id(fields[2], "post"), _at(fields[3]))


def _build_relation(fields: tuple[Any, ...]) -> Relation:
    _arity(fields, 4)
    reader, author = _u64(fields[1], "reader"), _u64(fields[2], "author")
    return Relation(fields[0], reader, author, _at(fields[3]))


def _build_reaction(fields: tuple[Any, ...]) -> Reaction:
    _arity(fields, 5)
    reader, author = _u64(fields[1], "reader"), _u64(fields[2], "author")
    return Reaction(fields[0], reader, author, _post_id(fields[3], "post"), _at(fields[4]))


_BUILD: dict[int, Any] = {
    POST: _build_post,
    EDIT: _build_edit,
    DELETE: _build_delete,
    **{
        kind: _build_reaction if kind in (LIKE, UNLIKE) else _build_relation
        for kind in KIND_NAMES
        if kind > DELETE
    },
}
