"""JSON in and out: the shapes of the public contract (docs/http.md), and nothing else.

In: typed structs, so a wrong type, an unknown field or a missing one is an error that names it;
`/openapi.json` is generated from the same structs. Out: posts are encoded once and cached as bytes
(`post_json`), so a page is a join. Ids are decimal strings; integers below 2^53 are accepted.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from engine import events, limits
from engine.codec import check_post, decode
from engine.errors import BadInput, TooLarge
from engine.events import NO_ID, Delete, Edit, Event, Post, Reaction, Relation
from engine.limits import POST_ID_MAX, U64_MAX
from engine.ports import PostRow
from engine.times import format_ms, parse_time_ms

_JSON_INT_MAX = 2**53 - 1
UserId = Annotated[str, Meta(pattern="^[0-9]{1,20}$", description="u64 as a decimal string")] | int
PostId = UserId
Tag = Annotated[str, Meta(max_length=limits.TAG_CHARACTERS_MAX)]
Text = Annotated[str, Meta(max_length=limits.TEXT_BYTES_MAX)]
Media = Annotated[str, Meta(max_length=limits.MEDIA_BYTES_MAX)]


class PostIn(Struct, forbid_unknown_fields=True, tag_field="type", tag="post"):
    """A post; `id` only when taken from /v1/ids or an importer's own."""

    author: UserId
    text: Text = ""
    id: PostId | None = None
    at: str | None = None
    tags: Annotated[list[Tag], Meta(max_length=limits.TAGS_MAX)] = []
    media: Annotated[list[Media], Meta(max_length=limits.MEDIA_MAX)] = []
    mentions: Annotated[list[UserId], Meta(max_length=limits.MENTIONS_MAX)] = []
    reblog_of: PostId | None = None
    reblog_author: UserId | None = None
    reply_to: PostId | None = None
    reply_author: UserId | None = None


class EditIn(Struct, forbid_unknown_fields=True, tag_field="type", tag="edit"):
    """A new text for one's own post."""

    author: UserId
    post: PostId
    text: Text
    at: str | None = None


class DeleteIn(Struct, forbid_unknown_fields=True, tag_field="type", tag="delete"):
    """The end of one's own post."""

    author: UserId
    post: PostId
    at: str | None = None


class _RelationIn(Struct, forbid_unknown_fields=True, tag_field="type"):
    reader: UserId
    author: UserId
    at: str | None = None


class _ReactionIn(Struct, forbid_unknown_fields=True, tag_field="type"):
    reader: UserId
    author: UserId
    post: PostId
    at: str | None = None


class FollowIn(_RelationIn, tag="follow"):
    """`reader` follows `author`."""


class UnfollowIn(_RelationIn, tag="unfollow"):
    """`reader` follows `author` no more."""


class BlockIn(_RelationIn, tag="block"):
    """Neither sees the other's posts."""


class UnblockIn(_RelationIn, tag="unblock"):
    """Takes a block back."""


class MuteIn(_RelationIn, tag="mute"):
    """`reader` sees none of `author`'s posts."""


class UnmuteIn(_RelationIn, tag="unmute"):
    """Takes a mute back."""


class LikeIn(_ReactionIn, tag="like"):
    """`reader` likes a post."""


class UnlikeIn(_ReactionIn, tag="unlike"):
    """Takes a like back."""


EventIn = (
    PostIn | EditIn | DeleteIn | FollowIn | UnfollowIn | LikeIn | UnlikeIn
    | BlockIn | UnblockIn | MuteIn | UnmuteIn
)  # fmt: skip


class PostOut(Struct, omit_defaults=False):
    """A post in a page."""

    id: str
    author: str
    at: str
    text: str
    tags: list[str]
    media: list[str]
    mentions: list[str]
    reblog_of: str | None
    reblog_author: str | None
    reply_to: str | None
    reply_author: str | None
    edited_at: str | None


class PagePost(PostOut):
    """A post in a dashboard: with the reader's own view of it."""

    seen: bool


class GapOut(Struct):
    """A span that the cell has not covered, in append times."""

    from_: str = msgspec.field(name="from")
    to: str
    cause: str


class DashboardPage(Struct):
    """Newest first; only `"next": null` ends a walk."""

    reader: str
    cell: str
    posts: list[PagePost]
    next: str | None
    settled: str
    marker: str | None
    unread: int
    unread_capped: bool
    gaps: list[GapOut]


class PostsPage(Struct):
    """An author's own posts, newest first."""

    posts: list[PostOut]
    next: str | None


class FollowPage(Struct):
    """Users, ascending."""

    users: list[str]
    next: str | None
    gaps: list[dict[str, str]]


class MarkerIn(Struct, forbid_unknown_fields=True):
    """The newest post that was seen."""

    post: PostId


class MarkerOut(Struct):
    """The marker in force."""

    reader: str
    marker: str


class Published(Struct):
    """An event that is durable in the firehose."""

    id: str | None
    position: str
    at: str


class Problem(Struct):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None


_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(EventIn)
_encoder = msgspec.json.Encoder()
_KINDS: dict[Any, int] = {
    FollowIn: events.FOLLOW,
    UnfollowIn: events.UNFOLLOW,
    LikeIn: events.LIKE,
    UnlikeIn: events.UNLIKE,
    BlockIn: events.BLOCK,
    UnblockIn: events.UNBLOCK,
    MuteIn: events.MUTE,
    UnmuteIn: events.UNMUTE,
}
_FIELD = re.compile(r"`\$\.?([a-z_]*)")
_NAMED = re.compile(r"field `([^`]*)`")


def decode_json(raw: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """`raw` as the decoder's type; BadInput that names the field."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        text = str(error)
        named = _NAMED.search(text) or _FIELD.search(text)
        field = named[1] if named else ""
        if "matching regex" in text:
            text = f"{field}: no decimal u64 (a number from 0 to 2^64-1)"
        if "Invalid value" in text and field in ("", "type"):
            text = f"unknown type of event: {text}"
        if "of length <=" in text:  # the same fault has the same status, whoever finds it
            raise TooLarge(text, field) from None
        raise BadInput(text, field or "type") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"malformed JSON: {error}") from None
    except RecursionError:
        raise BadInput("malformed JSON: nested too deeply") from None


def parse_u64(value: str | int, field: str) -> int:
    """A decimal string or a JSON integer below 2^53 -> u64."""
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise BadInput(f"{field}: {value[:32]!r} is no decimal u64", field)
        number = int(value)
    else:
        number = value
        if number > _JSON_INT_MAX:
            raise BadInput(f"{field}: write integers from 2^53 on as strings", field)
    if not 0 <= number <= U64_MAX:
        raise BadInput(f"{field}: {number} is not in 0..2^64-1", field)
    return number


def parse_user(text: str, field: str) -> int:
    """A user id from a path or a query."""
    return parse_u64(text, field)


def parse_post_id(value: str | int, field: str) -> int:
    """A post id: u64 with bit 63 zero."""
    number = parse_u64(value, field)
    if number > POST_ID_MAX:
        raise BadInput(f"{field}: {number} is no post id (0..2^63-1)", field)
    return number


def parse_event(raw: bytes) -> Event:
    """The event of one JSON text; a post without an id has id NO_ID. BadInput names the field."""
    if len(raw) > limits.EVENT_BYTES_MAX:
        raise TooLarge(f"an event of {len(raw)} bytes; at most {limits.EVENT_BYTES_MAX}")
    return from_input(decode_json(raw, _decoder))


def from_input(shape: Any) -> Event:
    """The event record of a decoded input struct."""
    at = parse_time_ms(shape.at, "at") if shape.at is not None else 0
    author = parse_u64(shape.author, "author")
    if isinstance(shape, PostIn):
        return _post_from_input(shape, author, at)
    if isinstance(shape, EditIn):
        _check_text(shape.text)
        return Edit(author, parse_post_id(shape.post, "post"), at, shape.text)
    if isinstance(shape, DeleteIn):
        return Delete(author, parse_post_id(shape.post, "post"), at)
    reader = parse_u64(shape.reader, "reader")
    if isinstance(shape, _ReactionIn):
        post = parse_post_id(shape.post, "post")
        return Reaction(_KINDS[type(shape)], reader, author, post, at)
    return Relation(_KINDS[type(shape)], reader, author, at)


def _check_text(text: str) -> None:
    if len(text) * 4 > limits.TEXT_BYTES_MAX and len(text.encode()) > limits.TEXT_BYTES_MAX:
        raise TooLarge(f"text is longer than {limits.TEXT_BYTES_MAX} bytes", "text")


def _post_from_input(shape: PostIn, author: int, at: int) -> Post:
    post = Post(
        author=author,
        id=0 if shape.id is None else parse_post_id(shape.id, "id"),
        at_ms=at,
        text=shape.text,
        tags=tuple(shape.tags),
        media=tuple(shape.media),
        mentions=tuple(parse_u64(user, "mentions") for user in shape.mentions),
        reblog_of=_optional(shape.reblog_of, "reblog_of"),
        reblog_author=_optional(shape.reblog_author, "reblog_author"),
        reply_to=_optional(shape.reply_to, "reply_to"),
        reply_author=_optional(shape.reply_author, "reply_author"),
    )
    check_post(post)
    return msgspec.structs.replace(post, id=NO_ID) if shape.id is None else post


def _optional(value: str | int | None, field: str) -> int | None:
    return None if value is None else parse_u64(value, field)


def _text_of(number: int | None) -> str | None:
    return None if number is None else str(number)


def post_shape(row: PostRow) -> PostOut:
    """The post of a row that has one, as it is shown now: the newest edit's text."""
    post = decode(row.frame)
    if not isinstance(post, Post):
        raise BadInput("the frame of a post row is no post")
    text, edited_at = post.text, None
    if row.edit_frame:
        edit = decode(row.edit_frame)
        if not isinstance(edit, Edit):
            raise BadInput("the edit frame of a post row is no edit")
        text, edited_at = edit.text, format_ms(edit.at_ms or row.edit_time_ms)
    return PostOut(
        id=str(post.id),
        author=str(post.author),
        at=format_ms(post.at_ms or row.time_ms),
        text=text,
        tags=list(post.tags),
        media=list(post.media),
        mentions=[str(user) for user in post.mentions],
        reblog_of=_text_of(post.reblog_of),
        reblog_author=_text_of(post.reblog_author),
        reply_to=_text_of(post.reply_to),
        reply_author=_text_of(post.reply_author),
        edited_at=edited_at,
    )


def post_json(row: PostRow) -> bytes:
    """`post_shape` as JSON bytes: what caches keep and pages join."""
    return _encoder.encode(post_shape(row))
