"""Rows on HBase merge as the embedded store's do: the same facts, in any order, the same row."""

from __future__ import annotations

import random

import pytest

from cells import rows
from cells.hbase_client import Address
from cells.hbase_rows import outbox_rows, post_rows
from cells.hbase_schema import (
    TABLES,
    bodies,
    marker_cell,
    read_marker,
    read_outbox,
    read_post,
    relation_column,
    salted,
    salted_prefix,
)
from engine.errors import Corruption, Misconfigured
from engine.keys import outbox_key, post_key
from engine.limits import POST_ID_MAX
from engine.ports import Facts, PostRow

KEYS = [post_key(number, 3) for number in (1, 2, POST_ID_MAX)]


def random_facts(dice: random.Random) -> Facts:
    facts = Facts()
    for _ in range(dice.randrange(12)):
        key, offset = dice.choice(KEYS), dice.randrange(2**63)
        frame = b"%d" % offset
        match dice.randrange(5):
            case 0 | 1:
                facts.posts.append((key, offset, offset % 1_000, frame))
            case 2 | 3:
                facts.edits.append((key, offset, offset % 1_000, frame))
            case _:
                facts.deletes.append((key, offset))
    return facts


@pytest.mark.parametrize("seed", range(40))
def test_any_order_gives_the_embedded_stores_row_fuzz(seed: int) -> None:
    dice = random.Random(seed)
    parts = [random_facts(dice) for _ in range(4)]
    merged: dict[bytes, PostRow] = {}
    for facts in parts:
        stored = [rows.pack_post(merged[key]) if key in merged else None for key in KEYS]
        merged |= rows.merge_posts(facts, KEYS, stored)
    dice.shuffle(parts)
    table: dict[bytes, dict[bytes, bytes]] = {}
    for facts in parts * 2:
        for key, columns in post_rows(facts):
            table.setdefault(key, {}).update(columns)
        for key, columns in outbox_rows(facts):
            table.setdefault(key, {}).update(columns)
    for number, key in zip((1, 2, POST_ID_MAX), KEYS, strict=True):
        columns = table.get(salted(key), {})
        assert read_post(columns) == merged.get(key)
        entry = read_outbox(number, table.get(outbox_key(3, number), {}))
        row = merged.get(key)
        if row is None or row.offset < 0:
            assert entry is None
        else:
            assert entry == (number, row.offset, row.delete_offset)


def test_wiped_tombstones_read_the_same() -> None:
    facts = Facts([(KEYS[0], 5, 50, b"post")], [(KEYS[0], 6, 60, b"edit")], [(KEYS[0], 7)])
    columns = dict(pair for _, pairs in post_rows(facts) for pair in pairs)
    before = read_post(columns)
    columns.update(bodies(columns))
    assert read_post(columns) == before == PostRow(5, 50, b"", 6, 60, b"", 7)
    assert b"post" not in b"".join(columns.values()) and bodies(columns) == []


def test_salts_depend_on_the_id_alone_golden() -> None:
    assert [salted(post_key(number, 9))[0] for number in range(12)] == SALTS_GOLDEN
    for number in (0, 77, POST_ID_MAX):
        assert salted(post_key(number, 1)).startswith(salted_prefix(number))
    assert {salted(post_key(number, 1))[0] for number in range(200)} == set(range(8))


SALTS_GOLDEN = [0, 5, 2, 0, 4, 4, 4, 4, 0, 7, 1, 5]


def test_relation_columns_highest_offset_first() -> None:
    columns = dict(relation_column(offset, offset == 9) for offset in (1, 9, 5))
    assert columns[min(columns)] == b"\x01"


def test_markers_order_lies_in_the_timestamp() -> None:
    names = {}
    for post in (0, 5, POST_ID_MAX - 1, POST_ID_MAX):
        name, value, timestamp = marker_cell(post)
        assert 0 <= timestamp < 2**63 - 1  # which means "now" to HBase
        names[name] = value
        assert read_marker(names) == post
    assert read_marker({}) is None


@pytest.mark.parametrize("value", [b"", b"\x01short", b"\x02" + bytes(8)])
def test_other_versions_are_corruption(value: bytes) -> None:
    with pytest.raises(Corruption):
        read_post({b"p" + bytes(8): value})


def test_splits_ascend_strictly() -> None:
    for table in TABLES.values():
        assert list(table.splits) == sorted(set(table.splits)) and b"" not in table.splits


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("hbase://h:9/c1", Address("h", 9, "c1", "h:2181", False)),
        ("hbase://h/c1?zookeeper=z", Address("h", 9090, "c1", "z:2181", False)),
        (
            "hbase://[::1]:9/c1?zookeeper=z:1&transport=framed",
            Address("::1", 9, "c1", "z:1", True),
        ),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "hbase:c1",
        "hbase://h",
        "hbase://h:x/c1",
        "hbase://h/a/b",
        "redis://h/c1",
        "hbase://h/c1?transport=compact",
        "hbase://h/c1?zokeeper=z",
    ],
)
def test_wrong_urls_are_named(url: str) -> None:
    with pytest.raises(Misconfigured, match="hbase://"):
        Address.parse(url)
