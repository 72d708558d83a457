"""Golden bytes of every value of the embedded store: they are on disk, so these never change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cells import rows
from engine.errors import Corruption
from engine.keys import place_key
from engine.ports import Gap, OutboxEntry, PostRow, Record

PLACE = place_key(2, 5)
META = rows.Meta("firehose-1", 32, "c1", 0, 2**64 - 1)
POST = PostRow(10, 1_010, b"frame", 50, 500, b"edit", -1)
TOMBSTONE = PostRow(10, 1_010, b"", -1, 0, b"", 12)
RECORD = Record(2, 5, 700, b"\x01bad")
GAP = Gap(2, 5, 20, 100, 200, "retention")
UNSET = "ffffffffffffffff"

GOLDEN: list[tuple[str, object, bytes, str, Callable[[bytes], object]]] = [
    (
        "post",
        POST,
        rows.pack_post(POST),
        "01" + "000000000000000a" + "00000000000003f2" + "0000000000000032" + "00000000000001f4"
        + UNSET + "00000005" + "00000004" + b"frameedit".hex(),
        rows.unpack_post,
    ),
    (
        "tombstone",
        TOMBSTONE,
        rows.pack_post(TOMBSTONE),
        "01" + "000000000000000a" + "00000000000003f2" + UNSET + "00" * 8
        + "000000000000000c" + "00" * 8,
        rows.unpack_post,
    ),
    (
        "outbox",
        OutboxEntry(7, 10, -1),
        rows.pack_outbox(POST),
        "01" + "000000000000000a" + UNSET,
        lambda value: rows.unpack_outbox(7, value),
    ),
    (
        "following",
        (True, 2**63),
        rows.pack_following(True, 2**63),
        "01" + "01" + "8000000000000000",
        rows.unpack_following,
    ),
    (
        "begun",
        {"markers": b"\x07"},
        rows.pack_begun({"markers": b"\x07"}),
        "01" + "81" + "a7" + b"markers".hex() + "c40107",
        rows.unpack_begun,
    ),
    (
        "relation",
        (9, False),
        rows.pack_relation(9, False),
        "01" + "0000000000000009" + "00",
        rows.unpack_relation,
    ),
    (
        "position",
        (11, 1_010),
        rows.pack_position(11, 1_010),
        "01" + "000000000000000b" + "00000000000003f2",
        rows.unpack_position,
    ),
    (
        "quarantine",
        (RECORD, "no msgpack: é"),
        rows.pack_quarantined(RECORD, "no msgpack: é"),
        "01" + "00000000000002bc" + "00000004" + "01626164" + "no msgpack: é".encode().hex(),
        lambda value: rows.unpack_quarantined(PLACE, value),
    ),
    (
        "gap",
        GAP,
        rows.pack_gap(GAP),
        "01" + "0000000000000014" + "0000000000000064" + "00000000000000c8"
        + b"retention".hex(),
        lambda value: rows.unpack_gap(PLACE, value),
    ),
    (
        "meta",
        META,
        rows.pack_meta(META),
        "01"
        + (
            b'{"identity":"firehose-1","partitions":32,"cell":"c1","home_first":0,'
            b'"home_last":18446744073709551615,"format":1}'
        ).hex(),
        rows.unpack_meta,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case[0])
def test_value_golden(
    case: tuple[str, object, bytes, str, Callable[[bytes], object]],
) -> None:
    _, meaning, packed, golden, unpack = case
    assert packed.hex() == golden
    assert unpack(packed) == meaning


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case[0])
def test_other_version_or_length_is_corruption(
    case: tuple[str, object, bytes, str, Callable[[bytes], object]],
) -> None:
    _, _, packed, _, unpack = case
    for damaged in (b"", b"\x02" + packed[1:], packed[:5]):
        with pytest.raises(Corruption):
            unpack(damaged)


def test_toggle_values_golden() -> None:
    assert rows.FOLLOWS.hex() == "0101"
    assert rows.FOLLOWS_NOT.hex() == "0100"


def test_post_with_a_frame_cut_short_is_corruption() -> None:
    with pytest.raises(Corruption, match="restore a snapshot"):
        rows.unpack_post(rows.pack_post(POST)[:-1])
