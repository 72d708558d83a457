"""Environments shared by a process: counted opens, uses, a dead one that comes back, errors."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine.errors import Corruption, DiskFull, Precondition, Unavailable
from engine.limits import LMDB_READERS_MAX
from tests.topics.firehoses import output_of, run_python
from topics import environments
from topics.locks import FileLock

NAMES = [b"one", b"two"]
MAP_BYTES = 2**20


def make(path: Path) -> Path:
    def fill(transaction: Any, databases: list[Any]) -> None:
        transaction.put(b"key", b"value", db=databases[1])

    environments.create_environment(path, MAP_BYTES, NAMES, fill, {"beside": b"file"})
    return path


def get(shared: environments.SharedEnvironment) -> bytes | None:
    with shared.use() as opened, opened.begin() as transaction:
        value: bytes | None = transaction.get(b"key", db=opened.databases[1])
        return value


def test_one_open_per_process_closed_with_its_last_user(tmp_path: Path) -> None:
    path = make(tmp_path / "e")
    assert (path / "beside").read_bytes() == b"file"
    first = environments.open_shared(path, MAP_BYTES, NAMES)
    second = environments.open_shared(tmp_path / "." / "e", MAP_BYTES, NAMES)
    assert first is second
    environments.release(first)
    assert get(second) == b"value"
    environments.release(second)
    with pytest.raises(Precondition, match="closed"):
        get(first)
    again = environments.open_shared(path, MAP_BYTES, NAMES)
    assert again is not first and get(again) == b"value"
    environments.release(again)


def test_the_lock_file_has_no_holes(tmp_path: Path) -> None:
    lock = os.stat(make(tmp_path / "e") / "lock.mdb")
    assert lock.st_blocks * 512 >= lock.st_size >= LMDB_READERS_MAX * 64


def test_a_dead_environment_comes_back_without_a_restart(tmp_path: Path) -> None:
    shared = environments.open_shared(make(tmp_path / "e"), MAP_BYTES, NAMES)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with shared.use():
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    threading.Timer(0.05, leave.set).start()
    with pytest.raises(Unavailable), shared.use() as opened:
        dead = opened.environment
        raise lmdb.PanicError("mdb_txn_begin")
    assert leave.is_set(), "closed under a thread that used it"
    holder.join()
    with pytest.raises(lmdb.Error):
        dead.stat()
    assert get(shared) == b"value"
    environments.release(shared)


def test_errors_become_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failure(error: Exception) -> type[Exception]:
        return type(environments.failure_of(error, tmp_path / "missing" / "e"))

    for full in (lmdb.DiskError("x"), lmdb.MapFullError("x"), OSError(errno.ENOSPC, "x")):
        assert failure(full) is DiskFull
    assert failure(OSError(errno.EDQUOT, "x")) is DiskFull
    assert failure(lmdb.CorruptedError("x")) is Corruption
    assert failure(lmdb.ReadersFullError("x")) is Unavailable
    partial_write = lmdb.Error("mdb_txn_commit: Input/output error")
    monkeypatch.setattr(environments, "DISK_FREE_BYTES_MIN", 0)
    assert failure(partial_write) is Unavailable
    monkeypatch.setattr(environments, "DISK_FREE_BYTES_MIN", 2**62)
    assert failure(partial_write) is DiskFull


def test_slots_of_killed_readers_are_free_again_restart(tmp_path: Path) -> None:
    path = make(tmp_path / "e")
    reader = run_python(
        """if True:
        import sys
        from pathlib import Path
        from topics import environments
        shared = environments.open_shared(Path(sys.argv[1]), 2**20, [b"one", b"two"])
        with shared.use() as opened, opened.begin() as transaction:
            print("reading", flush=True)
            sys.stdin.read()
        """,
        path,
    )
    assert reader.stdout is not None and reader.stdout.readline() == "reading\n"
    shared = environments.open_shared(path, MAP_BYTES, NAMES)
    with shared.use() as opened:
        assert opened.environment.reader_check() == 0
        reader.kill()
        reader.communicate()
        assert opened.environment.reader_check() == 1
    environments.release(shared)


def test_a_lock_dies_with_its_process_restart(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = run_python(
        """if True:
        import sys
        from pathlib import Path
        from topics.locks import FileLock
        with FileLock.acquire(Path(sys.argv[1]), 0, ""):
            print("held", flush=True)
            sys.stdin.readline()
        print("released", flush=True)
        sys.stdin.readline()
        """,
        path,
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert FileLock.attempt(path) is None
    with pytest.raises(Precondition, match="busy"):
        FileLock.acquire(path, 0.05, "busy")
    holder.kill()
    holder.communicate()
    lock = FileLock.acquire(path, 5, "busy")
    assert FileLock.attempt(path) is None
    path.unlink()
    other = FileLock.attempt(path)
    assert other is not None
    for held in (lock, lock, other):
        held.release()


def test_a_fork_opens_for_itself(tmp_path: Path) -> None:
    output = output_of(
        run_python(
            """if True:
            import os, sys
            from pathlib import Path
            from topics.log_embedded import EmbeddedLog
            child = os.fork()
            log = EmbeddedLog.open(sys.argv[1], partitions=2)
            for number in range(50):
                log.append([(0, b"x")])
            log.close()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                log = EmbeddedLog.open(sys.argv[1])
                print(log.end_offsets())
            """,
            tmp_path / "firehose",
        )
    )
    assert output == "[100, 0]\n"
