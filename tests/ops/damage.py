"""Rows of a cell taken away at random, from any store; which of them are back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple, TypeVar

from bench.churn import Random
from cells.backends import open_store
from cells.directory import load_directory
from cells.hbase_loader import Helper
from cells.settings import Settings
from engine.homing import partition_of
from engine.keys import (
    INBOX_KEY_BYTES,
    following_key,
    outbox_key,
    parse_inbox_key,
    post_key,
    toggle_key,
)
from engine.ports import Log, OutboxEntry, Store
from tests.hbase_backend import remove
from topics.urls import HBasePlace

EACH = 12  # rows of each table, of each age
SEED = 3
LOOKED_AT = 600  # readers whose inboxes are looked into
_T = TypeVar("_T")


class Row(NamedTuple):
    """One row: its key, and whether the firehose no longer has the event behind it."""

    table: str
    key: bytes
    old: bool


class Damage:
    """The store of a cell that does not run, opened for a moment."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self._settings, self._log = settings, log
        self._own = settings.cells["c1"]
        self._random = Random(SEED)
        self._store: Store | None = None
        self.chosen: list[Row] = []

    def __enter__(self) -> Damage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> Store:
        """Opened when it is asked for."""
        if self._store is None:
            shares = {name: cell.share for name, cell in self._settings.cells.items()}
            home = load_directory(self._settings.data.folder, shares).ranges["c1"]
            self._store = open_store(
                self._own,
                identity=self._log.identity,
                partitions=self._log.partitions,
                home=home,
                helper=self._settings.hbase.helper,
            )
        return self._store

    def drop_tables(self, names: Sequence[str]) -> None:
        """Of a cell in HBase."""
        place = self._own.place
        if isinstance(place, HBasePlace):
            helper = Helper(["java", f"@{self._settings.hbase.helper}", place.zookeeper])
            try:
                helper.commands([["drop", f"{place.name}.{name}"] for name in names])
            finally:
                helper.close()

    # --- choosing ---

    def choose(self, floors: Sequence[int]) -> None:
        """EACH rows of each table and age; follow rows are of readers of their own, and follows."""
        count = self._log.partitions

        def is_old(author: int, offset: int) -> bool:
            return offset < floors[partition_of(author, count)]

        outboxes = [
            Row("outbox", outbox_key(author, entry.post), is_old(author, entry.offset))
            for author, entry in self._walk_outboxes()
            if entry.delete_offset < 0
        ]
        follows = [
            (author, reader, offset, partition)
            for partition in range(count)
            for chunk in self.store.toggle_rows(partition)
            for author, reader, offset, on in chunk.tolist()
            if on
        ]
        once: dict[int, tuple[int, int, int, int]] = {}
        for follow in follows:  # the last of each reader
            once[follow[1]] = follow
        table_rows: dict[str, list[Row]] = {"toggle": [], "following": []}
        for number, (author, reader, offset, partition) in enumerate(self._mixed(once.values())):
            old = is_old(author, offset)
            if number % 2:
                key = toggle_key(partition, author, reader, offset)
                table_rows["toggle"].append(Row("toggle", key, old))
            else:
                key = following_key(reader, author, offset)
                table_rows["following"].append(Row("following", key, old))
        for rows in (outboxes, *table_rows.values()):
            self.chosen += self._some(rows)
        touched = {self._reader(row) for row in self.chosen if row.table != "outbox"}
        self.chosen += self._some(self._inbox_rows(list(once), touched, is_old))

    def _walk_outboxes(self) -> list[tuple[int, OutboxEntry]]:
        found: list[tuple[int, OutboxEntry]] = []
        start = b""
        while rows := self.store.outboxes_from(start, 4_000):
            found += rows
            start = outbox_key(rows[-1][0], rows[-1][1].post) + b"\x00"
        return found

    def _inbox_rows(
        self, readers: Iterable[int], touched: set[int], is_old: Callable[[int, int], bool]
    ) -> list[Row]:
        found: dict[bytes, Row] = {}
        for reader in self._mixed(readers)[:LOOKED_AT]:
            if reader in touched:
                continue
            newest = self.store.inbox_older(reader, b"", 3)
            raw = newest + self.store.inbox_newer(reader, b"", 3)
            for at in range(0, len(raw), INBOX_KEY_BYTES):
                key = raw[at : at + INBOX_KEY_BYTES]
                _, post, author = parse_inbox_key(key)
                row = self.store.post_rows([post_key(post, author)])[0]
                if row is not None and row.offset >= 0 and row.delete_offset < 0:
                    found[key] = Row("inbox", key, is_old(author, row.offset))
        return list(found.values())

    def _reader(self, row: Row) -> int:
        at = 10 if row.table == "toggle" else 0
        return int.from_bytes(row.key[at : at + 8])

    def _mixed(self, items: Iterable[_T]) -> list[_T]:
        return sorted(items, key=lambda item: self._random.below(2**60))

    def _some(self, rows: list[Row]) -> list[Row]:
        mixed = self._mixed(rows)
        return [
            row
            for old in (False, True)
            for row in [row for row in mixed if row.old == old][:EACH]
        ]

    # --- taking, looking ---

    def take(self) -> None:
        """They go."""
        for table in {row.table for row in self.chosen}:
            remove(self.store, table, [row.key for row in self.chosen if row.table == table])

    def lost(self) -> tuple[dict[str, list[Row]], list[Row]]:
        """(by table the old ones that are still away, the new ones that are: but inbox keys, for
        one that no page shows needs not come back)."""
        old: dict[str, list[Row]] = {"inbox": [], "outbox": [], "toggle": [], "following": []}
        new: list[Row] = []
        toggles = {
            toggle_key(partition, author, reader, offset)
            for partition in range(self._log.partitions)
            for chunk in self.store.toggle_rows(partition)
            for author, reader, offset, _ in chunk.tolist()
        }
        for row in self.chosen:
            if row.key in toggles if row.table == "toggle" else self._is_there(row):
                continue
            if row.old:
                old[row.table].append(row)
            elif row.table != "inbox":
                new.append(row)
        return old, new

    def _is_there(self, row: Row) -> bool:
        first, second, _ = parse_inbox_key(row.key)
        before = (int.from_bytes(row.key) - 1).to_bytes(24)
        if row.table == "inbox":
            return self.store.inbox_older(first, before, 1) == row.key
        if row.table == "outbox":
            entries = self.store.outbox(first, before, 1)
            return bool(entries) and entries[0].post == second
        reader, author, offset = (int.from_bytes(row.key[at : at + 8]) for at in (0, 8, 16))
        return offset in [toggle.offset for toggle in self.store.toggles_between(reader, author)]
