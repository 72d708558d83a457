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
from typing import Self

from cells import rows
from cells.hbase_client import Address, HBaseClient
from cells.hbase_frames import FAMILY, Row, put_at, put_keys, put_rows
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
from cells.hbase_schema import TABLES, bodies, salted
from engine import limits
from engine.errors import Misconfigured, invariant
from engine.hfiles import cut, hfile_chunks
from engine.homing import HomeRange
from engine.keys import Keys, partition_prefix
from engine.ports import Facts

_META_KEY = b"cell"


def now_ms() -> int:
    """Unix milliseconds: the timestamp of adopted keys, as HBase would give it to put ones."""
    return time.time_ns() // 1_000_000


class HBaseStore(HBaseReads):
    """`engine.ports.Store` on HBase. Use `HBaseStore.open`."""

    atomic = False

    def __init__(self, client: HBaseClient, partitions: int, helper: Helper | None) -> None:
        """Over a client; `open` also checks tables and whose data they hold."""
        super().__init__(client, partitions)
        self.bulk = False
        """Adopt HFiles instead of putting keys, for batches of HBASE_RUN_KEYS_MIN keys or more:
        the runner sets it while the cell lags, replay and rebuild keep it set."""
        self._helper = helper
        self._closed = False
        self._keys_put = 0
        self._keys_adopted = 0
        self._runs_adopted = 0
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
        with another protocol), Unavailable.
        """
        client = HBaseClient(Address.parse(url))
        store = cls(client, partitions, Helper(helper) if helper else None)
        try:
            store._check_tables(create)
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
        if not create:
            raise Misconfigured(
                f"{place} has no tables {names}: `firecell up` or `firecell cell` creates them"
            )
        if self._helper is None:
            raise Misconfigured(
                f"{place} has no tables {names}, and no Java helper was named to create them"
            )
        self._helper.create(self._client.address.cell, missing)

    def _check_meta(self, wanted: rows.Meta) -> None:
        found = self._client.rows("meta", [_META_KEY])[0]
        if not found:
            message = put_rows(
                self._client.table("meta"), [(_META_KEY, [(b"", rows.pack_meta(wanted))])]
            )
            self._client.write("begin a store", [message])
            found = self._client.rows("meta", [_META_KEY])[0]  # another process may have begun it
        kept = rows.unpack_meta(found[b""])
        for name in rows.Meta.__struct_fields__:
            mine, theirs = getattr(wanted, name), getattr(kept, name)
            if mine != theirs:
                raise Misconfigured(
                    f"the tables {self._client.address.cell}.* at {self._client.address.place} hold"
                    f" a cell with {name} {theirs}, not {mine}: {_META_ADVICE[name]}"
                )

    # --- writes ----------------------------------------------------------------------------------

    def write_all(self, facts: Facts) -> None:
        """Not atomic here, so it is the three steps in their order (I1)."""
        self.write_rows(facts)
        self.write_inbox(facts.inbox)
        self.write_positions(facts.positions)

    def write_rows(self, facts: Facts) -> None:
        """Step 1: posts, edits, tombstones, outbox, toggles, relations, quarantine, gaps; in the
        write-ahead log on return."""
        if facts.posts or facts.edits or facts.deletes:
            self._put("post", post_rows(facts))
            self._put("outbox", outbox_rows(facts))
            if facts.deletes:
                self._wipe([fact[0] for fact in facts.deletes])
        if facts.toggles:
            self._put("toggle", toggle_rows(facts))
            self._put("following", following_rows(facts))
        if facts.relations:
            self._put("relation", relation_rows(facts))
        if facts.quarantined:
            self._put("quarantine", quarantine_rows(facts))
        if facts.gaps:
            self._put("gap", gap_rows(facts))

    def _put(self, table: str, found: Iterable[Row]) -> None:
        """Put rows in calls of a bounded number of rows and bytes, by key."""
        name = self._client.table(table)
        messages = [put_rows(name, part) for part in calls_of(sorted(found))]
        self._write(f"write {table} rows", messages)

    def _wipe(self, keys: Sequence[bytes]) -> None:
        """Drop the frames of deleted posts: readers do not see them any more, and nobody should."""
        found = self._client.rows("post", [salted(key) for key in keys])
        blank = [(salted(key), bodies(columns)) for key, columns in zip(keys, found, strict=True)]
        self._put("post", [(key, columns) for key, columns in blank if columns])

    def write_inbox(self, keys: Keys) -> None:
        """Step 2: inbox keys, u8 (n, 24), strictly ascending; durable on return.

        Adopted as HFiles when `bulk` is set, the helper is known and they are many; else put.
        """
        if self.bulk and self._helper is not None and len(keys) >= limits.HBASE_RUN_KEYS_MIN:
            self._adopt(keys)
            return
        name = self._client.table("inbox")
        wave = limits.HBASE_CALL_ROWS * limits.HBASE_WRITERS
        for start in range(0, len(keys), wave):
            part = keys[start : start + wave]
            calls = range(0, len(part), limits.HBASE_CALL_ROWS)
            messages = [put_keys(name, part[at : at + limits.HBASE_CALL_ROWS]) for at in calls]
            self._write("write inbox keys", messages)
        self._keys_put += len(keys)

    def _adopt(self, keys: Keys) -> None:
        """Sorted runs, one per region that they touch, adopted by HBase."""
        invariant(self._helper is not None, "runs are adopted through the helper")
        if self._helper is None:
            return
        table = self._client.table("inbox")
        regions = self._client.ask(
            "list the inbox's regions", lambda client: client.getTableRegions(table)
        )
        starts = sorted(region.startKey for region in regions)
        time_ms = now_ms()
        runs = [hfile_chunks(part, FAMILY, time_ms) for part in cut(keys, starts)]
        self._helper.load(table.decode(), [self._counted(run) for run in runs])
        self._keys_adopted += len(keys)
        self._runs_adopted += len(runs)

    def _counted(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        for chunk in chunks:
            self._bytes_written += len(chunk)
            yield chunk

    def write_positions(self, positions: Mapping[int, tuple[int, int]]) -> None:
        """Step 3: partition -> (next offset, time ms). Never goes back: HBase keeps the highest."""
        name = self._client.table("position")
        messages = []
        for partition, (offset, time_ms) in positions.items():
            invariant(0 <= partition < self._partitions, f"there is no partition {partition}")
            value = rows.pack_position(offset, time_ms)
            messages.append(put_at(name, partition_prefix(partition), b"", value, offset))
        if messages:
            self._write("write positions", messages, together=True)

    def _write(self, what: str, messages: Sequence[bytes], together: bool = False) -> None:
        self._bytes_written += sum(map(len, messages))
        if messages:
            self._client.write(what, messages, together)

    # --- the whole store -------------------------------------------------------------------------

    def rest(self) -> None:
        """HBase merges as it sees fit."""

    def pressure(self) -> float:
        """HBase has brakes of its own: it answers later."""
        return 1.0

    def stats(self) -> dict[str, int]:
        """disk_bytes, files_level0, compaction_bytes (0: HBase's own metrics tell them), regions of
        the inbox, inbox_keys_written, keys_adopted, runs_adopted, bytes_written (since open)."""
        table = self._client.table("inbox")
        regions = self._client.ask(
            "list the inbox's regions", lambda client: client.getTableRegions(table)
        )
        return {
            "disk_bytes": 0,
            "files_level0": 0,
            "compaction_bytes": 0,
            "regions": len(regions),
            "inbox_keys_written": self._keys_put + self._keys_adopted,
            "keys_adopted": self._keys_adopted,
            "runs_adopted": self._runs_adopted,
            "bytes_written": self._bytes_written,
        }

    def close(self) -> None:
        """Close all connections and the helper. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._client.close()
        if self._helper is not None:
            self._helper.close()


_META_ADVICE = {
    "format": "use the software that wrote it, or rebuild the cell under another name",
    "identity": "these are the tables of a cell of another firehose; configure that firehose, or"
    " give the cell another name in the URL",
    "partitions": "the number of partitions can never change; set it back",
    "cell": "these are another cell's tables; correct the name in the URL",
    "home_first": "its users' range has changed; set the shares back, or rebuild the cell",
    "home_last": "its users' range has changed; set the shares back, or rebuild the cell",
}
