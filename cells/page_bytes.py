"""Pages as JSON bytes: posts are encoded once and joined, never encoded again. Pure."""

from __future__ import annotations

import msgspec

from engine.errors import BadInput
from engine.limits import U64_MAX
from engine.ports import Shown
from engine.timeline import Cursor

encode = msgspec.json.Encoder().encode


def joined(posts: list[tuple[int, Shown]], marker: int) -> bytes:
    """Posts of a dashboard, newest first: up to the marker they were seen."""
    if posts and posts[-1][0] > marker:
        return b"false},".join([shown[1] for _, shown in posts]) + b"false}"
    return b",".join(
        [shown[1] + (b"true}" if post <= marker else b"false}") for post, shown in posts]
    )


def closed(shown: Shown) -> bytes:
    """A post outside of a dashboard: without the reader's view."""
    return shown.fragment[: -len(b',"seen":')] + b"}"


def posts_page(fragments: list[bytes], last: int | None, author: int) -> bytes:
    """An author's own posts; `last` None: nothing follows."""
    following = b"null" if last is None else b'"%b"' % str(Cursor(last, author)).encode()
    return b'{"posts":[%b],"next":%b}' % (b",".join(fragments), following)


def follow_page(users: list[int], limit: int) -> bytes:
    """Users of a list; one more than `limit` were asked for, if there are so many."""
    following = f"u{users[limit - 1]}" if len(users) > limit else None
    page = {"users": [str(user) for user in users[:limit]], "next": following, "gaps": []}
    return encode(page)


def user_cursor(text: str) -> int:
    """The user behind which a list of users goes on. BadInput."""
    if text[:1] == "u" and text[1:].isascii() and text[1:].isdigit() and len(text) <= 21:
        user = int(text[1:])
        if user <= U64_MAX:
            return user
    raise BadInput("cursor: no cursor of ours: take `next` of a page", "cursor")
