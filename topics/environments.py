"""LMDB environments, shared by everything in this process that uses them.

One process must not open an environment twice: LMDB's locks are POSIX locks, which belong to the
process, and closing one of two opens drops them for both. So opens are counted per path here, and
an environment closes with its last user.

A *use* is short: one transaction. An environment that LMDB declared dead is closed when its uses
have ended and opened by the next use, so it comes back without a restart. Safe from any thread;
nothing survives a fork.

Errors of LMDB become ours in one place, `failure_of`. LMDB reports a write that the disk had no
room for as EIO when a part of it fitted, so free space is looked at as well.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from engine.errors import Corruption, DiskFull, FirecellError, Precondition, Unavailable
from engine.limits import DISK_FREE_BYTES_MIN, LMDB_READERS_MAX
from topics.locks import sync_folder

UNFINISHED_PREFIX = ".new-"
_LOCK_FILE = "lock.mdb"
_SLOT_BYTES = 64  # of one reader in the lock file
_LOCK_HEAD_BYTES = 2**12  # room for what stands before the slots; LMDB makes more slots of the rest
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.NotFoundError,
    lmdb.IncompatibleError,
)
_FULL = (errno.ENOSPC, errno.EDQUOT)

_registry: dict[str, SharedEnvironment] = {}
_registry_lock = threading.Lock()


class Opened(NamedTuple):
    """An open environment and the handles of its sub-databases, in the order asked for."""

    environment: lmdb.Environment
    databases: list[Any]

    def begin(self, write: bool = False) -> lmdb.Transaction[bytes]:
        """A transaction; slots of killed readers are freed when there is no other."""
        try:
            return self.environment.begin(write=write)
        except lmdb.ReadersFullError:
            self.environment.reader_check()
            return self.environment.begin(write=write)


class SharedEnvironment:
    """One environment of this process. Made by `open_shared`, given back by `release`."""

    def __init__(self, path: Path, map_bytes: int, names: Sequence[bytes]) -> None:
        self.path = path
        self.users = 0
        self._map_bytes = map_bytes
        self._names = list(names)
        self._gate = threading.Condition()
        self._uses = 0
        self._closed = False
        self._opened: Opened | None = self._open()

    @contextmanager
    def use(self) -> Iterator[Opened]:
        """The open environment, for one transaction. LMDB's errors leave as ours."""
        with self._gate:
            if self._closed:
                raise Precondition(f"{self.path} is closed")
            if self._opened is None:
                self._opened = self._open()
            opened = self._opened
            self._uses += 1
        dead = False
        try:
            yield opened
        except (lmdb.Error, OSError) as error:
            dead = isinstance(error, lmdb.PanicError)
            raise failure_of(error, self.path) from error
        finally:
            self._end_use(dead)

    def _end_use(self, dead: bool) -> None:
        """LMDB declares an environment dead after a failed meta write; only a new open helps."""
        with self._gate:
            self._uses -= 1
            self._gate.notify_all()
            if dead:
                self._shut()

    def _shut(self) -> None:
        """Close after the uses have ended. The gate is held."""
        self._gate.wait_for(lambda: self._uses == 0)
        if self._opened is not None:
            self._opened.environment.close()
            self._opened = None

    def reopen(self) -> None:
        """Close after the uses have ended; the next use opens again."""
        with self._gate:
            self._shut()

    def close(self) -> None:
        """Wait for the uses to end and close for good. Idempotent."""
        with self._gate:
            self._closed = True
            self._shut()

    def _open(self) -> Opened:
        try:
            environment = _open_lmdb(self.path, self._map_bytes, len(self._names), create=False)
            try:
                return Opened(environment, _handles(environment, self._names, create=False))
            except BaseException:
                environment.close()
                raise
        except (lmdb.Error, OSError) as error:
            if not self.path.exists():
                raise FileNotFoundError(str(self.path)) from error
            raise failure_of(error, self.path) from error


def open_shared(path: Path, map_bytes: int, names: Sequence[bytes]) -> SharedEnvironment:
    """The environment in `path`, opened unless this process has it open. Give it to `release`.

    FileNotFoundError when there is no such folder.
    """
    key = os.path.realpath(path)
    with _registry_lock:
        shared = _registry.get(key)
        if shared is None:
            os.stat(path)
            shared = _registry[key] = SharedEnvironment(path, map_bytes, names)
        shared.users += 1
        return shared


def release(shared: SharedEnvironment) -> None:
    """Undo one `open_shared`; the last one closes the environment."""
    with _registry_lock:
        shared.users -= 1
        if shared.users == 0:
            for key in [key for key, other in _registry.items() if other is shared]:
                del _registry[key]
            shared.close()


def create_environment(
    path: Path,
    map_bytes: int,
    names: Sequence[bytes],
    fill: Callable[[lmdb.Transaction[bytes], list[Any]], None],
    files: dict[str, bytes],
) -> None:
    """Make an environment with its sub-databases, first content and beside-files, whole or not
    at all: built under another name, synced, renamed. The caller holds the folder's lock.

    DiskFull when there is no room.
    """
    unfinished = path.with_name(f"{UNFINISHED_PREFIX}{path.name}-{uuid.uuid4().hex}")
    try:
        unfinished.mkdir()
        try:
            _build(unfinished, map_bytes, names, fill, files)
            os.rename(unfinished, path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except (lmdb.Error, OSError) as error:
        raise failure_of(error, path) from error


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed `create_environment` left. The caller holds the folder's lock."""
    for entry in folder.iterdir():
        if entry.name.startswith(UNFINISHED_PREFIX) and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def failure_of(error: Exception, path: Path) -> FirecellError:
    """Our error for one of LMDB's or of the system's, at `path`."""
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    full = isinstance(error, lmdb.DiskError | lmdb.MapFullError) or code in _FULL
    if full or (_is_write_error(error, code) and _free_bytes(path) < DISK_FREE_BYTES_MIN):
        return DiskFull(
            f"no room left for {path} ({error}); nothing of this write was kept and everything"
            " acknowledged before is safe. Free disk space, then publish again",
            retry_after_s=5,
        )
    if isinstance(error, _DAMAGE):
        return Corruption(
            f"{path} is damaged ({error}). Stop, keep a copy of the folder, restore a backup"
        )
    if isinstance(error, lmdb.ReadersFullError):
        return Unavailable(
            f"all {LMDB_READERS_MAX} reader slots of {path} are taken: fewer readers, or wait"
        )
    return Unavailable(f"{path} could not be used: {error}. Look at the disk, then try again")


def _is_write_error(error: Exception, code: int | None) -> bool:
    return code == errno.EIO or "Input/output error" in str(error)


def _free_bytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def _open_lmdb(path: Path, map_bytes: int, databases: int, create: bool) -> lmdb.Environment:
    if not (path / _LOCK_FILE).exists():
        _allocate_lock_file(path / _LOCK_FILE)
    environment = lmdb.open(
        str(path),
        map_size=map_bytes,
        max_dbs=databases,
        max_readers=LMDB_READERS_MAX,
        max_spare_txns=1,
        create=create,
    )
    environment.reader_check()
    return environment


def _allocate_lock_file(path: Path) -> None:
    """LMDB maps its lock file; a page fault in a hole of it would kill the process when the disk is
    full. So its blocks are there before LMDB sees it (which fills it: it is the first to open)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, LMDB_READERS_MAX * _SLOT_BYTES + _LOCK_HEAD_BYTES)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)


def _handles(environment: lmdb.Environment, names: Sequence[bytes], create: bool) -> list[Any]:
    """A write transaction even without `create`: handles opened in a read-only one end with it.
    Committed empty, it writes and syncs nothing."""
    with environment.begin(write=True) as transaction:
        return [environment.open_db(name, txn=transaction, create=create) for name in names]


def _build(
    folder: Path,
    map_bytes: int,
    names: Sequence[bytes],
    fill: Callable[[lmdb.Transaction[bytes], list[Any]], None],
    files: dict[str, bytes],
) -> None:
    environment = _open_lmdb(folder, map_bytes, len(names), create=True)
    try:
        databases = _handles(environment, names, create=True)
        with environment.begin(write=True) as transaction:
            fill(transaction, databases)
    finally:
        environment.close()
    for name, content in files.items():
        with open(folder / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def _forget_all() -> None:
    """In the child of a fork: the environments are the parent's."""
    global _registry_lock
    _registry.clear()
    _registry_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_all)
