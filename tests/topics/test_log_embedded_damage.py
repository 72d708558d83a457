"""Damage to the embedded firehose's own files: named, loudly, and never read over (I11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Corruption
from tests.topics.firehoses import Clock, small_log

HOUR = 3_600_000


def test_a_changed_byte_stops_the_reader_loudly(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    log.append([(0, b"an unmistakable frame")])
    log.close()
    path = tmp_path / "segments" / f"{0:016d}" / "data.mdb"
    content = path.read_bytes()
    assert content.count(b"unmistakable") == 1
    path.write_bytes(content.replace(b"unmistakable", b"unmistakeable"[:12]))
    log = small_log(tmp_path)
    with pytest.raises(Corruption, match="checksum"):
        log.read(0, 0, 10, 100)
    log.close()


def test_a_tail_that_contradicts_the_records_stops_the_writer(tmp_path: Path) -> None:
    log = small_log(tmp_path)
    log.append([(0, b"x")] * 3)
    with log._table.pinned(0) as segment:
        assert segment is not None
        with segment._environment.use() as opened, opened.begin(write=True) as transaction:
            cursor = transaction.cursor(opened.databases[0])
            assert cursor.last() and cursor.delete()
    with pytest.raises(Corruption, match="its tail says 3"):
        log.append([(0, b"y")])
    assert log.append([(1, b"y")])[0][0] == 0
    log.close()


def test_a_hole_stops_the_reader_instead_of_spinning_it(tmp_path: Path) -> None:
    clock = Clock()
    log = small_log(tmp_path, clock=clock)
    log.append([(0, b"a")])
    log.append([(0, b"b")])
    with log._table.pinned(0) as segment:
        assert segment is not None
        with segment._environment.use() as opened, opened.begin(write=True) as transaction:
            cursor = transaction.cursor(opened.databases[0])
            assert cursor.last() and cursor.delete()
    clock.now_ms += HOUR
    log.append([(1, b"c")])
    assert [record.frame for record in log.read(0, 0, 10, 100)] == [b"a"]
    with pytest.raises(Corruption, match="partition 0 lacks 1"):
        log.read(0, 1, 10, 100)
    log.close()
