"""Post ids: u64, bit 63 zero: 41 bits of milliseconds since 2010-01-01Z, 10 node, 12 sequence.

The id orders pages; it never decides who sees what (that is the root position's work). Making
one takes a clock as a parameter: this module has none of its own.
"""

from __future__ import annotations

from engine.errors import BadInput, Unavailable
from engine.limits import (
    ID_CLOCK_BACK_MS_MAX,
    ID_NODE_MAX,
    ID_SEQUENCE_MAX,
    POST_ID_MAX,
)

EPOCH_MS = 1_262_304_000_000  # 2010-01-01T00:00:00Z in Unix milliseconds
_MS_MAX = 2**41 - 1


def make_id(ms: int, node: int, sequence: int) -> int:
    """The id of the `sequence`th post of `node` in Unix millisecond `ms`."""
    return ((ms - EPOCH_MS) << 22) | (node << 12) | sequence


def id_ms(post: int) -> int:
    """Unix milliseconds of a post id."""
    return (post >> 22) + EPOCH_MS


def id_at(ms: int) -> int:
    """The smallest id of Unix millisecond `ms`, clamped to what an id can hold."""
    return min(max(ms - EPOCH_MS, 0), _MS_MAX) << 22


class IdGenerator:
    """Ids of one node, strictly ascending. Not thread-safe: one owner.

    `last_ms` is the last Unix millisecond that any earlier owner of the node may have used:
    no id is made in it or before it, so a clock that went back never repeats an id.
    """

    def __init__(self, node: int, last_ms: int = 0) -> None:
        if not 0 <= node <= ID_NODE_MAX:
            raise BadInput(f"node {node} is not in 0..{ID_NODE_MAX}", "node")
        self.node = node
        self.last_ms = last_ms
        self._sequence = ID_SEQUENCE_MAX  # nothing is left of last_ms

    def take(self, count: int, now_ms: int) -> list[int]:
        """At most `count` ids at `now_ms`; fewer when this millisecond has no more.

        Raises Unavailable when the clock is further back than can be waited for, or at a time
        that 41 bits cannot hold.
        """
        if not 0 <= now_ms - EPOCH_MS <= _MS_MAX:
            raise Unavailable(
                f"the clock is at Unix ms {now_ms}, outside 2010..2079: an id cannot hold that;"
                " set the machine's time"
            )
        if now_ms < self.last_ms - ID_CLOCK_BACK_MS_MAX:
            raise Unavailable(
                f"the clock is {self.last_ms - now_ms} ms behind the last id of node {self.node};"
                " ids are refused until it has caught up: check the machine's time"
            )
        if now_ms < self.last_ms:
            return []
        if now_ms > self.last_ms:
            self.last_ms, self._sequence = now_ms, -1
        first = self._sequence + 1
        last = min(first + count - 1, ID_SEQUENCE_MAX)
        self._sequence = max(last, self._sequence)
        return [make_id(now_ms, self.node, n) for n in range(first, last + 1)]


def check_post_id(value: int, field: str) -> int:
    """`value` when it can be a post id, else BadInput that names `field`."""
    if not 0 <= value <= POST_ID_MAX:
        raise BadInput(f"{field}: {value} is no post id (0..2^63-1)", field)
    return value
