"""The files of a snapshot: a manifest that names them all with their checksums, and copying them.

A snapshot is a folder; it is written under a name that begins with a dot, synced, and renamed, so
one that has its name is whole. `manifest.json` says whose it is and up to where it goes:

    manifest.json
    store/         what the store needs to come back (embedded: a RocksDB checkpoint)
    markers/       LMDB   decisions/  LMDB   graph.snapshot   (cells/graph_file.py)

Pure file work, in any thread; nobody else writes in these folders.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from crc32c import crc32c

from cells.synced import translate
from engine.errors import Corruption, NotFound
from engine.limits import MANIFEST_BYTES_MAX, SNAPSHOT_READ_BYTES
from topics.locks import sync_folder, write_durably

VERSION = 1
MANIFEST = "manifest.json"
STORE, MARKERS, DECISIONS, GRAPH = "store", "markers", "decisions", "graph.snapshot"
_LOCKS = ("LOCK", "lock.mdb")  # made anew by whoever opens
_SHARED_SUFFIX = ".sst"  # never written again once there: may be linked instead of copied

Tell = Callable[[int, int], None]  # (bytes done, bytes in all)


class FileSum(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file, by its path inside of the snapshot."""

    path: str
    bytes: int
    crc32c: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a snapshot says of itself. `positions`: next offsets, all partitions."""

    cell: str
    identity: str
    partitions: int
    home_first: int
    home_last: int
    store: str  # which kind of store can read it
    created_ms: int
    scheduled: bool
    positions: list[int]
    times_ms: list[int]
    files: list[FileSum]
    format: int = VERSION

    @property
    def bytes(self) -> int:
        """Of all files; those that are hard links are shared with the store at first."""
        return sum(file.bytes for file in self.files)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a snapshot. NotFound, Corruption."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            raw = file.read(MANIFEST_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{folder} is no snapshot: it has no {MANIFEST}") from None
    try:
        found = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corruption(f"{path} is damaged ({error}): use another snapshot") from None
    if found.format != VERSION:
        raise Corruption(f"{path} is of version {found.format}: use the software that wrote it")
    return found


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, durably: the last file of a snapshot."""
    write_durably(folder / MANIFEST, msgspec.json.encode(manifest))


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a snapshot in the making, but locks and the manifest."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (MANIFEST, *_LOCKS):
            yield path


def sum_files(folder: Path, tell: Tell) -> list[FileSum]:
    """Read, sum and sync every file below `folder`, and sync the folders."""
    paths = list(files_below(folder))
    total = sum(path.stat().st_size for path in paths)
    found, done = [], 0
    for path in paths:
        size, checksum = _read_through(path)
        done += size
        tell(done, total)
        found.append(FileSum(path.relative_to(folder).as_posix(), size, checksum))
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        sync_folder(place)
    return found


def check_files(folder: Path, manifest: Manifest, tell: Tell) -> None:
    """Read every file of a snapshot. Corruption names the first that is not as it was written."""
    total, done = manifest.bytes, 0
    for file in manifest.files:
        path = folder / file.path
        try:
            size, checksum = _read_through(path)
        except FileNotFoundError:
            size, checksum = -1, 0
        if (size, checksum) != (file.bytes, file.crc32c):
            raise Corruption(
                f"{path} of the snapshot is not as it was written: use another snapshot; keep"
                " this one for inspection"
            )
        done += size
        tell(done, total)


def copy_part(source: Path, target: Path) -> None:
    """Copy a file or folder, durably; files that never change are linked where the disk is the
    same. `target` must not be there."""
    try:
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_or_copy)
            for place in [target, *(p for p in target.rglob("*") if p.is_dir())]:
                sync_folder(place)
        else:
            _link_or_copy(str(source), str(target))
        sync_folder(target.parent)
    except OSError as error:
        raise translate(error, f"copy {source} to {target}") from error


def _link_or_copy(source: str, target: str) -> str:
    if source.endswith(_SHARED_SUFFIX):
        try:
            os.link(source, target)
            return target
        except OSError:
            pass  # another disk, or one without links
    shutil.copyfile(source, target)
    with open(target, "rb+") as file:
        os.fsync(file.fileno())
    return target


def _read_through(path: Path) -> tuple[int, int]:
    """(bytes, CRC-32C) of a file; it is durable on return."""
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(SNAPSHOT_READ_BYTES):
            checksum = crc32c(chunk, checksum)
            size += len(chunk)
        os.fsync(file.fileno())
    return size, checksum
