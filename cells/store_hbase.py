"""A cell's durable state on HBase, by its Thrift 1 server: the port `Store` for more than one
machine. Workers and readers are processes of their own, as many as wanted.

| write | how |
| --- | --- |
| rows | one mutateRows call per table and slice; nothing is read first: order lies in qualifiers |
| inbox keys | mutateRows laid out by numpy, sorted, over HBASE_WRITERS sockets |
| inbox keys, `bulk` | HFiles laid out by numpy, cut at region boundaries, adopted by HBase |
| positions | one cell per partition whose timestamp is the offset: a maximum register |

Durability: the write-ahead log is always on and HBase answers when it has it; an adopted file is
durable as it is. A call that fails goes again as a whole, so every method may be called again (I2),
and `atomic` is False: the worker writes in the order of I1. Two workers that both think a partition
is theirs write the same. One thread writes; any number of threads read.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Self

from cells import rows
from cells.hbase_client import Address, HBaseClient, LaidOut
from cells.hbase_frames import Row, put_at, put_keys, put_rows
from cells.hbase_loader import Helper
from cells.hbase_reads import HBaseReads
from cells.hbase_rows import (
    calls_of,
    following_rows,
    gap_rows,
    outbox_rows,
    post_rows,
    quarantine_rows,
    relation_rows,
    toggle_rows,
)
from cells.hbase_runs import Runs
from cells.hbase_schema import BEGUN, TABLES, bodies, salted
from engine import limits
from engine.errors import Corruption, Misconfigured, Unavailable, invariant
from engine.homing import HomeRange
from engine.keys import Keys, partition_prefix
from engine.ports import Facts

_META_KEY = b"cell"


class HBaseStore(HBaseReads):
    """`engine.ports.Store` on HBase. Use `HBaseStore.open`."""

    atomic = False
    remote = True

    def __init__(self, client: HBaseClient, partitions: int, helper: Helper | None) -> None:
        """Over a client; `open` also checks tables and whose data they hold."""
        super().__init__(client, partitions)
        self.bulk = False
        """Adopt HFiles instead of putting keys, for batches of HBASE_RUN_KEYS_MIN keys or more:
        set while the cell lags (cells/progress.py), and for good by replay and rebuild."""
        self._helper = helper
        self._runs = Runs(client, helper) if helper is not None else None
        self._closed = False
        self._keys_put = 0
        self._bytes_written = 0

    @classmethod
    def open(
        cls,
        url: str,
        *,
        identity: str,
        partitions: int,
        cell: str,
        home: HomeRange,
        create: bool = False,
        helper: Sequence[str] | None = None,
    ) -> Self:
        """The store that `url` names: hbase://HOST:PORT/CELL?zookeeper=HOST:PORT.

        `helper` is the command of the Java helper, for `create` (missing tables) and `bulk`. Raises
        Misconfigured (missing tables, the store of another firehose, cell or home range, a server
        with another protocol), Corruption (some of a cell's tables are gone), Unavailable.
        """
        client = HBaseClient(Address.parse(url))
        store = cls(client, partitions, Helper(helper) if helper else None)
        try:
            store._check_tables(create)
            store._wait_for_regions()
            store._check_meta(rows.Meta(identity, partitions, cell, home.first, home.last))
        except BaseException:
            store.close()
            raise
        return store

    def _check_tables(self, create: bool) -> None:
        there = self._client.probe()
        missing = [name for name in TABLES if self._client.table(name).decode() not in there]
        if not missing:
            return
        names = ", ".join(self._client.table(name).decode() for name in missing)
        place = self._client.address.place
        if "meta" not in missing and self._client.rows("meta", [_META_KEY])[0]:
            raise Corruption(  # it was noted whose they are once all of them were there
                f"{place} has lost the tables {names} of a cell that was begun: restore them, or"
                " give the cell another name in the URL and let it begin anew"
            )
        if not create:
            raise Misconfigured(
                f"{place} has no tables {names}: `firecell up` or `firecell cell` creates them"
            )
        if self._helper is None:
            raise Misconfigured(
                f"{place} has no tables {names}, and there is no Java helper to create them:"
                " hbase.helper must name its file of arguments, which `firecell stack up` writes"
                " (for other clusters: docs/deploy.md)"
            )
        self._helper.create(self._client.address.cell, missing)

    def _wait_for_regions(self) -> None:
        """After a start of HBase they open one after the other; without, they are just there."""
        deadline = time.monotonic() + limits.HBASE_OPEN_S
        for name in TABLES:
            while True:
                try:
                    self._client.scan(name, b"", None, 1)
                    break
                except Unavailable:
                    if time.monotonic() > deadline:
                        raise

    def _check_meta(self, wanted: rows.Meta) -> None:
        found = self._client.rows("meta", [_META_KEY])[0]
        if not found:
            mine = [(_META_KEY, [(b"", rows.pack_meta(wanted))])]
            self._write("begin a store", list(self._puts("meta", mine)))
            found = self._client.rows("meta", [_META_KEY])[0]  # another process may have begun it
        kept = rows.unpack_meta(found[b""])
        for name in rows.Meta.__struct_fields__:
            mine, theirs = getattr(wanted, name), getattr(kept, name)
            if mine != theirs:
                raise Misconfigured(
                    f"the tables {self._client.address.cell}.* at {self._client.address.place} hold"
                    f" a cell with {name} {theirs}, not {mine}: {_META_ADVICE[name]}"
                )

    def begun(self) -> dict[str, bytes]:
        """What was begun beside this store -> whose it was then."""
        found = self._client.rows("meta", [BEGUN])[0]
        return {what.decode(): owner for what, owner in found.items()}

    def note_begun(self, what: str, owner: bytes) -> None:
        """Note that; in the write-ahead log on return."""
        row = (BEGUN, [(what.encode(), owner)])
        self._write("note what was begun", list(self._puts("meta", [row])))

    @property
    def keys_aim(self) -> int:
        """Of one batch: more in bulk, for few big files."""
        adopts = self.bulk and self._runs is not None
        return limits.HBASE_RUN_KEYS_AIM if adopts else limits.WORKER_KEYS_AIM

    # --- writes ----------------------------------------------------------------------------------

    def write_all(self, facts: Facts) -> None:
        """Not atomic here, so it is the three steps in their order (I1)."""
        self.write_rows(facts)
        self.write_inbox(facts.inbox)
        self.write_positions(facts.positions)

    def write_rows(self, facts: Facts) -> None:
        """Step 1: posts, edits, tombstones, outbox, toggles, relations, quarantine, gaps; in the
        write-ahead log on return."""
        if self._runs is not None and self._adopts(facts.inbox):
            self._runs.begin(facts.inbox)  # beside the rows; adopted after them (I1)
        tables = {
            "post": post_rows,
            "outbox": outbox_rows,
            "toggle": toggle_rows,
            "following": following_rows,
            "relation": relation_rows,
            "quarantine": quarantine_rows,
            "gap": gap_rows,
        }
        puts = [
            put for table, rows_of in tables.items() for put in self._puts(table, rows_of(facts))
        ]
        self._write("write rows", puts)  # nothing names them yet, so in any order
        if facts.deletes:
            self._wipe([fact[0] for fact in facts.deletes])

    def _puts(self, table: str, found: Iterable[Row]) -> Iterator[LaidOut]:
        """Calls of a bounded number of rows and bytes that put rows, by key."""
        name = self._client.table(table)
        for part in calls_of(sorted(found)):
            yield partial(put_rows, name, part)

    def _wipe(self, keys: Sequence[bytes]) -> None:
        """Drop the frames of deleted posts: readers do not see them any more, and nobody should."""
        found = self._client.rows("post", [salted(key) for key in keys])
        blank = [(salted(key), bodies(columns)) for key, columns in zip(keys, found, strict=True)]
        wiped = [(key, columns) for key, columns in blank if columns]
        self._write("wipe deleted posts", list(self._puts("post", wiped)))

    def write_inbox(self, keys: Keys) -> None:
        """Step 2: inbox keys, u8 (n, 24), strictly ascending; durable on return.

        Adopted as HFiles when `bulk` is set, the helper is known and they are many; else put.
        """
        if self._runs is not None and self._adopts(keys):
            self._runs.adopt(keys)
            return
        name = self._client.table("inbox")
        step = limits.HBASE_CALL_ROWS
        calls = range(0, len(keys), step)
        self._write(
            "write inbox keys", [partial(put_keys, name, keys[at : at + step]) for at in calls]
        )
        self._keys_put += len(keys)

    def _adopts(self, keys: Keys) -> bool:
        return self.bulk and len(keys) >= limits.HBASE_RUN_KEYS_MIN

    def write_positions(self, positions: Mapping[int, tuple[int, int]]) -> None:
        """Step 3: partition -> (next offset, time ms). Never goes back: HBase keeps the highest."""
        name = self._client.table("position")
        calls = []
        for partition, (offset, time_ms) in positions.items():
            invariant(0 <= partition < self._partitions, f"there is no partition {partition}")
            value = rows.pack_position(offset, time_ms)
            calls.append(partial(put_at, name, partition_prefix(partition), b"", value, offset))
        self._write("write positions", calls, together=True)

    def _write(self, what: str, calls: Sequence[LaidOut], together: bool = False) -> None:
        if calls:
            self._bytes_written += self._client.write(what, calls, together)

    # --- the whole store -------------------------------------------------------------------------

    def rest(self) -> None:
        """HBase merges as it sees fit."""

    def pressure(self) -> float:
        """HBase has brakes of its own: it answers later."""
        return 1.0

    def stats(self) -> dict[str, int]:
        """disk_bytes, compaction_bytes (0: HBase's own metrics tell them), files_level0 (of one
        region, at the last adoption); since open: inbox_keys_written, keys_adopted, runs_adopted,
        bytes_written. Asks HBase nothing: metrics must not wait for it."""
        runs = self._runs
        adopted = runs.keys_adopted if runs else 0
        return {
            "disk_bytes": 0,
            "files_level0": runs.files if runs else 0,
            "compaction_bytes": 0,
            "inbox_keys_written": self._keys_put + adopted,
            "keys_adopted": adopted,
            "runs_adopted": runs.runs_adopted if runs else 0,
            "bytes_written": self._bytes_written + (runs.bytes_written if runs else 0),
        }

    def close(self) -> None:
        """Close all connections and the helper. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._client.close()
        if self._runs is not None:
            self._runs.close()


_META_ADVICE = {
    "format": "use the software that wrote it, or rebuild the cell under another name",
    "identity": "these are the tables of a cell of another firehose; configure that firehose, or"
    " give the cell another name in the URL",
    "partitions": "the number of partitions can never change; set it back",
    "cell": "these are another cell's tables; correct the name in the URL",
    "home_first": "its users' range has changed; set the shares back, or rebuild the cell",
    "home_last": "its users' range has changed; set the shares back, or rebuild the cell",
}
