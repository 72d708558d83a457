"""What the firehose's tests share: a clock that is set by hand, small logs, other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from engine.limits import SEGMENT_BYTES_MIN
from topics.log_embedded import EmbeddedLog

ROOT = Path(__file__).resolve().parents[2]
START_MS = 1_760_000_000_000


class Clock:
    """Unix milliseconds that move only when told."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def small_log(folder: Path, **settings: Any) -> EmbeddedLog:
    """A log with the smallest segments and 4 partitions, unless told otherwise."""
    return EmbeddedLog.open(
        folder, **{"partitions": 4, "segment_bytes": SEGMENT_BYTES_MIN, **settings}
    )


def read_all(log: EmbeddedLog, partition: int, start: int | None = None) -> list[bytes]:
    """Frames of a partition to its end; every record must be where it says."""
    offset = log.begin_offsets()[partition] if start is None else start
    frames: list[bytes] = []
    while records := log.read(partition, offset, 1_000, 1_000_000):
        for record in records:
            assert (record.partition, record.offset) == (partition, offset)
            offset += 1
            frames.append(record.frame)
    assert offset == log.end_offsets()[partition]
    return frames


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs `code` with the product importable; stdin and stdout are pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def output_of(process: subprocess.Popen[str]) -> str:
    """What it printed until its end, which must be a good one."""
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return out
