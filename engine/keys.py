"""Keys: every byte of every key that Firecell stores, alone in this file. Never change them.

| key | bytes | layout (all big-endian; ~ is bitwise not: newest first) |
| --- | --- | --- |
| inbox | 24 | reader u64, ~post id u64, author u64 |
| outbox | 24 | author u64, ~post id u64, author u64 |
| post | 16 | ~post id u64, author u64 |
| toggle | 26 | partition u16, author u64, reader u64, offset u64 |
| following | 24 | reader u64, author u64, offset u64 |
| relation | 17 | owner u64, class u8, other u64 |
| position | 2 | partition u16 |
| quarantine, gap | 10 | partition u16, offset u64 |

The author in the inbox key lets unfollow, block and mute be decided without reading the post.
Scalars and arrays give the same bytes (golden vectors: tests/engine/test_keys_golden.py).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.limits import U64_MAX

INBOX_KEY_BYTES = 24
POST_KEY_BYTES = 16

_THREE = struct.Struct(">QQQ")
_TWO = struct.Struct(">QQ")
_ONE = struct.Struct(">Q")
_TOGGLE = struct.Struct(">HQQQ")
_RELATION = struct.Struct(">QBQ")
_PLACE = struct.Struct(">HQ")
_U16 = struct.Struct(">H")

BLOCKS, MUTES, BLOCKED_BY = 1, 2, 3  # classes of a relation, seen from its owner

Keys = npt.NDArray[np.uint8]  # shape (n, 24)
U64s = npt.NDArray[np.uint64]


def inbox_key(reader: int, post: int, author: int) -> bytes:
    """24 bytes: newest first within a reader."""
    return _THREE.pack(reader, post ^ U64_MAX, author)


def parse_inbox_key(key: bytes) -> tuple[int, int, int]:
    """(reader, post id, author) of an inbox or outbox key."""
    reader, inverted, author = _THREE.unpack(key)
    return reader, inverted ^ U64_MAX, author


def inbox_keys(readers: U64s, posts: U64s, authors: U64s) -> Keys:
    """Many inbox keys at once: three u64 arrays of length n -> u8 array (n, 24)."""
    words = np.empty((len(readers), 3), dtype=">u8")
    words[:, 0] = readers
    words[:, 1] = ~posts
    words[:, 2] = authors
    return words.view(np.uint8).reshape(-1, INBOX_KEY_BYTES)


def parse_inbox_keys(raw: bytes) -> tuple[U64s, U64s, U64s]:
    """Joined inbox keys -> (readers, post ids, authors), native u64 arrays."""
    words: npt.NDArray[Any] = np.frombuffer(raw, dtype=">u8").reshape(-1, 3).astype(np.uint64)
    return words[:, 0], ~words[:, 1], words[:, 2]


def outbox_key(author: int, post: int) -> bytes:
    """24 bytes: the inbox key's shape, with the author as its own reader."""
    return _THREE.pack(author, post ^ U64_MAX, author)


def post_key(post: int, author: int) -> bytes:
    """16 bytes: newest first over all authors; a foreign edit or delete is another key."""
    return _TWO.pack(post ^ U64_MAX, author)


def parse_post_key(key: bytes) -> tuple[int, int]:
    """(post id, author)."""
    inverted, author = _TWO.unpack(key)
    return inverted ^ U64_MAX, author


def post_prefix(post: int) -> bytes:
    """What all posts with this id begin with, whoever wrote them."""
    return _ONE.pack(post ^ U64_MAX)


def user_prefix(user: int) -> bytes:
    """What all inbox, outbox, following and relation keys of a user begin with."""
    return _ONE.pack(user)


def toggle_key(partition: int, author: int, reader: int, offset: int) -> bytes:
    """26 bytes: a partition's follows load by one range scan."""
    return _TOGGLE.pack(partition, author, reader, offset)


def parse_toggle_key(key: bytes) -> tuple[int, int, int, int]:
    """(partition, author, reader, offset)."""
    return _TOGGLE.unpack(key)


def partition_prefix(partition: int) -> bytes:
    """What all toggles of a partition begin with; also the position's key."""
    return _U16.pack(partition)


def following_key(reader: int, author: int, offset: int) -> bytes:
    """24 bytes: a reader's toggles, by author, by offset."""
    return _THREE.pack(reader, author, offset)


def parse_following_key(key: bytes) -> tuple[int, int, int]:
    """(reader, author, offset)."""
    return _THREE.unpack(key)


def pair_prefix(reader: int, author: int) -> bytes:
    """What all toggles of one reader towards one author begin with."""
    return _TWO.pack(reader, author)


def relation_key(owner: int, relation: int, other: int) -> bytes:
    """17 bytes: `owner` blocks, mutes or is blocked by `other`."""
    return _RELATION.pack(owner, relation, other)


def parse_relation_key(key: bytes) -> tuple[int, int, int]:
    """(owner, class, other)."""
    return _RELATION.unpack(key)


def place_key(partition: int, offset: int) -> bytes:
    """10 bytes: a place in the firehose, as quarantine and gaps are kept."""
    return _PLACE.pack(partition, offset)


def parse_place_key(key: bytes) -> tuple[int, int]:
    """(partition, offset)."""
    return _PLACE.unpack(key)


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with `prefix`; None when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None
