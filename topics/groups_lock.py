"""Which gateway coordinates the groups of a firehose: the one that holds its lock.

On an embedded firehose the lock is a file in its folder, which says who holds it; it dies with its
process, and the next one that is asked takes over. Any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine.errors import Unavailable
from topics.locks import FileLock

LOCK_FILE = "groups.lock"
_URL_BYTES_MAX = 2**10


class Leadership(Protocol):
    """Says who coordinates."""

    def leader(self) -> str | None:
        """The URL of the coordinating gateway; None: this one. Unavailable while it changes."""

    def release(self) -> None:
        """Let another one do it. Idempotent."""


class Alone:
    """The only gateway: tests, and firehoses without a lock."""

    def leader(self) -> str | None:
        """This one."""
        return None

    def release(self) -> None:
        """Nothing is held."""


class FileLeadership:
    """By a lock file in `folder`. `own_url()`: where this gateway listens."""

    def __init__(self, folder: Path, own_url: Callable[[], str]) -> None:
        self._path = folder / LOCK_FILE
        self._own_url = own_url
        self._held: FileLock | None = None
        self._mutex = threading.Lock()

    def leader(self) -> str | None:
        """See Leadership."""
        with self._mutex:
            if self._held is not None:
                return None
            lock = FileLock.attempt(self._path)
            if lock is not None:
                os.ftruncate(lock.descriptor, 0)
                os.pwrite(lock.descriptor, self._own_url().encode(), 0)
                self._held = lock
                return None
            url = self._path.read_bytes()[:_URL_BYTES_MAX].decode(errors="replace")
        if not url.startswith("http"):
            raise Unavailable("the gateway that coordinates groups is changing: try again")
        return url

    def release(self) -> None:
        """See Leadership."""
        with self._mutex:
            if self._held is not None:
                os.ftruncate(self._held.descriptor, 0)
                self._held.release()
                self._held = None
