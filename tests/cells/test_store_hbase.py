"""The store on HBase: named errors at open, adopted runs as HBase reads them, and the worker
against the oracle with crashes between its steps, by puts and by runs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.churn import START_MS, Random, Timed, churn
from bench.oracle import Summary
from cells.cache import MemoryCache
from cells.graph import Graph
from cells.hbase_client import HBaseClient
from cells.hbase_decisions import HBaseDecisions
from cells.hbase_loader import Helper
from cells.hbase_wire import ThriftConnection
from cells.intervals import AuthorIntervals
from cells.markers import EmbeddedMarkers
from cells.pull import PulledInbox
from cells.reader import Reader
from cells.relations import RelationsCache
from cells.store_hbase import HBaseStore
from cells.worker import Worker
from engine import limits
from engine.errors import Corruption, Misconfigured, Unavailable
from engine.events import FOLLOW, Post, Relation
from engine.hfiles import hfile_chunks
from engine.homing import HomeRange
from engine.ids import make_id
from engine.keys import inbox_keys, parse_inbox_keys, post_key
from engine.materialize import PushPolicy
from engine.ports import Facts, Gap, Record
from tests.hbase_backend import backend, empty_cell, shared_cell
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
        partitions=more.get("partitions", PARTITIONS),  # type: ignore[arg-type]
        cell=cell,
        home=more.get("home", HomeRange()),  # type: ignore[arg-type]
        create=bool(more.get("create")),
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
    with pytest.raises(Misconfigured, match="partitions 4, not 8"):
        open_store(url, partitions=8)
    with pytest.raises(Misconfigured, match="home_last"):
        open_store(url, home=HomeRange(0, 5))


def test_missing_tables_are_named() -> None:
    with pytest.raises(Misconfigured, match=r"no tables nowhere\.meta.*firecell up"):
        open_store(backend().url("nowhere"))


def test_lost_tables_of_a_cell_are_named_and_not_made_anew(url: str) -> None:
    """They were, empty: a cell whose decisions were lost pushed what it had left out."""
    open_store(url).close()
    helper = Helper(backend().helper)
    try:
        for name in ("decision", "marker"):
            helper.command("drop", f"{shared_cell()}.{name}")
        for create in (True, False):
            with pytest.raises(Corruption, match=r"lost the tables .*marker, .*decision"):
                open_store(url, create=create)
    finally:
        helper.create(shared_cell(), ["decision", "marker"])
        helper.close()
    open_store(url).close()


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
    for connection in client._opened:
        connection.close()
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
        pytest.skip("needs HBase: no command for its HFilePrettyPrinter")
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


STEPS = ("planned", "rows", "inbox", "done")


class Crash(Exception):
    """Stands for the end of the process."""


class Still:
    """A cell's progress that a page asks for."""

    def version(self) -> int:
        return 0

    def settled_ms(self) -> int:
        return 0

    def gaps(self) -> list[Gap]:
        return []


class HBaseCell:
    """Worker and reader on HBase, put together as a cell is."""

    def __init__(self, url: str, world: World, markers: EmbeddedMarkers) -> None:
        self.store = open_store(url, world.log.identity)
        graph = Graph(PARTITIONS)
        for partition, offset in enumerate(self.store.positions()[0]):  # and what a crash left
            graph.load_partition(partition, self.store.toggle_rows(partition), offset)
        cache, relations = MemoryCache(), RelationsCache(self.store)
        self.decisions = HBaseDecisions.open(url)
        intervals = AuthorIntervals(self.decisions, PushPolicy(4))
        self.worker = Worker(
            self.store, graph, HomeRange(), intervals, cache=cache,
            forget_relations=relations.forget,
        )  # fmt: skip
        inbox = PulledInbox(self.store, graph, intervals)
        parts = (self.store, inbox, graph, cache, relations, markers, Still(), world.clock)
        self.reader = Reader("c1", HomeRange(), *parts)

    def close(self) -> None:
        self.store.close()
        self.decisions.close()


@pytest.mark.parametrize("bulk", [False, True])
def test_the_worker_shows_what_the_oracle_says_after_crashes_restart(
    url: str, bulk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HBASE_RUN_KEYS_MIN", 100)
    random = Random(7)
    world = World(tmp_path)
    markers = EmbeddedMarkers.open(tmp_path / "markers")
    world.append(churn(7, count=900, users=40))
    users = world.users()
    cell = HBaseCell(url, world, markers)
    crashes = 0
    while records := read_all(world.log, cell.worker.next_offsets, 20 + random.below(80)):
        cell.store.bulk = bulk
        if random.below(2) == 0:
            cell.worker.crash = crash_at(STEPS[crashes % len(STEPS)])
        try:
            apply_all(cell, records)
        except Crash:
            crashes += 1
            check_no_dangling_key(cell, users)
            cell.close()
            cell = HBaseCell(url, world, markers)
    assert crashes >= len(STEPS), "not every step was crashed at"
    check_pages(cell, world, users)
    before = [shown(cell, user) for user in users]
    for _ in range(2):  # I2: any span again, in any overlap, changes no post of any page
        cell.close()
        cell = HBaseCell(url, world, markers)
        ends = cell.worker.next_offsets
        ends[:] = [random.below(end + 1) for end in ends]
        cell.worker._planned[:] = ends
        while records := read_all(world.log, cell.worker.next_offsets, 60 + random.below(300)):
            cell.store.bulk = bulk
            apply_all(cell, records)
        assert [shown(cell, user) for user in users] == before
    cell.close()
    markers.close()
    world.close()


def shown(cell: HBaseCell, user: int) -> list[object]:
    """All posts of a user's pages, as they are shown."""
    posts: list[object] = []
    cursor = ""
    while cursor is not None:
        page = json.loads(cell.reader.dashboard(user, limit=200, cursor=cursor or None))
        posts += page["posts"]
        cursor = page["next"]
    return posts


def apply_all(cell: HBaseCell, records: list[Record]) -> None:
    while records:
        records = records[cell.worker.apply(records) :]


def check_no_dangling_key(cell: HBaseCell, users: list[int]) -> None:
    """I3: every inbox key has a row."""
    raw = b"".join(cell.store.inbox_older(user, b"", 10_000) for user in users)
    _, posts, authors = parse_inbox_keys(raw)
    keys = [post_key(int(p), int(a)) for p, a in zip(posts, authors, strict=True)]
    assert None not in cell.store.post_rows(keys)


def check_pages(cell: HBaseCell, world: World, users: list[int]) -> None:
    oracle, summary = world.oracle(), Summary()
    for user in users:
        summary.add(oracle.compare(user, walk(cell, user, 5)))  # type: ignore[arg-type]
    assert summary.ok, summary
    assert summary.readers > 20 and summary.posts > 50


def test_an_import_of_follows_asks_for_many_authors_at_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a scan per author: an import of 300,000 follows took as many round trips."""
    world = World(tmp_path)
    markers = EmbeddedMarkers.open(tmp_path / "markers")
    cell = HBaseCell(url, world, markers)
    posts = [Timed(START_MS, Post(author, make_id(START_MS, 0, author))) for author in range(1, 41)]
    world.append(posts)
    apply_all(cell, read_all(world.log, cell.worker.next_offsets, 1_000))
    follows = [(reader, author) for reader in (5_001, 5_002) for author in range(1, 2_001)]
    world.append(Timed(START_MS + 9, Relation(FOLLOW, *pair)) for pair in follows)
    asked: list[str] = []
    ask = cell.store._client.ask

    def counted(what: str, call: Callable[[ThriftConnection], object]) -> object:
        asked.append(what)
        return ask(what, call)

    monkeypatch.setattr(cell.store._client, "ask", counted)
    apply_all(cell, read_all(world.log, cell.worker.next_offsets, 10_000))
    assert len(asked) < 20, asked
    assert cell.worker.counts.backfilled == 2 * len(posts)
    check = [walk(cell, reader) for reader in (5_001, 5_002)]  # type: ignore[arg-type]
    assert [len(pages[0]) for pages in check] == [len(posts)] * 2
    cell.close()
    markers.close()
    world.close()


def crash_at(step: str):  # type: ignore[no-untyped-def]
    def crash(at: str) -> None:
        if at == step:
            raise Crash(step)

    return crash
