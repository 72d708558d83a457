"""Putting a snapshot in the place of a cell's tables on HBase: the target of a restore.

The note is a row of the table `meta`, so the cell refuses to start on every machine. Each table is
disabled, kept as a snapshot of HBase's (`firecell-CELL-replaced-TABLE`, until the next restore),
dropped, and cloned from the snapshot that is restored, or made empty. `meta` and the markers stay;
the snapshot's markers are added (I7). Of the cell's folder on this machine the graph is replaced;
on another one, what lies there is found not to fit and made anew.

The Java helper does the work; nothing else of the cell may run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cells import hbase_meta, hbase_snapshots, rows
from cells.hbase_client import Address, HBaseClient
from cells.hbase_loader import Helper
from cells.hbase_markers import HBaseMarkers
from cells.markers import EmbeddedMarkers, add_all
from cells.snapshot_files import GRAPH, MARKERS, STORE, copy_part
from cells.snapshot_restore import REBUILD, REPLAYS, Crash, remove
from engine.errors import Unavailable
from topics.locks import sync_folder

_STAYING = ("meta", "marker")


class TableTarget:
    """The tables of a cell, and its folder here (`cells.snapshot_restore.Target`)."""

    def __init__(self, folder: Path, client: HBaseClient, helper: Helper, meta: rows.Meta) -> None:
        """Use `TableTarget.open`."""
        self.folder = folder
        self._meta = meta
        self._client = client
        self._helper = helper
        self._cell = client.address.cell
        self.place = f"the tables {self._cell}.* at {client.address.place}"

    @classmethod
    def open(cls, folder: Path, url: str, helper: Sequence[str], meta: rows.Meta) -> Self:
        """The tables that `url` names, as far as they are there; nothing is made for a plan. Raises
        Misconfigured (tables of another cell or firehose), Unavailable."""
        client = HBaseClient(Address.parse(url))
        target = cls(folder, client, Helper(helper), meta)
        try:
            there = client.probe()
            if client.table("meta").decode() in there and hbase_meta.is_written(client):
                hbase_meta.check_meta(client, meta)
        except BaseException:
            target.close()
            raise
        return target

    def replaces(self) -> list[str]:
        """Tables that are there."""
        there = self._client.probe()
        names = [f"{self._cell}.{table}" for table in hbase_snapshots.TAKEN]
        return [name for name in names if name in there]

    def begin(self, snapshot: str) -> None:
        """See `Target`. The note is there before it is said whose tables these are: a cell that
        starts in between finds it, and not that it has lost the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        there = self._client.probe()
        missing = [name for name in _STAYING if self._client.table(name).decode() not in there]
        if missing:
            self._helper.create(self._cell, missing)
        if not hbase_meta.noted(self._client):
            names = [hbase_snapshots.aside_of(self._cell, t) for t in hbase_snapshots.TAKEN]
            self._helper.commands([["forget", name] for name in names])
        hbase_meta.note(self._client, snapshot)
        hbase_meta.check_meta(self._client, self._meta)
        if not hbase_meta.noted(self._client):
            raise Unavailable(f"the note of a restore is not in {self.place}: try again")

    def check(self, source: Path) -> None:
        """HBase must have what the snapshot names."""
        hbase_snapshots.check_there(self._helper, hbase_snapshots.read(source / STORE))

    def put(self, source: Path, crash: Crash) -> None:
        """See `Target`."""
        names = hbase_snapshots.read(source / STORE)
        self._helper.commands(
            [
                ["restore", name, f"{self._cell}.{t}", hbase_snapshots.aside_of(self._cell, t)]
                for t, name in names.tables.items()
            ]
        )
        crash("moved")
        hbase_meta.forget_begun(self._client)
        self._replace_local(source / GRAPH)
        if (source / MARKERS).exists():
            theirs = EmbeddedMarkers.open(source / MARKERS)
            try:
                add_all(theirs.all(), HBaseMarkers(self._client).advance_many)
            finally:
                theirs.close()

    def clear(self, crash: Crash) -> None:
        """See `Target`."""
        self._helper.commands(
            [
                ["drop", f"{self._cell}.{table}", hbase_snapshots.aside_of(self._cell, table)]
                for table in hbase_snapshots.TAKEN
            ]
        )
        crash("moved")
        self._helper.create(self._cell, hbase_snapshots.TAKEN)
        hbase_meta.forget_begun(self._client)
        self._replace_local(None)

    def _replace_local(self, graph: Path | None) -> None:
        for part in (GRAPH, REPLAYS, REBUILD):
            remove(self.folder / part)
        if graph is not None and graph.exists():
            copy_part(graph, self.folder / GRAPH)
        sync_folder(self.folder)

    def done(self) -> None:
        """See `Target`."""
        hbase_meta.end_note(self._client)

    def close(self) -> None:
        """Close connections and helper. Idempotent."""
        self._client.close()
        self._helper.close()
