"""A full disk: a named error, reads go on, nothing acknowledged is lost, and once there is space
again writing goes on in the same process, by the same handle."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cells.markers import EmbeddedMarkers
from cells.store_embedded import EmbeddedStore
from engine import limits
from engine.errors import DiskFull
from engine.homing import HomeRange
from engine.keys import inbox_key, inbox_keys, post_key
from engine.limits import RUN_KEYS_MIN
from engine.ports import Facts
from tests.disks import small_disk

DISK_BYTES = 48 * 1024 * 1024
RECOVERY_S = 15  # RocksDB looks for space every 5 s


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def fill(disk: Path, left: int) -> Path:
    """Use up the disk but for `left` bytes; the file to remove when space shall return."""
    path = disk / "ballast"
    with open(path, "ab", buffering=0) as file:
        while free_bytes(disk) > left:
            file.write(bytes(min(65_536, max(4_096, free_bytes(disk) - left))))
    return path


def until_it_works(step: Callable[[], None]) -> None:
    deadline = time.monotonic() + RECOVERY_S
    while True:
        try:
            step()
            return
        except DiskFull:
            assert time.monotonic() < deadline, "writing did not go on after space returned"
            time.sleep(0.1)


def open_store(folder: Path) -> EmbeddedStore:
    return EmbeddedStore.open(folder, identity="f", partitions=1, cell="c", home=HomeRange())


def posts(number: int) -> Facts:
    body = random.Random(number).randbytes(400)
    facts = Facts(posts=[(post_key(number * 100 + at, 1), number, 1, body) for at in range(100)])
    facts.positions = {0: (number + 1, 1)}
    return facts


def keys_at(post: int) -> np.ndarray:
    readers = np.arange(RUN_KEYS_MIN, dtype=np.uint64)
    return inbox_keys(readers, np.full_like(readers, post), readers * 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["log", "run"])
def test_writing_goes_on_after_space_returns(
    disk: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WRITE_BUFFER_BYTES", 1024 * 1024)  # flushes happen, too
    store = open_store(disk / "store")
    store.write_all(posts(1))
    store.write_inbox(keys_at(1))
    done = 1

    def step() -> None:
        if kind == "log":
            store.write_all(posts(done + 1))
        else:
            store.write_inbox(keys_at(done + 1))

    ballast = fill(disk, 300_000)
    with pytest.raises(DiskFull, match="the disk is full"):
        for _ in range(1_000):
            step()
            done += 1
    assert list((disk / "store" / "runs").iterdir()) == []
    assert store.inbox_older(7, b"", 1)[:8] == inbox_key(7, 1, 0)[:8]
    assert store.post_rows([post_key(100, 1)])[0] is not None
    with pytest.raises(DiskFull):
        step()
    ballast.unlink()
    until_it_works(step)
    done += 1
    store.close()
    store = open_store(disk / "store")
    if kind == "log":
        assert store.positions()[0] == [done + 1]
        every = [post_key(n * 100 + at, 1) for n in range(1, done + 1) for at in range(100)]
        assert None not in store.post_rows(every)
    else:
        whole = b"".join(inbox_key(7, n, 0) for n in range(done, 0, -1))
        assert store.inbox_older(7, b"", done + 5) == whole
    store.close()


def test_full_store_closes_and_opens_again(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_BUFFER_BYTES", 1024 * 1024)
    store = open_store(disk / "store")
    done = 0
    ballast = fill(disk, 300_000)
    with pytest.raises(DiskFull):
        for done in range(1_000):
            store.write_all(posts(done))
    store.close()
    ballast.unlink()
    store = open_store(disk / "store")
    assert store.positions()[0] == [done]
    store.write_all(posts(done))
    store.close()


def test_markers_go_on_after_space_returns(disk: Path) -> None:
    markers = EmbeddedMarkers.open(disk / "markers")
    markers.advance(1, 10)
    ballast = fill(disk, 0)
    with pytest.raises(DiskFull):
        for reader in range(2, 10_000):
            markers.advance(reader, 10)
    assert markers.get(1) == 10
    ballast.unlink()
    assert markers.advance(1, 20) == 20
    assert markers.advance(20_000, 5) == 5
    markers.close()
