"""A full disk: DiskFull, nothing half-written, and appends work again once there is room.

On a real small file system (tmpfs); skipped where mounting is not allowed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import DiskFull
from tests.topics.firehoses import START_MS, Clock, read_all, small_log
from topics.log_embedded import EmbeddedLog
from topics.nodes import IdSource

FRAME = bytes(range(256)) * 40


def mount(path: Path, *options: str) -> bool:
    done = subprocess.run(["mount", *options, "tmpfs", path], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    if not mount(path, "-t", "tmpfs", "-o", "size=3m"):
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill_up(log: EmbeddedLog) -> list[bytes]:
    """Append until the disk is full; the frames that were acknowledged."""
    kept: list[bytes] = []
    while True:
        batch = [b"%06d" % (len(kept) + n) + FRAME for n in range(20)]
        try:
            log.append([(1, frame) for frame in batch])
        except DiskFull as error:
            assert "Free disk space" in error.message
            assert error.status == 503 and error.retry_after_s
            return kept
        kept += batch


@pytest.mark.parametrize("segment_bytes", [2**20, 2**26], ids=["at a roll", "in a segment"])
def test_disk_full_and_back(disk: Path, segment_bytes: int) -> None:
    log = small_log(disk / "firehose", segment_bytes=segment_bytes)
    kept = fill_up(log)
    assert len(kept) > 20
    for _ in range(3):  # again, and nothing of it is kept
        with pytest.raises(DiskFull):
            log.append([(0, FRAME)] * 50)
    assert log.end_offsets() == [0, len(kept), 0, 0]
    assert read_all(log, 1) == kept
    assert mount(disk, "-o", "remount,size=12m")
    assert [offset for offset, _ in log.append([(0, FRAME)] * 50)] == list(range(50))
    assert log.append([(1, b"next")])[0][0] == len(kept)
    assert read_all(log, 1) == [*kept, b"next"]
    log.close()
    log = small_log(disk / "firehose", segment_bytes=segment_bytes)
    assert read_all(log, 1) == [*kept, b"next"]
    log.close()


def test_disk_full_reads_commits_and_retention(disk: Path) -> None:
    clock = Clock()
    log = small_log(disk / "firehose", clock=clock, retention_ms=60_000)
    kept = fill_up(log)
    for number in range(64):  # what little is left
        try:
            (disk / f"filler{number}").write_bytes(bytes(64 * 1024))
        except OSError:
            break
    with pytest.raises(DiskFull):
        for number in range(2_000):
            log.commit(f"group{number}", {0: number})
    assert read_all(log, 1) == kept
    clock.now_ms += 10_000_000
    dropped = log.apply_retention(clock.now_ms)
    assert dropped >= 1
    log.commit("group", {0: 1})
    assert log.append([(1, b"next")])[0][0] == len(kept)
    log.close()


def test_disk_full_while_a_firehose_is_made(disk: Path) -> None:
    (disk / "filler").write_bytes(bytes(3 * 2**20 - 300_000))
    with pytest.raises(DiskFull):
        small_log(disk / "firehose", partitions=1_000)
    (disk / "filler").unlink()
    log = small_log(disk / "firehose", partitions=1_000)
    assert log.append([(999, b"x")])[0][0] == 0
    log.close()


def test_disk_full_makes_no_ids(disk: Path) -> None:
    clock = Clock()
    (disk / "filler").write_bytes(bytes(3 * 2**20 - 4096 * 2))
    with pytest.raises(DiskFull):
        for number in range(9):
            IdSource(disk, number, clock).take(1)
    (disk / "filler").unlink()
    ids = IdSource(disk, None, clock)
    assert ids.take(1)[0] > 0 and clock.now_ms == START_MS
    ids.close()
