"""One cell, put together: log, store, graph, worker, runner, reader. The only place that does it.

Start: open the store -> compare it with the firehose (named errors, I8, I9) -> load the graph
(snapshot + the follows since, or every toggle of the store) -> run. `close` goes back the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from cells.cache import MemoryCache
from cells.directory import Directory, load_directory
from cells.graph import Graph
from cells.markers import EmbeddedMarkers
from cells.reader import Reader
from cells.relations import RelationsCache
from cells.runner import Runner
from cells.settings import Settings
from cells.store_embedded import EmbeddedStore
from cells.worker import Worker, no_crash, toggle_of
from engine import limits
from engine.errors import NotFound, Precondition, RetentionPassed
from engine.events import FOLLOW
from engine.homing import HomeRange
from engine.ports import Facts, Gap, Log, Store
from topics.log_embedded import EmbeddedLog


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Cell:
    """A running cell of this process. `close` may be called from any thread, once."""

    def __init__(
        self,
        name: str,
        directory: Directory,
        log: EmbeddedLog,
        store: EmbeddedStore,
        markers: EmbeddedMarkers,
        folder: Path,
        crash: Callable[[str], None],
    ) -> None:
        home = directory.ranges[name]
        self.name = name
        self.directory = directory
        self.log = log
        self.store = store
        self.markers = markers
        self._snapshot = folder / "graph.snapshot"
        self._stamp = f"{log.identity} {name} {home!r}"
        self.graph = load_graph(store, log, home, self._snapshot, self._stamp)
        self.cache = MemoryCache()
        relations = RelationsCache(store)
        self.worker = Worker(
            store,
            self.graph,
            home,
            cache=self.cache,
            forget_relations=relations.forget,
            crash=crash,
        )
        self.runner = Runner(name, log, store, self.worker, self._save_graph, now_ms)
        self.reader = Reader(
            name,
            home,
            store,
            self.graph,
            self.cache,
            relations,
            markers,
            self.runner,
            now_ms,
        )

    def _save_graph(self, positions: list[int]) -> None:
        """Keep the graph, unless it holds toggles that `positions` does not cover: a batch in hand,
        or what a crash left behind. Loaded at these positions, it would be ahead of its store."""
        ends = zip(self.graph.end, positions, strict=True)
        if any(end > position for end, position in ends):
            return
        self.graph.save(self._snapshot, positions, self._stamp)

    def close(self, deadline_s: float = limits.DRAIN_S) -> bool:
        """Drain and give everything back; False when the deadline passed with work in hand."""
        drained = self.runner.stop(deadline_s)
        if drained:  # else the fan-out thread still uses them; the process is about to end
            self.store.close()
            self.markers.close()
            self.log.close()
        return drained


def open_cell(
    settings: Settings,
    name: str,
    *,
    accept_gap: bool = False,
    crash: Callable[[str], None] = no_crash,
) -> Cell:
    """The cell `name` of a configuration, loaded but not running: call `runner.start()`.

    Raises NotFound, Misconfigured, Precondition (store in use, hole, other firehose), Corruption.
    """
    if name not in settings.cells:
        raise NotFound(f"no cell {name!r} is configured; there are {', '.join(settings.cells)}")
    directory = load_directory(
        settings.data.folder, {cell: c.share for cell, c in settings.cells.items()}
    )
    folder = settings.cells[name].folder
    with ExitStack() as opened:  # what refuses to start gives back what it has opened
        log = EmbeddedLog.open(
            settings.firehose.folder,
            partitions=settings.firehose.partitions,
            retention_ms=settings.firehose.retention_ms,
        )
        opened.callback(log.close)
        store = EmbeddedStore.open(
            folder / "store",
            identity=log.identity,
            partitions=log.partitions,
            cell=name,
            home=directory.ranges[name],
        )
        opened.callback(store.close)
        check_positions(name, log, store, accept_gap)
        markers = EmbeddedMarkers.open(folder / "markers")
        opened.callback(markers.close)
        cell = Cell(name, directory, log, store, markers, folder, crash)
        opened.pop_all()
    return cell


def check_positions(name: str, log: Log, store: Store, accept_gap: bool) -> None:
    """Compare the cell's durable vector with the firehose; with `accept_gap` step over a hole.

    Raises Precondition when the firehose ends before the cell's position or the group is ahead of
    it, RetentionPassed when events that the cell needs are gone.
    """
    at, times_ms = store.positions()
    ends, floors = log.end_offsets(), log.begin_offsets()
    for partition, end in enumerate(ends):
        if at[partition] > end:
            raise Precondition(
                f"cell {name} has applied partition {partition} up to {at[partition]}, but the"
                f" firehose ends at {end}: it was truncated or replaced; restore it, or give the"
                " cell a new folder"
            )
    group = f"cell.{name}"
    for partition, offset in log.committed(group).items():
        if offset > at[partition]:
            raise Precondition(
                f"group {group} is at {offset} in partition {partition}, ahead of the durable"
                f" {at[partition]} of the cell: its store is older than its group (restored?);"
                " remove the group's position or restore the newer store"
            )
    holes = [p for p, floor in enumerate(floors) if floor > at[p]]
    if not holes:
        return
    if not accept_gap:
        first = holes[0]
        raise RetentionPassed(
            f"cell {name} needs partition {first} from {at[first]}, but the firehose begins at"
            f" {floors[first]} ({len(holes)} partitions): events are lost to this cell; start it"
            f" once with `firecell cell {name} --accept-gap` to record the gap and go on",
            floor={str(p): floors[p] for p in holes},
        )
    facts = Facts()
    for partition in holes:
        kept = log.read(partition, floors[partition], 1, 1)
        to_ms = kept[0].time_ms if kept else now_ms()
        span = (at[partition], floors[partition] - 1, times_ms[partition], to_ms)
        facts.gaps.append(Gap(partition, *span, "retention passed"))
        facts.positions[partition] = (floors[partition], to_ms)
    store.write_all(facts)


def load_graph(store: Store, log: Log, home: HomeRange, snapshot: Path, stamp: str) -> Graph:
    """The followers at the store's durable position: from the snapshot and the firehose since, or,
    where that does not reach, from every toggle in the store."""
    durable, _ = store.positions()
    loaded = Graph.load(snapshot, stamp) if snapshot.exists() else None
    if loaded is not None:
        graph, positions = loaded
        floors = log.begin_offsets()
        reaches = len(positions) == len(durable) and all(
            floor <= at <= end or at == end
            for at, end, floor in zip(positions, durable, floors, strict=True)
        )
        if reaches:
            for partition, start in enumerate(positions):
                _follow_log(graph, log, home, partition, start, durable[partition])
            return graph
    graph = Graph(len(durable))
    for partition, offset in enumerate(durable):
        graph.load_partition(partition, store.toggle_rows(partition), offset)
    return graph


def _follow_log(
    graph: Graph, log: Log, home: HomeRange, partition: int, start: int, end: int
) -> None:
    """Apply the follows and unfollows of [start, end) to the graph, as the worker did."""
    while start < end:
        records = log.read(
            partition, start, min(limits.READ_RECORDS_MAX, end - start), limits.READ_BYTES_MAX
        )
        for record in records:
            toggle = toggle_of(record, home, log.partitions)
            if toggle is None:
                continue
            change = graph.follow if toggle.kind == FOLLOW else graph.unfollow
            change(partition, toggle.author, toggle.reader, record.offset)
        start = records[-1].offset + 1
