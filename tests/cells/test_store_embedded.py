"""The embedded store as files and processes see it: whose it is, who owns it, what is damaged."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cells.rocks import translate
from cells.store_embedded import EmbeddedStore
from engine import limits
from engine.errors import (
    Conflict,
    Corruption,
    DiskFull,
    Misconfigured,
    NotFound,
    Precondition,
    Unavailable,
)
from engine.homing import HomeRange
from engine.keys import inbox_key, inbox_keys, post_key
from engine.limits import RUN_KEYS_MIN
from engine.ports import Facts

ROOT = Path(__file__).resolve().parents[2]
OPEN = """
import sys, time
from pathlib import Path
from cells.store_embedded import EmbeddedStore
from engine.homing import HomeRange
store = EmbeddedStore.open(
    Path(sys.argv[1]), identity="f", partitions=4, cell="c", home=HomeRange())
print("open", flush=True)
time.sleep(float(sys.argv[2]))
store.close()
"""


def open_store(folder: Path, **changed: object) -> EmbeddedStore:
    options: dict[str, object] = {
        "identity": "f",
        "partitions": 4,
        "cell": "c",
        "home": HomeRange(),
    }
    return EmbeddedStore.open(folder, **(options | changed))  # type: ignore[arg-type]


def many_keys(count: int) -> np.ndarray:
    numbers = np.arange(count, dtype=np.uint64)
    return inbox_keys(numbers, numbers * 0 + np.uint64(5), numbers * 0)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(tmp_path), "1.0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdout.readline() == "open\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"identity": "other"}, "identity"),
        ({"partitions": 8}, "partitions"),
        ({"cell": "c2"}, "cell"),
        ({"home": HomeRange(0, 2**63)}, "home_last"),
        ({"home": HomeRange(5)}, "home_first"),
    ],
)
def test_other_owner_is_refused_and_nothing_changes(
    tmp_path: Path, changed: dict[str, object], named: str
) -> None:
    open_store(tmp_path).close()
    with pytest.raises(Misconfigured, match=f"with {named} "):
        open_store(tmp_path, **changed)
    open_store(tmp_path).close()  # the lock is free, the record is as it was


def test_second_process_is_refused(
    tmp_path: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUCCESSOR_WAIT_S", 0.2)
    with pytest.raises(Precondition, match="another worker owns") as caught:
        open_store(tmp_path)
    assert caught.value.exit_code == 3


def test_successor_waits_for_its_predecessor(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    started = time.monotonic()
    open_store(tmp_path).close()
    assert time.monotonic() - started < limits.SUCCESSOR_WAIT_S
    assert owner.wait() == 0


def test_reading_needs_no_lock_and_writes_nothing(
    tmp_path: Path, owner: subprocess.Popen[str]
) -> None:
    reading = open_store(tmp_path, read_only=True)
    assert reading.positions()[0] == [0] * 4
    with pytest.raises(Precondition, match="reading only"):
        reading.write_positions({0: (1, 1)})
    reading.close()


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_store(tmp_path / "nowhere", read_only=True)


def filled(folder: Path) -> bytes:
    """A store with posts, keys in a run and some puts, closed; the inbox of reader 7."""
    store = open_store(folder)
    store.write_rows(Facts(posts=[(post_key(n, 1), n, n, b"x" * 50) for n in range(500)]))
    store.write_inbox(many_keys(RUN_KEYS_MIN))
    store.close()
    return inbox_key(7, 5, 0)


def test_lost_current_is_corruption_and_not_a_new_store(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "rocks" / "CURRENT").unlink()
    with pytest.raises(Corruption, match="Restore a snapshot"):
        open_store(tmp_path)


def test_first_opening_cut_short_begins_anew_powerloss(tmp_path: Path) -> None:
    (tmp_path / "rocks").mkdir()
    (tmp_path / "rocks" / "MANIFEST-000001").write_bytes(b"half a manifest")
    open_store(tmp_path).close()


@pytest.mark.parametrize("content", [b"", b"MANIFEST-999999\n", b"nonsense"])
def test_damaged_current_is_corruption(tmp_path: Path, content: bytes) -> None:
    filled(tmp_path)
    (tmp_path / "rocks" / "CURRENT").write_bytes(content)
    with pytest.raises(Corruption, match="Restore a snapshot"):
        open_store(tmp_path)


def test_lost_table_file_is_corruption(tmp_path: Path) -> None:
    filled(tmp_path)
    for path in (tmp_path / "rocks").glob("*.sst"):
        path.unlink()
    with pytest.raises(Corruption, match="Restore a snapshot"):
        open_store(tmp_path)


def test_damaged_block_is_corruption_and_not_a_short_page(tmp_path: Path) -> None:
    filled(tmp_path)
    (run,) = (p for p in (tmp_path / "rocks").glob("*.sst") if p.stat().st_size > 500_000)
    content = bytearray(run.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8_000] = bytes(8_000)
    run.write_bytes(content)
    store = open_store(tmp_path)
    assert store.inbox_older(7, b"", 20) == inbox_key(7, 5, 0)
    with pytest.raises(Corruption, match="damaged"):
        for reader in range(0, RUN_KEYS_MIN, 20):
            assert store.inbox_older(reader, b"", 20) == inbox_key(reader, 5, 0)
    with pytest.raises(Corruption, match="damaged"):
        for reader in range(0, RUN_KEYS_MIN, 20):
            assert store.inbox_newer(reader, b"", 20) == inbox_key(reader, 5, 0)
    store.close()


def test_damaged_toggles_are_corruption(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    count = 20_000
    store.write_rows(Facts(toggles=[(0, n, n, n * 7919, True, n) for n in range(count)]))
    assert sum(len(chunk) for chunk in store.toggle_rows(0)) == count
    store._tables["toggle"].flush()
    store._tables["toggle"].compact_range(None, None)
    files = {f["name"] for f in store._tables["toggle"].live_files() if f["num_entries"] == count}
    store.close()
    for path in (tmp_path / "rocks").glob("*.sst"):
        if f"/{path.name}" in files:
            content = bytearray(path.read_bytes())
            third = len(content) // 3
            content[third : third + 2_000] = b"\x55" * 2_000
            path.write_bytes(content)
    store = open_store(tmp_path)
    with pytest.raises(Corruption, match="damaged"):
        for partition in (0, 1):
            list(store.toggle_rows(partition))
        list(store._scan("following", b"", b""))
    store.close()


def test_checkpoint_opens_as_a_store(tmp_path: Path) -> None:
    store = open_store(tmp_path / "live")
    store.write_inbox(many_keys(RUN_KEYS_MIN))
    facts = Facts(posts=[(post_key(5, 1), 3, 3, b"x")], positions={1: (4, 3)})
    store.write_all(facts)
    store.checkpoint(str(tmp_path / "copy"))
    store.write_positions({1: (9, 9)})
    with pytest.raises(Conflict):
        store.checkpoint(str(tmp_path / "copy"))
    copy = open_store(tmp_path / "copy")
    assert copy.positions()[0] == [0, 4, 0, 0] and store.positions()[0] == [0, 9, 0, 0]
    assert copy.inbox_older(7, b"", 20) == inbox_key(7, 5, 0)
    assert copy.post_rows([post_key(5, 1)]) == store.post_rows([post_key(5, 1)])
    copy.close()
    store.close()


def test_closed_store_says_so(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.inbox_older(1, b"", 20)
    with pytest.raises(Unavailable, match="closed"):
        store.write_positions({0: (1, 1)})
    with pytest.raises(Unavailable, match="closed"):
        store.post_rows([post_key(1, 1)])


def test_partition_out_of_range_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Corruption, match="no partition 4"):
        store.write_positions({0: (5, 5), 4: (1, 1)})
    store.write_positions({1: (2, 2)})  # nothing of the refused call is left in the batch
    assert store.positions()[0] == [0, 2, 0, 0]
    store.close()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (Exception("IO error: No space left on device: While appending"), DiskFull),
        (OSError(28, "No space left on device"), DiskFull),
        (Exception("Corruption: block checksum mismatch"), Corruption),
        (Exception("IO error: No such file or directory: x.sst"), Corruption),
        (Exception("IO error: Input/output error"), Unavailable),
        (OSError(5, "Input/output error"), Unavailable),
        (Conflict("ours"), Conflict),
        (TypeError("a fault of ours"), TypeError),
    ],
)
def test_faults_become_ours(raised: Exception, expected: type[Exception]) -> None:
    assert type(translate(raised, "write")) is expected
