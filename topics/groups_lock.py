"""Which gateway coordinates the groups of a firehose: the one that holds its lock.

On an embedded firehose the lock is a file in its folder, which says who holds it; it dies with its
process, and the next one that is asked takes over. A process that is stopped keeps its lock, so
nothing needs to be looked at while it is held. On Kafka: topics/kafka_leadership.py. Any thread.
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


class Tenure(Protocol):
    """One time of coordinating: it begins once, and once it is over, it is over for ever."""

    def holds(self) -> bool:
        """Whether it is not over. Cheap: asked before whatever goes out."""

    def fence(self) -> None:
        """Right before a place is written: Unavailable when it may be over before that is done."""


class Leadership(Protocol):
    """Says who coordinates."""

    def leader(self) -> str | None:
        """The URL of the coordinating gateway; None: this one. Unavailable while it changes."""

    def tenure(self) -> Tenure:
        """This gateway's; Unavailable when it has none."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed`, in any thread, when another one leads than before."""

    def release(self) -> None:
        """Let another one do it. Idempotent."""


class Unlimited:
    """The tenure of who cannot lose it while it runs."""

    def holds(self) -> bool:
        """Always."""
        return True

    def fence(self) -> None:
        """Nothing is in the way."""


class Alone:
    """The only gateway: tests, and firehoses without a lock."""

    def leader(self) -> str | None:
        """This one."""
        return None

    def tenure(self) -> Tenure:
        """Without an end."""
        return Unlimited()

    def watch(self, changed: Callable[[], None]) -> None:
        """It never changes."""

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

    def tenure(self) -> Tenure:
        """See Leadership; who asks has asked `leader`."""
        return Unlimited()

    def watch(self, changed: Callable[[], None]) -> None:
        """See Leadership. A holder that ends takes its connections with it, so nobody needs it."""

    def release(self) -> None:
        """See Leadership."""
        with self._mutex:
            if self._held is not None:
                os.ftruncate(self._held.descriptor, 0)
                self._held.release()
                self._held = None
