"""That a cell is being rebuilt, kept in its folder until it is: up to where, and since when.

While `rebuild.json` is there the cell serves at once, and what it has not applied yet of the span
is a gap in its pages (I8). Written by `cells/rebuild.py`, read at the cell's start, removed by the
thread that applies when the target is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from engine.errors import Corruption
from engine.ports import Gap
from topics.locks import sync_folder, write_durably

_FILE = "rebuild.json"
VERSION = 1


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: next offsets at which the rebuild is done; all partitions."""

    offsets: list[int]
    started_ms: int
    format: int = VERSION


class Rebuilding:
    """A rebuild that goes on; see the module."""

    def __init__(self, folder: Path, target: Target) -> None:
        self._path = folder / _FILE
        self.target = target

    @classmethod
    def begin(cls, folder: Path, offsets: Sequence[int], started_ms: int) -> Rebuilding:
        """Note it, durably."""
        rebuilding = cls(folder, Target(list(offsets), started_ms))
        write_durably(rebuilding._path, msgspec.json.encode(rebuilding.target))
        return rebuilding

    @classmethod
    def load(cls, folder: Path) -> Rebuilding | None:
        """What goes on in `folder`; Corruption when the note is none of ours."""
        path = folder / _FILE
        try:
            target = msgspec.json.decode(path.read_bytes(), type=Target)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Corruption(f"{path} is no note of a rebuild ({error}): rebuild again") from None
        if target.format != VERSION:
            raise Corruption(f"{path} is of version {target.format}: use the version that wrote it")
        return cls(folder, target)

    def reached(self, offsets: Sequence[int]) -> bool:
        """Whether positions are at the target."""
        return all(at >= end for at, end in zip(offsets, self.target.offsets, strict=True))

    def gaps(self, offsets: Sequence[int], times_ms: Sequence[int]) -> list[Gap]:
        """What is not applied yet."""
        ends = self.target.offsets
        return [
            Gap(partition, at, end - 1, times_ms[partition], self.target.started_ms, "rebuilding")
            for partition, (at, end) in enumerate(zip(offsets, ends, strict=True))
            if at < end
        ]

    def finish(self) -> None:
        """The note goes."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)
