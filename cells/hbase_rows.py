"""Facts into rows: what one batch of records writes into a cell's tables on HBase. Pure.

Rows of one key may come several times in a call: which of their columns counts is decided by the
qualifiers alone (cells/hbase_schema.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cells import rows
from cells.hbase_frames import Row
from cells.hbase_schema import (
    POSTED,
    delete_column,
    edit_column,
    placed_column,
    post_column,
    relation_column,
    salted,
)
from engine import limits
from engine.keys import (
    following_key,
    outbox_key,
    parse_post_key,
    place_key,
    relation_key,
    toggle_key,
    user_prefix,
)
from engine.ports import Facts


def post_rows(facts: Facts) -> Iterator[Row]:
    """Posts, the newest edit of each, tombstones."""
    for key, offset, time_ms, frame in facts.posts:
        yield salted(key), [post_column(offset, time_ms, frame)]
    newest: dict[bytes, tuple[int, int, bytes]] = {}
    for key, offset, time_ms, frame in facts.edits:
        if key not in newest or offset > newest[key][0]:
            newest[key] = (offset, time_ms, frame)
    for key, (offset, time_ms, frame) in newest.items():
        yield salted(key), [edit_column(offset, time_ms, frame)]
    for key, offset in facts.deletes:
        yield salted(key), [delete_column(offset)]


def outbox_rows(facts: Facts) -> Iterator[Row]:
    """Authors' own posts, deletes of them, and who ever posted."""
    for author in {parse_post_key(key)[1] for key, _, _, _ in facts.posts}:
        yield user_prefix(author), [POSTED]
    for key, offset, _, _ in facts.posts:
        post, author = parse_post_key(key)
        yield outbox_key(author, post), [placed_column(offset)]
    for key, offset in facts.deletes:
        post, author = parse_post_key(key)
        yield outbox_key(author, post), [delete_column(offset)]


def toggle_rows(facts: Facts) -> Iterator[Row]:
    """Follows and unfollows by partition and author."""
    for partition, author, reader, offset, follows, _ in facts.toggles:
        value = rows.FOLLOWS if follows else rows.FOLLOWS_NOT
        yield toggle_key(partition, author, reader, offset), [(b"", value)]


def following_rows(facts: Facts) -> Iterator[Row]:
    """The same toggles by reader."""
    for _, author, reader, offset, follows, floor in facts.toggles:
        yield following_key(reader, author, offset), [(b"", rows.pack_following(follows, floor))]


def relation_rows(facts: Facts) -> Iterator[Row]:
    """Blocks and mutes."""
    for owner, relation, other, offset, on in facts.relations:
        yield relation_key(owner, relation, other), [relation_column(offset, on)]


def quarantine_rows(facts: Facts) -> Iterator[Row]:
    """Bad records."""
    for record, cause in facts.quarantined:
        value = rows.pack_quarantined(record, cause)
        yield place_key(record.partition, record.offset), [(b"", value)]


def gap_rows(facts: Facts) -> Iterator[Row]:
    """Spans that are not covered."""
    for gap in facts.gaps:
        yield place_key(gap.partition, gap.first_offset), [(rows.pack_gap(gap), b"")]


def calls_of(found: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in calls of at most HBASE_CALL_ROWS rows and about HBASE_CALL_BYTES bytes."""
    call: list[Row] = []
    total = 0
    for row in found:
        call.append(row)
        total += sum(len(value) for _, value in row[1])
        if len(call) >= limits.HBASE_CALL_ROWS or total >= limits.HBASE_CALL_BYTES:
            yield call
            call, total = [], 0
    if call:
        yield call
