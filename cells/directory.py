"""Which cell is a user's home: ranges of mix64(user), in a small versioned file that all read.

The file `<data>/directory.json` is written once from the shares of the configuration. Cells that
exist keep their users: a configuration that would move users is refused until moves come (by a
fence; DESIGN 9). Immutable after loading, so safe from any thread.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from engine.errors import Corruption, Misconfigured
from engine.homing import HomeRange, mix64, split_by_share
from engine.limits import FORMAT_VERSION


class Directory:
    """user -> name of the home cell."""

    def __init__(self, ranges: Mapping[str, HomeRange], version: int = 1) -> None:
        self.ranges = dict(ranges)
        self.version = version
        self._ordered = sorted((r.last, name) for name, r in self.ranges.items())

    @classmethod
    def from_shares(cls, shares: Mapping[str, float]) -> Directory:
        """Contiguous ranges in the order of the cells' names."""
        names = sorted(shares)
        ranges = split_by_share([shares[name] for name in names])
        return cls(dict(zip(names, ranges, strict=True)))

    def home(self, user: int) -> str:
        """The cell that `user` is at home in."""
        mixed = mix64(user)
        for last, name in self._ordered:
            if mixed <= last:
                return name
        raise Corruption("the directory does not cover every user: restore directory.json")

    def document(self) -> dict[str, object]:
        """JSON-ready, as it lies in the file."""
        cells = {
            name: {"first": str(r.first), "last": str(r.last)} for name, r in self.ranges.items()
        }
        return {"format": FORMAT_VERSION, "version": self.version, "cells": cells}


def load_directory(folder: Path, shares: Mapping[str, float]) -> Directory:
    """The directory of a data folder, made from `shares` on first use.

    Misconfigured when the configuration's cells are not those of the file, or a later version
    wrote it; Corruption when it is damaged.
    """
    wanted = Directory.from_shares(shares)
    path = folder / "directory.json"
    if not path.exists():
        _write_once(path, json.dumps(wanted.document(), indent=1))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        written = int(found["format"])
        ranges = {
            name: HomeRange(int(cell["first"]), int(cell["last"]))
            for name, cell in found["cells"].items()
        }
        version = int(found["version"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Corruption(f"{path} is damaged ({error}): restore it from a copy") from error
    if written != FORMAT_VERSION:
        raise Misconfigured(
            f"{path} has format {written}; this software reads {FORMAT_VERSION}: use the version"
            " that wrote it"
        )
    if wanted.document()["cells"] != found["cells"]:
        raise Misconfigured(
            f"{path} gives users to the cells {sorted(ranges)} in other ranges than the"
            f" configuration's {sorted(shares)} with their shares; moving users comes later:"
            " use the former cells and shares, or a new data folder"
        )
    return Directory(ranges, version)


def _write_once(path: Path, text: str) -> None:
    """Create the file whole or not at all; whoever comes second finds the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{uuid.uuid4().hex}")  # two containers may share a process id
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
