"""The store on HBase: named errors at open, adopted runs as HBase reads them, and the worker
against the oracle with crashes between its steps, by puts and by runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.churn import Random, churn
from bench.oracle import Summary
from cells.cache import MemoryCache
from cells.graph import Graph
from cells.hbase_client import HBaseClient
from cells.markers import EmbeddedMarkers
from cells.reader import Reader
from cells.relations import RelationsCache
from cells.store_hbase import HBaseStore
from cells.worker import Worker
from engine import limits
from engine.errors import Misconfigured, Unavailable
from engine.hfiles import hfile_chunks
from engine.homing import HomeRange
from engine.keys import inbox_keys, post_key
from engine.ports import Facts, Gap
from tests.hbase_backend import backend, empty_cell
from tests.worlds import PARTITIONS, World, read_all, walk

pytestmark = pytest.mark.real
IDENTITY = "firehose-1"


@pytest.fixture
def url() -> Iterator[str]:
    with empty_cell() as url:
        yield url


def open_store(url: str, identity: str = IDENTITY, cell: str = "c1", **more: object) -> HBaseStore:
    return HBaseStore.open(
        url,
        identity=identity,
        partitions=PARTITIONS,
        cell=cell,
        home=more.get("home", HomeRange()),  # type: ignore[arg-type]
        helper=backend().helper,
    )


def some_keys(count: int, seed: int = 1) -> np.ndarray:
    """Ascending keys of readers that are counted from 1, as well as of hashed ones."""
    dice = np.random.default_rng(seed)
    readers = dice.integers(0, 300_000, count).astype(np.uint64)
    readers[::3] = dice.integers(0, 2**64, len(readers[::3]), dtype=np.uint64)
    keys = inbox_keys(readers, dice.integers(0, 2**63, count).astype(np.uint64), readers)
    return keys[np.lexsort(keys.T[::-1])]


# --- open ----------------------------------------------------------------------------------------


def test_the_cell_of_another_firehose_is_named(url: str) -> None:
    open_store(url).close()
    with pytest.raises(Misconfigured, match="identity firehose-1, not firehose-2"):
        open_store(url, identity="firehose-2")
    with pytest.raises(Misconfigured, match="cell c1, not c2"):
        open_store(url, cell="c2")
    with pytest.raises(Misconfigured, match="home_last"):
        open_store(url, home=HomeRange(0, 5))


def test_missing_tables_are_named() -> None:
    with pytest.raises(Misconfigured, match=r"no tables nowhere\.meta.*firecell up"):
        open_store(backend().url("nowhere"))


def test_no_server_and_a_wrong_transport_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HBASE_READ_MS", 500)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 "):
        open_store("hbase://127.0.0.1:1/c1")
    with pytest.raises(Unavailable, match="framed transport"):
        open_store(backend().url("c1") + "&transport=framed")


# --- writes --------------------------------------------------------------------------------------


def test_positions_never_go_back(url: str) -> None:
    store = open_store(url)
    store.write_positions({0: (50, 5_000), 3: (7, 700)})
    store.write_positions({0: (40, 4_000), 1: (1, 1)})
    assert store.positions() == ([50, 1, 0, 7], [5_000, 1, 0, 700])
    store.close()
    store = open_store(url)
    store.write_positions({0: (49, 4_900)})
    assert store.positions() == ([50, 1, 0, 7], [5_000, 1, 0, 700])
    store.close()


def test_a_deleted_posts_frames_are_wiped_from_its_row(url: str) -> None:
    store = open_store(url)
    key = post_key(5, 7)
    store.write_rows(Facts([(key, 1, 10, b"secret")], [(key, 2, 20, b"secret")], [(key, 3)]))
    for _, columns in store._client.scan("post", b"", None, 10):
        assert b"secret" not in b"".join(columns.values())
    store.close()


def test_dead_connections_are_replaced(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an idle minute, or after a restart of the Thrift server."""
    store = open_store(url)
    keys = some_keys(500)
    store.write_inbox(keys)
    client: HBaseClient = store._client
    client._connection().close()
    for writer in client._sockets:
        if writer is not None:
            writer._socket.shutdown(2)
    store.write_inbox(keys)
    assert store.positions()[0] == [0] * PARTITIONS
    monkeypatch.setattr(limits, "HBASE_IDLE_S", 0)
    store.write_inbox(keys)
    assert store.positions()[0] == [0] * PARTITIONS
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.positions()


def test_adopted_runs_are_what_puts_would_be(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HBASE_RUN_KEYS_MIN", 1_000)
    store = open_store(url)
    keys = some_keys(30_000)
    store.bulk = True
    store.write_inbox(keys)
    assert store.stats()["runs_adopted"] > 8  # one per region
    store.bulk = False
    store.write_inbox(keys[::50])
    found = [key for key, _ in store._walk("inbox", b"", None)]
    assert b"".join(found) == keys.tobytes()
    store.close()


def test_hbases_own_reader_checks_a_run(tmp_path: Path) -> None:
    program = backend().printer
    if not program:
        pytest.skip("no command for HBase's HFilePrettyPrinter was named")
    path = tmp_path / "run"
    keys = some_keys(limits.HFILE_BLOCK_ENTRIES * 20 + 100)
    path.write_bytes(b"".join(bytes(chunk) for chunk in hfile_chunks(keys, b"f", 12_345)))
    command = [*program, "-m", "-k", "-v", "-s", "-f", f"file://{path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2_000:]
    assert f"Scanned kv count -> {len(keys)}" in said
    assert f"entryCount={len(keys)}" in said and "WARNING" not in done.stdout


# --- the worker against the oracle ---------------------------------------------------------------


class Crash(Exception):
    """Stands for the end of the process."""


class Still:
    """A cell's progress that a page asks for."""

    def settled_ms(self) -> int:
        return 0

    def gaps(self) -> list[Gap]:
        return []


class HBaseCell:
    """Worker and reader on HBase, put together as a cell is."""

    def __init__(self, url: str, world: World, markers: EmbeddedMarkers) -> None:
        self.store = open_store(url, world.log.identity)
        graph = Graph(PARTITIONS)
        for partition, offset in enumerate(self.store.positions()[0]):
            graph.load_partition(partition, self.store.toggle_rows(partition), offset)
        cache, relations = MemoryCache(), RelationsCache(self.store)
        self.worker = Worker(
            self.store, graph, HomeRange(), cache=cache, forget_relations=relations.forget
        )
        parts = (self.store, graph, cache, relations, markers, Still(), world.clock)
        self.reader = Reader("c1", HomeRange(), *parts)


@pytest.mark.parametrize("bulk", [False, True])
def test_the_worker_shows_what_the_oracle_says_after_crashes_restart(
    url: str, bulk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HBASE_RUN_KEYS_MIN", 100)
    random = Random(7)
    world = World(tmp_path)
    markers = EmbeddedMarkers.open(tmp_path / "markers")
    world.append(churn(7, count=900, users=40))
    cell = HBaseCell(url, world, markers)
    crashes = 0
    while records := read_all(world.log, cell.worker.next_offsets, 20 + random.below(80)):
        cell.store.bulk = bulk
        if random.below(2) == 0:
            cell.worker.crash = crash_at(("planned", "rows", "inbox")[crashes % 3])
        try:
            while records:
                records = records[cell.worker.apply(records) :]
        except Crash:
            crashes += 1
            cell.store.close()
            cell = HBaseCell(url, world, markers)
    assert crashes > 0 and (cell.store.stats()["runs_adopted"] > 0) >= (bulk and crashes == 0)
    oracle, summary = world.oracle(), Summary()
    for user in world.users():
        summary.add(oracle.compare(user, walk(cell, user, 5)))  # type: ignore[arg-type]
    cell.store.close()
    markers.close()
    world.close()
    assert summary.ok, summary
    assert summary.readers > 20 and summary.posts > 50


def crash_at(step: str):  # type: ignore[no-untyped-def]
    def crash(at: str) -> None:
        if at == step:
            raise Crash(step)

    return crash
