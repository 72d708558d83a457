"""How a cell lies in HBase: tables, rows, and the order that lies in the qualifiers. Pure.

Tables are named `<cell>.<table>`; each has the one family `f`. All keys are engine/keys.py's; posts
have a salt byte in front, a function of the id, so that new posts spread over all regions.

| table | row | qualifier -> value |
| --- | --- | --- |
| inbox | inbox key | empty -> empty |
| post | salt, post key | `p` offset, `e` ~offset -> version, time u64, frame; `d` offset -> empty |
| outbox | outbox key | `p` offset, `d` offset -> empty |
| | author | `a` -> empty: has ever posted; in front of the author's entries |
| toggle, following | their keys | empty -> cells/rows.py's values |
| relation | relation key | `r` ~offset -> on u8 |
| position | partition | empty -> cells/rows.py's value; timestamp = next offset: a maximum |
| decision | engine/materialize.py's key | `o`, or `c` and where it closed -> its value, each time |
| marker | reader | empty -> version, post u64; timestamp = post id: a maximum |
| quarantine | place | empty -> cells/rows.py's value |
| gap | place | cells/rows.py's value -> empty: all that were told; the widest counts |
| decision, marker | "owner" | empty -> cells/born.py's value |
| meta | "cell" | empty -> cells/rows.py's value |
| | "begun" | `markers`, `decisions` -> cells/born.py's value |

Offsets are u64 big-endian and `~` is bitwise not: of the columns with one letter the first in byte
order counts, so writers never read: lowest post, highest edit, lowest delete, highest relation
(I2).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from engine.errors import Corruption
from engine.homing import mix64
from engine.keys import parse_post_key, post_prefix
from engine.limits import (
    HBASE_DENSE_SPLIT_BITS,
    HBASE_FILES_MAX,
    HBASE_MERGE_FILES_MAX,
    HBASE_MERGE_FILES_MIN,
    POST_ID_MAX,
    U64_MAX,
)
from engine.materialize import OPEN, pack_value
from engine.ports import AuthorInterval, OutboxEntry, PostRow

VERSION = 1
POSTED = (b"a", b"")  # of an author's own row in the outbox table
OWNER = b"owner"  # in the tables of decisions and markers: a row of no interval, of no reader
BEGUN = b"begun"  # in meta: what was begun beside the store
SALTS = 8
_VERSIONED = struct.Struct(">BQ")
_U64 = struct.Struct(">Q")

Columns = Mapping[bytes, bytes]  # qualifier -> value
Column = tuple[bytes, bytes]  # one of them


class Table(NamedTuple):
    """How a table is made: what Thrift 1 cannot say, so the Java helper does."""

    encoding: str
    bloom: str
    splits: tuple[bytes, ...]
    settings: Mapping[str, int] = {}
    """HBase's, for this table alone: a cluster's own stay as they are."""


def _user_splits() -> tuple[bytes, ...]:
    """Readers by their leading bytes: evenly for ids that use all 64 bits, and at the powers of two
    for ids that are counted from 1."""
    even = {number << 61 for number in range(1, SALTS)}
    dense = {2**bits for bits in HBASE_DENSE_SPLIT_BITS}
    return tuple(_U64.pack(start) for start in sorted(even | dense))


# Many files at once: each key is merged seldom, or merging takes all processors.
_MERGED_LATE = {
    "hbase.hstore.compaction.min": HBASE_MERGE_FILES_MIN,
    "hbase.hstore.compaction.max": HBASE_MERGE_FILES_MAX,
    "hbase.hstore.blockingStoreFiles": HBASE_FILES_MAX,
}
TABLES: dict[str, Table] = {
    "meta": Table("NONE", "ROW", ()),
    "position": Table("NONE", "ROW", ()),
    "post": Table("NONE", "ROW", tuple(bytes([salt]) for salt in range(1, SALTS))),
    "inbox": Table("FAST_DIFF", "NONE", _user_splits(), _MERGED_LATE),
    "outbox": Table("FAST_DIFF", "ROW", ()),  # most authors of an import never posted
    "toggle": Table("FAST_DIFF", "NONE", ()),
    "following": Table("FAST_DIFF", "NONE", ()),
    "relation": Table("FAST_DIFF", "NONE", ()),
    "quarantine": Table("NONE", "NONE", ()),
    "gap": Table("NONE", "NONE", ()),
    "marker": Table("NONE", "ROW", ()),
    "decision": Table("NONE", "NONE", ()),
}


def salted(key: bytes) -> bytes:
    """The row of a post key: the salt depends on the id alone, so authors that share an id lie
    together."""
    return bytes([mix64(parse_post_key(key)[0]) % SALTS]) + key


def salted_prefix(post: int) -> bytes:
    """What the rows of all posts with this id begin with."""
    return bytes([mix64(post) % SALTS]) + post_prefix(post)


def post_column(offset: int, time_ms: int, frame: bytes) -> tuple[bytes, bytes]:
    """A post's column: the lowest offset wins."""
    return b"p" + _U64.pack(offset), _VERSIONED.pack(VERSION, time_ms) + frame


def edit_column(offset: int, time_ms: int, frame: bytes) -> tuple[bytes, bytes]:
    """An edit's column: the highest offset wins."""
    return b"e" + _U64.pack(offset ^ U64_MAX), _VERSIONED.pack(VERSION, time_ms) + frame


def delete_column(offset: int) -> tuple[bytes, bytes]:
    """A delete's column: the lowest offset wins; the row stays deleted (I6)."""
    return b"d" + _U64.pack(offset), b""


def placed_column(offset: int) -> tuple[bytes, bytes]:
    """An outbox row's column: the post's lowest offset wins."""
    return b"p" + _U64.pack(offset), b""


def relation_column(offset: int, on: bool) -> tuple[bytes, bytes]:
    """A relation's column: the highest offset wins."""
    return b"r" + _U64.pack(offset ^ U64_MAX), bytes([on])


def first_of(columns: Columns, letter: bytes) -> tuple[int, bytes]:
    """(number, value) of the first column with this letter; (-1, b"") when there is none."""
    names = [name for name in columns if name[:1] == letter]
    if not names:
        return -1, b""
    name = min(names)
    return _U64.unpack(name[1:])[0], columns[name]


def read_post(columns: Columns) -> PostRow | None:
    """The row that the columns make: a join, so their order in time is of no account. A tombstone
    shows no frames. Raises Corruption on another version."""
    if not columns:
        return None
    offset, posted = first_of(columns, b"p")
    inverted, edited = first_of(columns, b"e")
    delete_offset, _ = first_of(columns, b"d")
    edit_offset = -1 if inverted < 0 else inverted ^ U64_MAX
    time_ms, frame = _versioned(posted) if offset >= 0 else (0, b"")
    edit_time_ms, edit_frame = _versioned(edited) if edit_offset >= 0 else (0, b"")
    if delete_offset >= 0:
        frame = edit_frame = b""
    return PostRow(offset, time_ms, frame, edit_offset, edit_time_ms, edit_frame, delete_offset)


def bodies(columns: Columns) -> list[tuple[bytes, bytes]]:
    """The columns of a row that still hold a frame, without it: what a tombstone is wiped with."""
    head = _VERSIONED.size
    return [(name, value[:head]) for name, value in columns.items() if len(value) > head]


def _versioned(value: bytes) -> tuple[int, bytes]:
    if len(value) < _VERSIONED.size or value[0] != VERSION:
        raise Corruption(
            f"a post value of {len(value)} bytes is not of version {VERSION}: use the software that"
            " wrote the table, or rebuild the cell under another name"
        )
    return _VERSIONED.unpack_from(value)[1], value[_VERSIONED.size :]


def read_outbox(post: int, columns: Columns) -> OutboxEntry | None:
    """None for a delete of a post that is not there."""
    offset, _ = first_of(columns, b"p")
    return OutboxEntry(post, offset, first_of(columns, b"d")[0]) if offset >= 0 else None


def read_relation(columns: Columns) -> bool:
    """Whether the relation is on."""
    return first_of(columns, b"r")[1] == b"\x01"


def decision_column(interval: AuthorInterval) -> tuple[bytes, bytes]:
    """A decision's column: its opening, or one of its closings, of which the lowest counts."""
    if interval.to_offset == OPEN:
        return b"o", pack_value(interval)
    return b"c" + _U64.pack(interval.to_offset), pack_value(interval)


def marker_cell(post: int) -> tuple[bytes, bytes, int]:
    """(qualifier, value, timestamp) of a marker: HBase keeps the highest timestamp. 2^63 - 1 means
    "now" to HBase, so the highest id of all has a column of its own."""
    value = _VERSIONED.pack(VERSION, post)
    return (b"m", value, 1) if post == POST_ID_MAX else (b"", value, post)


def read_marker(columns: Columns) -> int | None:
    """The marker in force. Raises Corruption on another version."""
    return max((_versioned(value)[0] for value in columns.values()), default=None)
