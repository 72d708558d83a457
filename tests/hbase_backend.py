"""One HBase for all tests of a run: started when the first test asks, given back at its end.

`FIRECELL_TEST_HBASE` (hbase://HOST:PORT?zookeeper=HOST:PORT), `FIRECELL_TEST_HELPER` and
`FIRECELL_TEST_PRINTER` (commands) name one that is there already; it only gets tables of a cell
with a name of its own. Making tables takes seconds, so tests share a cell's: `empty_cell` takes
every row out again.
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cells.hbase_client import Address, HBaseClient
from cells.hbase_loader import Helper
from cells.hbase_schema import TABLES
from cells.hbase_wire import ThriftConnection
from cells.store_embedded import EmbeddedStore
from cells.store_hbase import HBaseStore
from engine.ports import Store
from tests.conftest import ROOT

MAXIMA = ("position", "marker")  # own timestamps: a delete would hide what is written later
GIVEN = os.environ.get("FIRECELL_TEST_HBASE", "")  # conftest clears the environment of tests
HELPER = shlex.split(os.environ.get("FIRECELL_TEST_HELPER", ""))
PRINTER = shlex.split(os.environ.get("FIRECELL_TEST_PRINTER", ""))
CACHE = Path(os.environ.get("FIRECELL_STACK_CACHE") or ROOT / ".cache" / "stack")
STORES = ["embedded", pytest.param("hbase", marks=pytest.mark.real)]
ROWS_DELETED_MAX = 50_000  # more are thrown away with their table


@dataclass(frozen=True)
class Backend:
    """Where the tests' HBase is and how its Java helper is run."""

    base: str
    helper: list[str]
    printer: list[str]  # HBase's HFilePrettyPrinter, ready for its arguments

    @property
    def helper_file(self) -> str:
        """The file of arguments that the helper's command names."""
        return next(word for word in self.helper if word.startswith("@")).removeprefix("@")

    def url(self, cell: str) -> str:
        parts = urlsplit(self.base)
        return parts._replace(path="/" + cell).geturl()


@functools.cache
def _started() -> Backend | str:
    """The backend, or why there is none."""
    try:
        import happybase  # noqa: F401
    except ImportError:
        return "happybase is not installed: the [hbase] extra"
    if GIVEN:
        return Backend(GIVEN, HELPER, PRINTER)
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    from ops.stack_run import Stack

    folder = Path(tempfile.mkdtemp(prefix="firecell-hbase-"))
    stack = Stack(folder, ports="free", servers=("thrift",), cache=CACHE)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(stack.down, 0)  # nobody needs the data
    stack.up(tied=True)
    program = "org.apache.hadoop.hbase.io.hfile.HFilePrettyPrinter"
    printer = list(stack.hbase_command(program, heap_mb=256))
    return Backend(stack.urls["hbase"], ["java", f"@{stack.helper}"], printer)


def backend() -> Backend:
    """The HBase of this run; skips the test when there can be none."""
    found = _started()
    if isinstance(found, str):
        pytest.skip(f"needs HBase: {found}")
    return found


@functools.cache
def shared_cell() -> str:
    """The cell whose tables tests share."""
    return f"t{os.getpid()}-{int(time.time())}"


@contextmanager
def _helper() -> Iterator[Helper]:
    """The Java helper for a moment: no test may leave a process behind."""
    helper = Helper(backend().helper)
    try:
        yield helper
    finally:
        helper.close()


@contextmanager
def empty_cell() -> Iterator[str]:
    """The URL of a cell without a row, whose tables are there."""
    url = backend().url(shared_cell())
    client = HBaseClient(Address.parse(url))
    try:
        _empty(client, shared_cell())
        yield url
    finally:
        client.close()


@contextmanager
def parts_of(kind: str) -> Iterator[dict[str, str]]:
    """What a `tests.worlds.World` needs for cells with their store in `kind`, one of STORES: with
    HBase, one cell at a time."""
    if kind == "embedded":
        yield {}
        return
    with empty_cell() as url:
        yield {"store": url, "helper": backend().helper_file}


def remove(store: Store, table: str, keys: Sequence[bytes]) -> None:
    """Damage: rows of any store are gone."""
    if isinstance(store, HBaseStore):
        store._client.delete("damage a store", table, keys)
        return
    assert isinstance(store, EmbeddedStore)
    for key in keys:
        store._tables[table].delete(key)


@functools.cache
def _make_tables(cell: str) -> None:
    with _helper() as helper:
        helper.create(cell, TABLES)
    if GIVEN:
        atexit.register(drop_tables, cell)


def drop_tables(cell: str) -> None:
    with _helper() as helper:
        helper.commands([["drop", f"{cell}.{name}"] for name in TABLES])


def _empty(client: HBaseClient, cell: str) -> None:
    _make_tables(cell)
    thrown_away = []
    for name in TABLES:
        rows = [key for key, _ in client.scan(name, b"", None, ROWS_DELETED_MAX)]
        if rows and name in MAXIMA:
            client.ask("make a table anew", functools.partial(_make_anew, client.table(name)))
        elif len(rows) == ROWS_DELETED_MAX:
            thrown_away.append(name)
        elif rows:
            client.ask("empty a table", functools.partial(_delete, client.table(name), rows))
    if thrown_away:
        with _helper() as helper:
            helper.commands([["drop", f"{cell}.{name}"] for name in thrown_away])
            helper.create(cell, thrown_away)
    time.sleep(0.002)  # what a test writes must be newer than the deletes


def _delete(table: bytes, rows: list[bytes], wire: ThriftConnection) -> None:
    from Hbase_thrift import BatchMutation, Mutation

    gone = [BatchMutation(row, [Mutation(isDelete=True, column=b"f")]) for row in rows]
    wire.call("mutateRows", table, gone, {})


def _make_anew(table: bytes, wire: ThriftConnection) -> None:
    """Thrift can make tables without splits: a second instead of the helper's eight."""
    from Hbase_thrift import ColumnDescriptor

    wire.call("disableTable", table)
    wire.call("deleteTable", table)
    family = ColumnDescriptor(name=b"f:", maxVersions=1, bloomFilterType=b"ROW")
    wire.call("createTable", table, [family])
