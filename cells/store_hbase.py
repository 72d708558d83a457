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
from pathlib import Path
from typing import Self

from cells import hbase_meta, hbase_snapshots, rows
from cells.hbase_client import Address, HBaseClient, LaidOut
from cells.hbase_frames import Row, put_at, put_keys, put_rows
from cells.hbase_loader import Helper
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
from cells.hbase_scans import HBaseScans
from cells.hbase_schema import BEGUN, TABLES, bodies, salted
from engine import limits
from engine.errors import Conflict, Corruption, Misconfigured, Unavailable, invariant
from engine.homing import HomeRange
from engine.keys import Keys, partition_prefix, place_key
from engine.ports import Facts, Gap


class HBaseStore(HBaseScans):
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
        restoring: bool = False,
        helper: Sequence[str] | None = None,
    ) -> Self:
        """The store that `url` names: hbase://HOST:PORT/CELL?zookeeper=HOST:PORT.

        `helper` is the command of the Java helper, for `create` (missing tables) and `bulk`. Raises
        Misconfigured (missing tables, the store of another firehose, cell or home range, a server
        with another protocol), Precondition (a restore was cut short), Corruption (some of a
        cell's tables are gone), Unavailable.
        """
        client = HBaseClient(Address.parse(url))
        store = cls(client, partitions, Helper(helper) if helper else None)
        try:
            there = client.probe()
            if client.table("meta").decode() in there and not restoring:
                hbase_meta.check_whole(client, cell)  # half a restore is no store
            store._check_tables(there, create)
            store._wait_for_regions()
            meta = rows.Meta(identity, partitions, cell, home.first, home.last)
            hbase_meta.check_meta(client, meta)
        except BaseException:
            store.close()
            raise
        return store

    def check_whole(self, cell: str) -> None:
        """See `Store`."""
        hbase_meta.check_whole(self._client, cell)

    def _check_tables(self, there: set[str], create: bool) -> None:
        missing = [name for name in TABLES if self._client.table(name).decode() not in there]
        if not missing:
            return
        names = ", ".join(self._client.table(name).decode() for name in missing)
        place = self._client.address.place
        if "meta" not in missing and hbase_meta.is_written(self._client):
            raise Corruption(  # it was noted whose they are once all of them were there
                f"{place} has lost the tables {names} of a cell that was begun: restore them:"
                " `firecell snapshot restore` or `firecell rebuild`; or give the cell another name"
                " in the URL and let it begin anew"
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

    def settle_quarantined(self, places: Sequence[tuple[int, int]], gaps: Sequence[Gap]) -> None:
        """Forget kept bad records by (partition, offset), and keep `gaps`: these first, so that no
        failure leaves a place that nothing tells of."""
        self._write("keep gaps", list(self._puts("gap", gap_rows(Facts(gaps=list(gaps))))))
        if places:
            keys = [place_key(*place) for place in places]
            self._client.delete("settle bad records", "quarantine", keys)

    # --- the whole store -------------------------------------------------------------------------

    def flush(self) -> None:
        """HBase's snapshots do that themselves, and nobody waits for them."""

    def checkpoint(self, folder: str) -> None:
        """HBase's own snapshots of the tables, named in the new `folder`; beside any writers
        (cells/hbase_snapshots.py). Raises Conflict when it exists, Misconfigured without helper."""
        place = Path(folder)
        if place.exists():
            raise Conflict(f"{folder} exists: name a new folder for the checkpoint")
        helper = self._need_helper("take snapshots")
        place.mkdir(parents=True)
        hbase_snapshots.take(helper, self._client.address.cell, place)

    def forget_checkpoint(self, folder: str) -> None:
        """Let HBase drop the snapshots of a checkpoint."""
        hbase_snapshots.forget(self._need_helper("drop snapshots"), Path(folder))

    def _need_helper(self, what: str) -> Helper:
        if self._helper is None:
            raise Misconfigured(
                f"HBase's Java helper is needed to {what}: hbase.helper must name its file of"
                " arguments, which `firecell stack up` writes (for other clusters: docs/deploy.md)"
            )
        return self._helper

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

