"""How an embedded firehose is made, and its next segments; the layout of its folder.

Made under a lock that dies with its process, whole or not at all: what a killed process left is
made anew, and events that are already there are never lost to it. Any process, any thread.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.errors import Corruption
from engine.limits import FORMAT_VERSION, SUCCESSOR_WAIT_S
from topics import catalog, environments, groups, segments
from topics.locks import FileLock, sync_folder
from topics.segment_table import segment_numbers
from topics.segments import Segment, SegmentHeader, Tail

SEGMENTS_FOLDER = "segments"
STRUCTURE_LOCK = "structure.lock"


def structure_lock(folder: Path) -> FileLock:
    """Held while a segment is made or dropped, never while appending; Precondition."""
    path = folder / STRUCTURE_LOCK
    return FileLock.acquire(
        path,
        SUCCESSOR_WAIT_S,
        f"another process has held {path} for {SUCCESSOR_WAIT_S} s: it is stopped or its disk"
        " hangs; see to it and try again",
    )


def create(
    folder: Path, partitions: int, retention_ms: int, now_ms: int, segment_bytes: int
) -> catalog.FirehoseMeta:
    """Make a firehose, or find that another process just made it. `firehose.json` comes last: what
    is there without it was never opened by anybody, so it is made anew."""
    segments_folder = folder / SEGMENTS_FOLDER
    segments_folder.mkdir(parents=True, exist_ok=True)
    with structure_lock(folder):
        meta = catalog.read_meta(folder, partitions, retention_ms)
        if meta is not None:
            return meta
        _remove_unfinished_firehose(folder, segments_folder)
        meta = catalog.FirehoseMeta(catalog.new_identity(), partitions, retention_ms)
        groups.GroupPositions.create(folder)
        empty = Tail(True, 0, (0,) * partitions)
        create_next(segments_folder, meta.identity, 0, segment_bytes, now_ms, empty)
        catalog.write_meta(folder, meta)
        sync_folder(folder.parent)
        return meta


def create_next(
    folder: Path, identity: str, number: int, map_bytes: int, created_ms: int, before: Tail
) -> None:
    """Make segment `number`, which goes on where `before` ends. Structure lock held."""
    header = SegmentHeader(
        format=FORMAT_VERSION,
        identity=identity,
        number=number,
        map_bytes=map_bytes,
        created_ms=created_ms,
        last_ms=before.last_ms,
        first=before.ends,
    )
    segments.create_segment(folder, header)


def _remove_unfinished_firehose(folder: Path, segments_folder: Path) -> None:
    """Remove what a process left that was killed while it made a firehose; Corruption when there
    are records, so that a lost `firehose.json` never costs them."""
    numbers = segment_numbers(segments_folder)
    lost = numbers not in ([], [0])
    if numbers == [0]:
        segment = Segment(segments_folder, segments.read_header(segments_folder, 0))
        lost = any(segment.tail().ends)
        segment.close()
    if lost:
        raise Corruption(
            f"{folder} has events but no {catalog.META_FILE}: restore that file from a backup"
        )
    for path in (segments_folder / segments.folder_name(0), folder / groups.FOLDER):
        if path.exists():
            shutil.rmtree(path)
    environments.remove_unfinished(segments_folder)
    environments.remove_unfinished(folder)
