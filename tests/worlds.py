"""A small world for tests: a firehose in a temporary folder, cells on it, and the oracle beside.

The firehose is the real one; its clock is the churn's. Nothing here decides what is right: that is
`bench/oracle.py`, fed from what the firehose says it holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bench.churn import START_MS, Timed
from bench.oracle import Oracle
from cells.cell import Cell, open_cell
from cells.durable import no_crash
from cells.settings import Settings, load_settings
from engine.codec import decode, encode
from engine.homing import partition_of
from engine.limits import PUSH_FOLLOWERS_MAX_DEFAULT
from engine.ports import Log, Record
from topics.log_embedded import EmbeddedLog

PARTITIONS = 4


class Clock:
    """Unix ms that stand still until told."""

    def __init__(self, now_ms: int = 0) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def make_settings(
    folder: Path,
    shares: dict[str, float],
    partitions: int = PARTITIONS,
    push_followers_max: int = PUSH_FOLLOWERS_MAX_DEFAULT,
    store: str = "",
    helper: str = "",
) -> Settings:
    """A configuration file in `folder` with one cell per share, loaded; all have their store in
    `store`, if that is not empty, which has its Java helper's arguments in `helper`."""
    lines = [f"[firehose]\npartitions = {partitions}\n"]
    if helper:
        lines.append(f'[hbase]\nhelper = "{helper}"\n')
    for name, share in shares.items():
        place = store or f"embedded:./data/{name}"
        lines.append(f'[cells.{name}]\nstore = "{place}"\nshare = {share}\n')
        lines.append(f"push_followers_max = {push_followers_max}\n")
    path = folder / "firecell.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_settings(path, environment={})


class World:
    """A firehose and the settings of the cells on it."""

    def __init__(
        self,
        folder: Path,
        shares: dict[str, float] | None = None,
        partitions: int = PARTITIONS,
        push_followers_max: int = PUSH_FOLLOWERS_MAX_DEFAULT,
        store: str = "",
        helper: str = "",
    ) -> None:
        self.settings = make_settings(
            folder, shares or {"c1": 1}, partitions, push_followers_max, store, helper
        )
        self.clock = Clock(START_MS)
        self.log = EmbeddedLog.open(
            self.settings.firehose.folder,
            partitions=partitions,
            retention_ms=self.settings.firehose.retention_ms,
            clock=self.clock,
        )

    def append(self, timed: Iterable[Timed]) -> None:
        """Append events; neighbours of one append time share a commit."""
        group: list[tuple[int, bytes]] = []
        for time_ms, event in timed:
            if time_ms != self.clock.now_ms:
                if group:
                    self.log.append(group)
                group = []
                self.clock.now_ms = time_ms
            group.append((partition_of(event.account, self.log.partitions), encode(event)))
        if group:
            self.log.append(group)

    def records(self) -> Iterator[Record]:
        """Everything in the firehose, partition by partition."""
        for partition, offset in enumerate(self.log.begin_offsets()):
            while records := self.log.read(partition, offset, 1_000, 1 << 20):
                yield from records
                offset = records[-1].offset + 1

    def oracle(self, readers: set[int] | None = None) -> Oracle:
        """The oracle, fed with everything in the firehose."""
        oracle = Oracle(readers)
        for record in self.records():
            oracle.apply(record.partition, record.offset, record.time_ms, decode(record.frame))
        return oracle

    def users(self) -> list[int]:
        """Everybody whom an event names."""
        known: set[int] = set()
        for record in self.records():
            event = decode(record.frame)
            known |= {event.author, getattr(event, "reader", event.author)}
        return sorted(known)

    def open(self, name: str = "c1", crash: Callable[[str], None] = no_crash) -> Cell:
        """A cell of this world, not running."""
        return open_cell(self.settings, name, crash=crash)

    def close(self) -> None:
        """Give the firehose back."""
        self.log.close()


def walk(cell: Cell, reader: int, limit: int = 200) -> list[list[tuple[int, int]]]:
    """All pages of a reader's dashboard, as (post id, author)."""
    pages: list[list[tuple[int, int]]] = []
    cursor: str | None = None
    while True:
        page = json.loads(cell.reader.dashboard(reader, limit=limit, cursor=cursor))
        pages.append([(int(post["id"]), int(post["author"])) for post in page["posts"]])
        cursor = page["next"]
        if cursor is None:
            return pages


def read_all(log: Log, positions: list[int], count: int) -> list[Record]:
    """Up to `count` records of each partition from the positions on."""
    return [r for p, at in enumerate(positions) for r in log.read(p, at, count, 1 << 22)]
