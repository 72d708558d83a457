"""The events: what a user can do, as frozen records.

`account` is the one that the event is about (DESIGN 2): all events of an account share a
partition, hence one total order, the same in every cell.

| kind | record | account |
| --- | --- | --- |
| post, edit, delete | Post, Edit, Delete | the author |
| follow, unfollow | Relation | the followee (`author`) |
| block, unblock, mute, unmute | Relation | the reader |
| like, unlike | Reaction | the post's author |

Bytes are `engine/codec.py`'s, JSON is `engine/wire.py`'s. Safe to share between threads: frozen.
"""

from __future__ import annotations

import msgspec

POST, EDIT, DELETE = 1, 2, 3
FOLLOW, UNFOLLOW = 4, 5
LIKE, UNLIKE = 6, 7
BLOCK, UNBLOCK, MUTE, UNMUTE = 8, 9, 10, 11

NO_ID = -1  # a post that has no id yet: the publisher gives it one

KIND_NAMES = {
    POST: "post",
    EDIT: "edit",
    DELETE: "delete",
    FOLLOW: "follow",
    UNFOLLOW: "unfollow",
    LIKE: "like",
    UNLIKE: "unlike",
    BLOCK: "block",
    UNBLOCK: "unblock",
    MUTE: "mute",
    UNMUTE: "unmute",
}
KINDS = {name: kind for kind, name in KIND_NAMES.items()}


class Post(msgspec.Struct, frozen=True, gc=False):
    """A post. `at_ms` is shown, never decides; 0 means: not given."""

    author: int
    id: int
    at_ms: int = 0
    text: str = ""
    tags: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    mentions: tuple[int, ...] = ()
    reblog_of: int | None = None
    reblog_author: int | None = None
    reply_to: int | None = None
    reply_author: int | None = None

    kind = POST

    @property
    def account(self) -> int:
        """The author."""
        return self.author


class Edit(msgspec.Struct, frozen=True, gc=False):
    """A new text for a post of the same author; the edit with the highest offset wins."""

    author: int
    post: int
    at_ms: int
    text: str

    kind = EDIT

    @property
    def account(self) -> int:
        """The author."""
        return self.author


class Delete(msgspec.Struct, frozen=True, gc=False):
    """The end of a post: for ever (I6)."""

    author: int
    post: int
    at_ms: int = 0

    kind = DELETE

    @property
    def account(self) -> int:
        """The author."""
        return self.author


class Relation(msgspec.Struct, frozen=True, gc=False):
    """follow, unfollow, block, unblock, mute, unmute: `reader` towards `author`."""

    kind: int
    reader: int
    author: int
    at_ms: int = 0

    @property
    def account(self) -> int:
        """The followee for follow and unfollow, else the reader."""
        return self.author if self.kind <= UNFOLLOW else self.reader


class Reaction(msgspec.Struct, frozen=True, gc=False):
    """like, unlike: `reader` towards `post` of `author`."""

    kind: int
    reader: int
    author: int
    post: int
    at_ms: int = 0

    @property
    def account(self) -> int:
        """The post's author."""
        return self.author


Event = Post | Edit | Delete | Relation | Reaction
