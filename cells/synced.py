"""What is born in a cell, and so not in the firehose, lies in small databases of their own on LMDB,
synced before it is answered: markers and decisions. This is what both share.

Beside what it is for, each holds whose it is, under a key as short as no other (cells/born.py says
what for). One process has such a database open; any number of its threads may call.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Self

import lmdb

from engine.errors import Corruption, DiskFull, FirecellError, Precondition, Unavailable

_OWNER = b"owner"  # a marker's key has 8 bytes, a decision's 16
_FILE = "data.mdb"  # LMDB's own name for it
_WALK = """
import importlib, sys
from pathlib import Path
from engine.errors import Corruption
kind = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
try:
    kind.walk(Path(sys.argv[3]))
except Corruption as error:
    sys.exit(error.exit_code)
"""
# How a walk over damage ends. Whatever else ends it (the OOM killer, a person) says nothing of it.
_DAMAGE = (Corruption.exit_code, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGSEGV)


class SyncedDatabase(ABC):
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
        environment = None
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
            cls._fill(folder, environment)
        except BaseException as error:
            if environment is not None:
                environment.close()
            if isinstance(error, lmdb.Error | OSError):
                raise translate(error, f"open the {cls.what} in {folder}") from error
            raise
        return cls(environment)

    @classmethod
    def _fill(cls, folder: Path, environment: lmdb.Environment) -> None:
        """Make a file that is shorter than it says as long as that: beyond its end LMDB's memory
        map would end the process, and not say why. What is missing would then read as empty pages,
        so nothing that is in use may be missing: Corruption, and the file stays as it is."""
        file = folder / _FILE
        page = environment.stat()["psize"]
        used = (environment.info()["last_pgno"] + 1) * page
        size = file.stat().st_size
        if size >= used:
            return
        if size % page or not cls.whole(folder):
            raise Corruption(
                f"{file} was cut short: it has {size:,} of {used:,} bytes, and some of the"
                f" {cls.what} are lost; restore the folder"
            )
        os.truncate(file, used)

    @classmethod
    def whole(cls, folder: Path) -> bool:
        """Whether all that is in `folder` can be read, before any is written: a damaged page would
        otherwise be found by its reader. In a process of its own, as LMDB aborts the one in which
        it meets some kinds of damage. Unavailable when nobody can tell."""
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-P", "-c", _WALK, cls.__module__, cls.__name__, str(folder)]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode in (0, *_DAMAGE):
            return done.returncode == 0
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        why = " ".join(words) or f"the process that read them ended with {done.returncode}"
        raise Unavailable(f"could not read the {cls.what} in {folder}: {why}; try again")

    @classmethod
    def walk(cls, folder: Path) -> None:
        """Read all of it, and change nothing; for a process of its own (`whole`). Corruption when
        there are not as many entries as it says, out of order, or one is none of ours."""
        file = folder / _FILE
        if not file.exists() or not file.stat().st_size:
            return  # nothing was begun
        try:
            with (
                closing(lmdb.open(str(folder), readonly=True, lock=False)) as environment,
                environment.begin(buffers=False) as transaction,
            ):
                count, before = 0, b""
                for key, value in transaction.cursor():
                    if key <= before:
                        raise Corruption(f"the keys in {file} are not in order")
                    if key != _OWNER:
                        cls.check(key, value)
                    count, before = count + 1, key
                if count != environment.stat()["entries"]:
                    raise Corruption(f"{file} has not as many entries as it says")
        except lmdb.Error as error:
            raise translate(error, f"read the {cls.what} in {folder}") from error

    @classmethod
    @abstractmethod
    def check(cls, key: bytes, value: bytes) -> None:
        """Corruption when this is no entry of what it holds."""

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
