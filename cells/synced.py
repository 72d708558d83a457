"""What is born in a cell, and so not in the firehose, lies in small databases of their own on LMDB,
synced before it is answered: markers and decisions. This is what both share.

Beside what it is for, each holds whose it is, under a key as short as no other (cells/born.py says
what for). One process has such a database open; any number of its threads may call.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

import lmdb

from engine.errors import Corruption, DiskFull, FirecellError, Precondition, Unavailable

_OWNER = b"owner"  # a marker's key has 8 bytes, a decision's 16
_FILE = "data.mdb"  # LMDB's own name for it


class SyncedDatabase:
    """An environment with its lock of commits; `what` it holds is named in errors."""

    what: ClassVar[str]
    map_bytes: ClassVar[int]
    readers_max: ClassVar[int]  # threads that read at the same moment

    def __init__(self, environment: lmdb.Environment) -> None:
        """Over an open environment; `open` makes one."""
        self._environment: lmdb.Environment | None = environment
        self._commit_lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The database in `folder`, made when there is none. Raises Corruption, DiskFull,
        Unavailable."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            environment = lmdb.open(
                str(folder),
                map_size=cls.map_bytes,
                max_readers=cls.readers_max,
                metasync=True,
                sync=True,
                max_dbs=0,
            )
            _fill(folder / _FILE, environment)
        except (lmdb.Error, OSError) as error:
            raise translate(error, f"open the {cls.what} in {folder}") from error
        return cls(environment)

    def owner(self) -> bytes | None:
        """Whose it is, as `begin` noted it; None: nobody's yet."""
        try:
            with self._opened().begin(buffers=False) as transaction:
                value = transaction.get(_OWNER)
        except lmdb.Error as error:
            raise translate(error, f"read whose the {self.what} are") from error
        return None if value is None else bytes(value)

    def begin(self, owner: bytes) -> None:
        """Note whose it is, durable on return. Raises DiskFull, Unavailable."""
        try:
            with self._commit_lock, self._opened().begin(write=True) as transaction:
                transaction.put(_OWNER, owner)
        except lmdb.Error as error:
            raise translate(error, f"begin the {self.what}") from error

    def _pairs(self, transaction: lmdb.Transaction) -> Iterator[tuple[bytes, bytes]]:
        """What it is for: all (key, value), in key order."""
        for key, value in transaction.cursor():
            if key != _OWNER:
                yield bytes(key), bytes(value)

    def copy_to(self, folder: str) -> None:
        """All of it as it is at one moment, in the new `folder`, beside writers. Raises DiskFull,
        Unavailable."""
        try:
            Path(folder).mkdir(parents=True)
            self._opened().copy(folder, compact=True)
        except (lmdb.Error, OSError) as error:
            raise translate(error, f"copy the {self.what} to {folder}") from error

    def _opened(self) -> lmdb.Environment:
        if self._environment is None:
            raise Unavailable(f"the {self.what} are closed")
        return self._environment

    def close(self) -> None:
        """Give the environment back, after a running commit. Idempotent."""
        with self._commit_lock:
            environment, self._environment = self._environment, None
            if environment is not None:
                environment.close()


def _fill(file: Path, environment: lmdb.Environment) -> None:
    """Make a file that was cut short as long as it says that it is: what is missing then reads as
    damage. Beyond its end LMDB's memory map would end the process, and not say why."""
    used = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < used:
        os.truncate(file, used)


def is_there(folder: Path) -> bool:
    """Whether `folder` holds a database, of whomever."""
    return (folder / _FILE).exists()


def translate(error: Exception, what: str) -> FirecellError:
    """Our error for one of LMDB's or the operating system's."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    full = number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    if full or isinstance(error, lmdb.MapFullError | lmdb.DiskError):
        return DiskFull(f"the disk is full: could not {what}. Free some space and try again")
    if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError):
        return Corruption(f"could not {what}: the files are damaged ({text}); restore the folder")
    if isinstance(error, lmdb.VersionMismatchError):
        return Precondition(f"could not {what}: another version of LMDB wrote it ({text})")
    return Unavailable(f"could not {what}: {text}; try again")
