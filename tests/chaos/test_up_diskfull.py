"""A full disk under the whole of it: publishers get 503, pages go on, nothing acknowledged is lost,
and once there is space again everything goes on by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.up import Up, running
from tests.disks import small_disk

pytestmark = pytest.mark.slow

DISK_BYTES = 160 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


def fill(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while os.statvfs(disk).f_bavail:
            try:
                file.write(bytes(64 * 1024))
            except OSError:
                break
    return ballast


def post(up: Up, text: str) -> int:
    event = {"type": "post", "author": "7", "text": text}
    return up.client.post(f"{up.url}/v1/events", json=event).status_code


def texts(up: Up) -> list[str]:
    return [item["text"] for item in up.dashboard(1, limit="200")["posts"]]


def test_disk_full_under_up_and_space_again(disk: Path) -> None:
    config = disk / "firecell.toml"
    config.write_text('[cells.c1]\nstore = "embedded:./data/c1"\n', encoding="utf-8")
    with running(disk, config, 1) as up:
        up.publish({"type": "follow", "reader": "1", "author": "7"})
        last = up.publish({"type": "post", "author": "7", "text": "before"})
        up.dashboard(1, after=last["position"], wait_ms="5000")
        ballast = fill(disk)
        acknowledged, refused = ["before"], 0
        for number in range(200):
            status = post(up, f"{'x' * 5_000} {number}")
            if status == 201:
                acknowledged.append(f"{'x' * 5_000} {number}")
            else:
                assert status == 503, status
                refused += 1
            if refused >= 5:
                break
        assert refused >= 5, "the disk was never full"
        assert "before" in texts(up), "pages must go on"
        ballast.unlink()
        deadline = time.monotonic() + 30
        while post(up, "after") != 201:
            assert time.monotonic() < deadline, "publishing did not come back"
            time.sleep(0.2)
        while (shown := texts(up)) and "after" not in shown:
            assert time.monotonic() < deadline, "the cell did not come back"
            time.sleep(0.2)
        assert set(acknowledged) <= set(shown)
        assert len(shown) == len(set(shown))
