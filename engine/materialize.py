"""What of an author's posts is pushed into inboxes, and what pages merge in: author intervals.

An author with very many followers in a cell costs one key per follower and post. Such an author is
*pulled*: an interval is recorded, [from, to) in offsets of the author's partition, and

- a post at an offset inside it is not pushed, unless it is late (its id is older than
  PULL_LATE_MS_MAX at its append: an import): that one is pushed as ever. So a pulled post's id is
  close to its append time, which bounds what a page has to look through;
- a page looks through the author's outbox where an interval overlaps it, and drops what it has
  twice. An interval only decides whether to look, never what is visible (I5).

What was recorded decides; today's number of followers decides only where nothing is recorded yet,
so a replay leaves out the same posts (I2). Pure; how a record lies on the disk is here, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from engine.errors import Corruption
from engine.ids import id_at, id_ms
from engine.limits import (
    POST_ID_MAX,
    PULL_LATE_MS_MAX,
    PULL_ORDER_MS,
    PUSH_CLOSE_PERCENT,
)
from engine.ports import AuthorInterval

VERSION = 1
_KEY = struct.Struct(">QQ")
_VALUE = struct.Struct(">BQQQqQQ")

OPEN = -1  # the `to_offset` of an interval that goes on


class PushPolicy(NamedTuple):
    """When an author is pulled: above `push_followers_max` followers in this cell, until they are
    fewer than PUSH_CLOSE_PERCENT of that."""

    push_followers_max: int

    def pulls(self, pulled: bool, followers: int) -> bool:
        """Whether to pull from here on an author who was `pulled` or not until now."""
        if pulled:
            return followers * 100 >= self.push_followers_max * PUSH_CLOSE_PERCENT
        return followers > self.push_followers_max


def opened(
    author: int, offset: int, time_ms: int, followers: int, policy: PushPolicy
) -> AuthorInterval:
    """An interval from this position on."""
    limit = policy.push_followers_max
    return AuthorInterval(author, offset, time_ms, followers, limit, OPEN, 0, 0)


def closed(
    interval: AuthorInterval, offset: int, time_ms: int, followers: int
) -> AuthorInterval:
    """The same, up to this position."""
    return interval._replace(to_offset=offset, to_ms=time_ms, to_followers=followers)


def covers(interval: AuthorInterval, offset: int) -> bool:
    """Whether a post at this offset of the author's partition lies inside."""
    ended = interval.to_offset != OPEN and offset >= interval.to_offset
    return offset >= interval.from_offset and not ended


def decided_to(intervals: Sequence[AuthorInterval]) -> int:
    """The last offset at which something was decided about their author; -1: nothing yet. Up to
    it, and at it, the record decides."""
    return max(max(i.from_offset, i.to_offset) for i in intervals) if intervals else -1


def is_late(post: int, time_ms: int) -> bool:
    """Whether a post appended at `time_ms` is pushed even inside of an interval."""
    return id_ms(post) < time_ms - PULL_LATE_MS_MAX


def leaves_out(
    intervals: Iterable[AuthorInterval], post: int, offset: int, time_ms: int
) -> bool:
    """Whether a post is not pushed: a pure function of its place and the record."""
    return not is_late(post, time_ms) and any(covers(i, offset) for i in intervals)


def id_range(intervals: Sequence[AuthorInterval]) -> tuple[int, int]:
    """(lowest, highest) post id that any of an author's intervals may have left out; inclusive."""
    low = min(id_at(i.from_ms - PULL_ORDER_MS) for i in intervals)
    if any(i.to_offset == OPEN for i in intervals):
        return low, POST_ID_MAX
    return low, max(id_at(i.to_ms + PULL_ORDER_MS) for i in intervals)


def oldest_in_order(post: int) -> int:
    """No pulled post with a lower id than this has a higher offset than `post`."""
    return id_at(id_ms(post) - PULL_ORDER_MS)


def join(one: AuthorInterval, two: AuthorInterval) -> AuthorInterval:
    """Two records of one interval: closed wins, and the lowest end of two; in any order (I2)."""
    ends = [each for each in (one, two) if each.to_offset != OPEN]
    return min(ends, key=lambda each: each.to_offset, default=one)


def pack_key(interval: AuthorInterval) -> bytes:
    """16 bytes: author u64, from_offset u64, big-endian."""
    return _KEY.pack(interval.author, interval.from_offset)


def pack_value(interval: AuthorInterval) -> bytes:
    """49 bytes, big-endian: version u8; when it opened: time u64, followers u64, setting u64; when
    it closed: offset i64 (-1: open), time u64, followers u64."""
    return _VALUE.pack(VERSION, *interval[2:])


def unpack(key: bytes, value: bytes) -> AuthorInterval:
    """The inverse of both. Raises Corruption on another version."""
    if len(key) != _KEY.size or len(value) != _VALUE.size or value[0] != VERSION:
        raise Corruption(
            f"a decision of {len(key)} + {len(value)} bytes is not of version {VERSION}: use the"
            " software that wrote it, or restore the decisions' folder"
        )
    return AuthorInterval(*_KEY.unpack(key), *_VALUE.unpack(value)[1:])
