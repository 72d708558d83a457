"""The graph's snapshot file: a fast start. What it says is checked, or it says nothing.

| bytes | what |
| --- | --- |
| 8 | magic with the version |
| 4 | length of the header, u32 |
| n | header, JSON: `_Header` |
| ... | ids of the users, u64; then per partition its base: authors, indptr, readers, froms |
| 4 | CRC-32C of everything before |

All integers are little-endian. The toggles in the store are the truth: a file that is missing,
damaged, of another version or of another cell is no answer (None), and the graph is read from the
store. `write` may run in any thread, beside the one that changes the graph: a `Frozen` stays as
it is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from cells.graph_base import Base
from engine.errors import DiskFull, FirecellError, Unavailable
from engine.limits import GRAPH_FILE_HEADER_BYTES_MAX, PARTITIONS_MAX

_MAGIC = b"FCgraph1"
_U32 = struct.Struct("<I")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frozen:
    """A graph at one moment, without overlays. `positions`: next offsets that it covers; `ends`:
    per partition the highest toggle's offset + 1; `stamp`: whose it is, compared when reading."""

    ids: npt.NDArray[np.uint64]
    bases: list[Base]
    ends: list[int]
    positions: list[int]
    stamp: str


class _BaseHeader(msgspec.Struct, array_like=True):
    authors: int
    edges: int
    wide: bool
    first: int


class _Header(msgspec.Struct):
    stamp: str
    users: int
    ends: list[int]
    positions: list[int]
    bases: list[_BaseHeader]


class _DamagedError(Exception):
    """Why a file is no answer; never leaves this module."""


def write(path: Path, frozen: Frozen) -> int:
    """Put the file at `path`, all of it or nothing, synced; its bytes. DiskFull, Unavailable."""
    spare = path.with_name(path.name + ".new")
    try:
        with spare.open("wb") as file:
            size = checksum = 0
            for chunk in _chunks(frozen):
                checksum = crc32c(chunk, checksum)
                size += file.write(chunk)
            size += file.write(_U32.pack(checksum))
            file.flush()
            os.fsync(file.fileno())
        os.replace(spare, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            spare.unlink(missing_ok=True)
        raise _told(error, path) from error
    return size


def read(path: Path, stamp: str) -> Frozen | None:
    """What `write` put at `path` with the same stamp; None, and the reason in the log, if not."""
    try:
        with path.open("rb") as file:
            return _read(file, stamp)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, _DamagedError) as error:
        _log.warning(
            "the graph snapshot %s is of no use (%s): the follows are read from the store",
            path.name,
            error,
        )
        return None


def _chunks(frozen: Frozen) -> Iterator[Any]:
    bases = [
        _BaseHeader(len(base.authors), len(base.readers), base.froms.itemsize == 8, base.first)
        for base in frozen.bases
    ]
    header = msgspec.json.encode(
        _Header(frozen.stamp, len(frozen.ids), frozen.ends, frozen.positions, bases)
    )
    yield _MAGIC + _U32.pack(len(header)) + header
    yield _raw(frozen.ids)
    for base in frozen.bases:
        for array in (base.authors, base.indptr, base.readers, base.froms):
            yield _raw(array)


def _raw(array: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).view(np.uint8).data


def _read(file: BinaryIO, stamp: str) -> Frozen:
    start = file.read(len(_MAGIC) + _U32.size)
    if len(start) < len(_MAGIC) + _U32.size or not start.startswith(_MAGIC):
        raise _DamagedError("it is of another version, or no snapshot")
    (length,) = _U32.unpack_from(start, len(_MAGIC))
    if length > GRAPH_FILE_HEADER_BYTES_MAX:
        raise _DamagedError("its header is too long")
    raw = file.read(length)
    header = msgspec.json.decode(raw, type=_Header)
    if header.stamp != stamp:
        raise _DamagedError(f"it is of {header.stamp!r}, not of {stamp!r}")
    shapes = _shapes(header)
    expected = sum(count * np.dtype(dtype).itemsize for count, dtype in shapes)
    if os.fstat(file.fileno()).st_size != len(start) + length + expected + _U32.size:
        raise _DamagedError("it has another length than it says")
    checksum = crc32c(raw, crc32c(start))
    arrays: list[npt.NDArray[Any]] = []
    for count, dtype in shapes:
        array = np.empty(count, dtype=dtype)
        view = array.view(np.uint8).data
        if file.readinto(view) != len(view):  # type: ignore[attr-defined]
            raise _DamagedError("it ended early")
        checksum = crc32c(view, checksum)
        array.flags.writeable = False
        arrays.append(array)
    if file.read() != _U32.pack(checksum):
        raise _DamagedError("its checksum is wrong")
    bases = [
        Base(arrays[at], arrays[at + 1], arrays[at + 2], arrays[at + 3], base.first)
        for at, base in zip(range(1, len(arrays), 4), header.bases, strict=True)
    ]
    return Frozen(arrays[0], bases, header.ends, header.positions, stamp)


def _shapes(header: _Header) -> list[tuple[int, str]]:
    """(elements, dtype) of every array of the file."""
    partitions = len(header.bases)
    if not 0 < partitions == len(header.ends) == len(header.positions) <= PARTITIONS_MAX:
        raise _DamagedError("its partitions do not fit together")
    shapes = [(header.users, "<u8")]
    for base in header.bases:
        shapes += [(base.authors, "<u8"), (base.authors + 1, "<u4"), (base.edges, "<u4")]
        shapes.append((base.edges, "<u8" if base.wide else "<u4"))
    if min(count for count, _ in shapes) < 0:
        raise _DamagedError("it names a negative length")
    return shapes


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _told(error: OSError, path: Path) -> FirecellError:
    what = f"the graph snapshot {path.name} was not written: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"{what}; free some space: the follows themselves are safe in the store")
    return Unavailable(f"{what}; check the folder {path.parent.name}: it is tried again")
