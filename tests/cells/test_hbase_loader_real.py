"""Adopted runs on a real HBase: its own reader checks the files, boundaries that have moved, and
kill -9 of the helper and of the worker's process at each step: the replay is a no-op."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cells import hbase_runs
from cells.durable import make_durable
from cells.hbase_frames import FAMILY
from cells.hbase_loader import Helper
from cells.store_hbase import HBaseStore
from engine import limits
from engine.errors import DiskFull, Unavailable
from engine.hfiles import hfile_chunks
from engine.homing import HomeRange
from engine.keys import Keys, inbox_keys, post_key
from engine.ports import Facts
from tests.conftest import ROOT
from tests.hbase_backend import backend, empty_cell

pytestmark = [pytest.mark.real, pytest.mark.slow]
READERS = 12_000  # the rows of a test stay few enough to be deleted, not thrown away with a table
QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # of a JVM that lives for a second
STEPS = ("written", "rows", "adopted", "inbox")


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(limits, "HBASE_RUN_KEYS_MIN", 1_000)
    with empty_cell() as url:
        yield url


@contextmanager
def opened(url: str, helper: list[str] | None = None) -> Iterator[HBaseStore]:
    command = helper if helper is not None else backend().helper
    store = HBaseStore.open(
        url, identity="f", partitions=1, cell="c", home=HomeRange(), helper=command
    )
    store.bulk = True
    try:
        yield store
    finally:
        store.close()


def make_anew(store: HBaseStore) -> None:
    """The inbox table without a file: rows that were only deleted leave theirs behind."""
    assert store._helper is not None
    store._helper.command("drop", store._client.table("inbox").decode())
    store._helper.create(store._client.address.cell, ["inbox"])


def sweep(store: HBaseStore) -> int:
    """Remove all that is staged, whosever it is; how many loads that were."""
    assert store._helper is not None
    return int(store._helper.command("sweep", "0"))


def keys_of(posts: list[int]) -> Keys:
    """For every third reader counted from 1, and for others spread over all regions."""
    readers = np.arange(READERS, dtype=np.uint64)
    readers[::3] *= np.uint64(2**64 // READERS)
    readers = np.sort(readers).repeat(len(posts))
    ids = np.tile(np.array(sorted(posts, reverse=True), dtype=np.uint64), READERS)
    return inbox_keys(readers, ids, np.full(len(readers), 9, dtype=np.uint64))


def stored(store: HBaseStore) -> bytes:
    return b"".join(key for key, _ in store._walk("inbox", b"", None))


def tool(main: str, *words: str) -> str:
    """What one of Hadoop's or HBase's own programs says."""
    if not backend().printer:
        pytest.skip("needs HBase: no command for its own programs was named")
    java, *options, _ = backend().printer
    command = [java, *QUICK, *options, main, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2_000:]
    return said


def staged() -> list[str]:
    said = tool("org.apache.hadoop.fs.FsShell", "-ls", "-R", "/hbase/firecell-staging")
    return re.findall(r"/hbase/firecell-staging/\S+", said)


# --- the files ------------------------------------------------------------------------------------


def test_hbases_own_reader_finds_every_key_in_order(tmp_path: Path) -> None:
    keys = keys_of([5, 6])[: limits.HFILE_BLOCK_ENTRIES * 3 + 100]
    path = tmp_path / "run"
    path.write_bytes(b"".join(bytes(chunk) for chunk in hfile_chunks(keys, FAMILY, 12_345)))
    program = "org.apache.hadoop.hbase.io.hfile.HFilePrettyPrinter"
    said = tool(program, "-p", "-m", "-k", "-a", "-f", f"file://{path}")
    assert f"Scanned kv count -> {len(keys)}" in said and "WARNING" not in said
    assert f"entryCount={len(keys)}" in said and "Bloom filter:\n    Not present" in said
    assert "DATA_BLOCK_ENCODING = FAST_DIFF" in said and "compressionCodec=NONE" in said
    found = re.findall(r"K: (.+?)/f:/12345/Put/vlen=0/seqid=0 V: ", said)
    assert b"".join(map(plain, found)) == keys.tobytes()


def plain(shown: str) -> bytes:
    """The bytes of a key as HBase's programs show them."""
    return re.sub(rb"\\x([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), shown.encode())


# --- boundaries -----------------------------------------------------------------------------------


def test_a_file_over_many_regions_is_split_by_hbase(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when all of them were made between lay-out and load."""
    monkeypatch.setattr(hbase_runs, "cut", lambda keys, starts: [keys])
    keys = keys_of([7])
    with opened(url) as store:
        store.write_inbox(keys)
        assert store.stats()["runs_adopted"] == 1 and len(store._client.regions("inbox")) > 8
        assert stored(store) == keys.tobytes()


def test_a_region_that_splits_between_layout_and_load(url: str, tmp_path: Path) -> None:
    """A real split, begun by HBase's own client while the file's bytes are on their way."""
    keys = keys_of([8])
    boundary = "E500000000000000"
    with opened(url) as store:
        table = store._client.table("inbox").decode()
        store.write_inbox(keys)  # a region without files cannot be split
        before = len(store._client.regions("inbox"))
        layout = hbase_runs.hfile_chunks
        done = []

        def slow(part: Keys, family: bytes, time_ms: int) -> Iterator[memoryview | bytes]:
            if not done:
                done.append(split_region(tmp_path, table, boundary))
            yield from layout(part, family, time_ms)

        more = keys_of([8, 11])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hbase_runs, "hfile_chunks", slow)
            store.write_inbox(more)
        assert len(store._client.regions("inbox")) == before + 1
        assert stored(store) == more.tobytes()
        make_anew(store)


_SPLIT = """
import org.apache.hadoop.hbase.*;
import org.apache.hadoop.hbase.client.*;
import org.apache.hadoop.hbase.util.Bytes;
public final class Split {
    public static void main(String[] words) throws Exception {
        TableName table = TableName.valueOf(words[0]);
        var configuration = HBaseConfiguration.create();
        try (Connection connection = ConnectionFactory.createConnection(configuration);
             Admin admin = connection.getAdmin()) {
            int before = admin.getRegions(table).size();
            admin.split(table, Bytes.fromHex(words[1]));
            for (int look = 0; look < 300 && admin.getRegions(table).size() == before; look++) {
                Thread.sleep(100);
            }
        }
    }
}
"""


def split_region(folder: Path, table: str, boundary: str) -> str:
    program = folder / "Split.java"
    program.write_text(_SPLIT)
    return tool(str(program), table, boundary)


# --- faults ---------------------------------------------------------------------------------------


def batch() -> Facts:
    """Two posts for all readers."""
    facts = Facts(posts=[(post_key(post, 9), post, 100, b"x" * 300) for post in (21, 22)])
    facts.inbox = keys_of([21, 22])
    facts.positions = {0: (23, 100)}
    return facts


def apply_and_die(url: str, step: str) -> None:
    """What the child does: one batch, and kill -9 at a step of it."""

    def at(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    layout, adopt = hbase_runs.hfile_chunks, Helper.adopt

    def chunks(part: Keys, family: bytes, time_ms: int) -> Iterator[memoryview | bytes]:
        yield from layout(part, family, time_ms)
        if part[-1].tobytes() == batch().inbox[-1].tobytes():
            at("written")

    def loaded(*parts: object) -> None:
        adopt(*parts)  # type: ignore[arg-type]
        at("adopted")

    limits.HBASE_RUN_KEYS_MIN = 1_000
    hbase_runs.hfile_chunks = chunks  # type: ignore[assignment]
    Helper.adopt = loaded  # type: ignore[assignment,method-assign]
    with opened(url, sys.argv[3:]) as store:
        make_durable(store, batch(), at, {"rows": 0, "inbox": 0, "done": 0})


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_each_step_is_healed_by_the_replay_kill(url: str, step: str) -> None:
    program = "tests.cells.test_hbase_loader_real"
    child = subprocess.run(
        [sys.executable, "-P", "-m", program, url, step, *backend().helper],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    facts = batch()
    with opened(url) as store:
        assert store.positions()[0] == [0]
        adopted = step in ("adopted", "inbox")
        wait_until(lambda: stored(store) == (facts.inbox.tobytes() if adopted else b""))
        assert None not in store.post_rows([fact[0] for fact in facts.posts])  # I3
        for _ in range(2):
            make_durable(store, facts, lambda at: None, {"rows": 0, "inbox": 0, "done": 0})
            assert stored(store) == facts.inbox.tobytes()
            assert store.positions()[0] == [23]


def test_a_helper_killed_within_a_load_leaves_nothing_half_and_is_replaced_kill(
    url: str,
) -> None:
    keys = keys_of([31, 32])
    with opened(url) as store:
        helper = store._helper
        assert helper is not None
        sweep(store)  # of tests before this one
        process = helper._process
        assert process is not None
        layout = hbase_runs.hfile_chunks

        def chunks(part: Keys, family: bytes, time_ms: int) -> Iterator[memoryview | bytes]:
            for number, chunk in enumerate(layout(part, family, time_ms)):
                yield chunk
                if number == 0 and part[-1].tobytes() == keys[-1].tobytes():
                    time.sleep(0.5)  # the files before are written by now
                    process.kill()
                    process.wait()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hbase_runs, "hfile_chunks", chunks)
            with pytest.raises(Unavailable):
                store.write_inbox(keys)
        assert stored(store) == b"" and len(staged()) > 1
        store.write_inbox(keys)
        assert stored(store) == keys.tobytes()
        assert len(staged()) > 1  # younger than an hour: might be another helper's
        assert sweep(store) == 1
        assert staged() == []


def test_a_helper_killed_while_hbase_adopts_is_healed_by_the_replay_kill(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HBase may have adopted all of it, some, or nothing."""
    keys = keys_of([41])
    adopt, waits_s = Helper.adopt, [0.05, 0.2, 0.4]

    def killed(helper: Helper, table: str, folder: str) -> None:
        process = helper._process
        assert process is not None
        killer = threading.Timer(waits_s.pop(), process.kill) if waits_s else None
        if killer is not None:
            killer.start()
        try:
            adopt(helper, table, folder)
        finally:
            if killer is not None:
                killer.join()

    monkeypatch.setattr(Helper, "adopt", killed)
    with opened(url) as store:
        while waits_s:
            try:
                store.write_inbox(keys)
            except Unavailable:
                assert set(rows_of(stored(store))) <= set(rows_of(keys.tobytes()))
        store.write_inbox(keys)
        assert stored(store) == keys.tobytes()
        sweep(store)


def rows_of(joined: bytes) -> list[bytes]:
    return [joined[at : at + 24] for at in range(0, len(joined), 24)]


def test_no_room_on_hdfs_is_named_and_passes_diskfull(url: str) -> None:
    keys = keys_of([51])
    admin = "org.apache.hadoop.hdfs.tools.DFSAdmin"
    with opened(url) as store:
        sweep(store)
        store.write_inbox(keys)
        tool(admin, "-setSpaceQuota", "1m", "/hbase/firecell-staging")
        try:
            with pytest.raises(DiskFull, match="no room to stage"):
                store.write_inbox(keys)
        finally:
            tool(admin, "-clrSpaceQuota", "/hbase/firecell-staging")
        store.write_inbox(keys)
        assert stored(store) == keys.tobytes()
    assert staged() == []


def test_too_many_files_hold_adoption_back(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = keys_of([61])
    monkeypatch.setattr(limits, "HBASE_FILES_MAX", 1)
    monkeypatch.setattr(limits, "HBASE_FILES_WAIT_S", 0.5)
    with opened(url) as store:
        make_anew(store)
        for _ in range(2):
            store.write_inbox(keys)
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"region of \S+ has 2 files"):
            store.write_inbox(keys)
        assert time.monotonic() - started >= 0.5
        monkeypatch.setattr(limits, "HBASE_FILES_MAX", 2)
        store.write_inbox(keys)
        assert stored(store) == keys.tobytes() and store.stats()["files_level0"] == 2


def wait_until(question: Callable[[], bool]) -> None:
    """HBase may still be at what a killed client asked for."""
    deadline = time.monotonic() + 60
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.2)


if __name__ == "__main__":
    apply_and_die(sys.argv[1], sys.argv[2])
