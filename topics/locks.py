"""File locks that die with their process, and small files that are written whole or not at all.

A lock is an flock on an open file: the kernel frees it when its holder ends, however it ends, so
there is no stale lock. Two opens in one process exclude each other too. Safe from any thread.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from engine.errors import Precondition
from engine.limits import LOCK_POLL_S


class FileLock:
    """A held lock; `descriptor` is the open file, readable and writable."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def attempt(cls, path: Path) -> FileLock | None:
        """The lock on `path` (made when missing), or None when somebody holds it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return cls(path, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @classmethod
    def acquire(cls, path: Path, wait_s: float, refusal: str) -> FileLock:
        """The lock on `path`, waited for at most `wait_s`; then Precondition with `refusal`."""
        deadline = time.monotonic() + wait_s
        while True:
            lock = cls.attempt(path)
            if lock is not None:
                return lock
            if time.monotonic() >= deadline:
                raise Precondition(refusal)
            time.sleep(LOCK_POLL_S)

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def sync_folder(folder: Path) -> None:
    """Make names that were made, renamed or removed in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Make or replace `path`: after a power loss it is there whole, or as it was before."""
    unfinished = path.with_name(f".new-{path.name}")
    with open(unfinished, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    sync_folder(path.parent)
