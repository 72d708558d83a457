"""What is born in a cell, and so not in the firehose, lies in small databases of their own on LMDB,
synced before it is answered: markers and decisions. This is what both share.

One process has such a database open; any number of its threads may call.
"""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import ClassVar

import lmdb

from engine.errors import Corruption, DiskFull, FirecellError, Precondition, Unavailable


class SyncedDatabase:
    """An environment with its lock of commits; `what` it holds is named in errors."""

    what: ClassVar[str]

    def __init__(self, environment: lmdb.Environment) -> None:
        """Over an open environment."""
        self._environment: lmdb.Environment | None = environment
        self._commit_lock = threading.Lock()

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
