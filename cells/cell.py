"""One cell, put together: log, store, graph, worker, runner, reader. The only place that does it.

Start: open the store -> compare it with the firehose (named errors, I8, I9) -> load the graph
(snapshot + the follows since, or every toggle of the store) -> run. `close` goes back the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from cells import graph_file, quarantine
from cells.app import FaustRunner
from cells.backends import open_cache, open_store
from cells.born import open_born
from cells.directory import Directory, load_directory
from cells.durable import make_durable, no_crash
from cells.graph import Graph
from cells.graph_file import Frozen
from cells.intervals import AuthorIntervals
from cells.progress import Parts
from cells.pull import PulledInbox
from cells.reader import Reader
from cells.rebuild_state import Rebuilding
from cells.relations import RelationsCache
from cells.replay import Replays
from cells.replay_pace import Pace
from cells.replay_worker import ReplayWorker
from cells.runner import Runner
from cells.settings import Settings
from cells.snapshot import Whose
from cells.snapshot_restore import check_whole, own_cell
from cells.worker import Worker, toggle_of
from engine import limits
from engine.errors import NotFound, Precondition, RetentionPassed, Unavailable
from engine.events import FOLLOW
from engine.homing import HomeRange
from engine.materialize import PushPolicy
from engine.ports import Decisions, Facts, Gap, Log, Markers, PostCache, Store
from topics.locks import FileLock
from topics.logs import open_log
from topics.urls import EmbeddedPlace, FirehosePlace, KafkaPlace

_Result = TypeVar("_Result")


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Cell:
    """A running cell of this process. `close` may be called from any thread, once."""

    def __init__(
        self,
        name: str,
        directory: Directory,
        log: Log,
        store: Store,
        markers: Markers,
        decisions: Decisions,
        policy: PushPolicy,
        cache: PostCache,
        folder: Path,
        firehose: FirehosePlace,
        shared: bool,
        crash: Callable[[str], None],
    ) -> None:
        home = directory.ranges[name]
        kind = "hbase" if shared else "embedded"
        self.whose = Whose(name, log.identity, log.partitions, home, kind)
        self.folder = folder
        self.lock: FileLock | None = None
        self.name = name
        self.directory = directory
        self.log = log
        self.store = store
        self.markers = markers
        self.decisions = decisions
        self._snapshot = folder / "graph.snapshot"
        self._stamp = f"{log.identity} {name} {home!r}"
        self.graph = load_graph(store, log, home, self._snapshot, self._stamp)
        self.cache = cache
        self.relations = relations = RelationsCache(store)
        self.intervals = intervals = AuthorIntervals(decisions, policy)
        self.worker = Worker(
            store,
            self.graph,
            home,
            intervals,
            cache=self.cache,
            forget_relations=relations.forget,
            crash=crash,
        )
        self.runner = self._runner(firehose, folder, shared)
        rebuilding = Rebuilding.load(folder)
        if rebuilding is not None:
            self.runner.rebuild(rebuilding)
        self.replays: Replays | None = None
        self.reader = Reader(
            name,
            home,
            store,
            PulledInbox(store, self.graph, intervals),
            self.graph,
            self.cache,
            relations,
            markers,
            self.runner,
            now_ms,
        )

    def _runner(self, firehose: FirehosePlace, folder: Path, shared: bool) -> Runner | FaustRunner:
        parts = Parts(self.name, self.log, self.store, self.worker, self._save_graph, now_ms)
        if isinstance(firehose, KafkaPlace):
            return FaustRunner(parts, place=firehose, folder=folder, shared=shared)
        return Runner(parts)

    # --- beside live work ---

    def begin_beside(self) -> Replays:
        """Replays go on from now, those that a crash cut short too; one process of a cell."""
        if self.replays is None:
            self.replays = Replays(
                self.folder,
                self.log,
                self.replay_worker,
                lambda: list(self.worker.next_offsets),
                now_ms,
                settle=lambda places: quarantine.settle(self, places),
                mended=lambda: self._save_graph(list(self.worker.next_offsets)),
                pace=Pace(time.monotonic, pressure=self.store.pressure),
            )
            self.runner.aside = self.replays.step
            self.runner.more_stats.append(self.replays.stats)
        return self.replays

    def replay_worker(
        self, positions: Sequence[int], accounts: Sequence[int] | None
    ) -> ReplayWorker:
        """A worker for a span below the live position."""
        return ReplayWorker(
            self.store,
            self.graph,
            self.whose.home,
            self.intervals,
            positions,
            cache=self.cache,
            forget_relations=self.relations.forget,
            accounts=None if accounts is None else frozenset(accounts),
            dropped=quarantine.dropped_places(self.store),
            distrust=lambda: self._snapshot.unlink(missing_ok=True),
            crash=self.worker.crash,
            heads=self.worker.heads,
        )

    def between(self, task: Callable[[], _Result]) -> _Result:
        """Do `task` where it meets no batch half done, and wait for it. Unavailable when the cell
        ends meanwhile."""
        if not self.runner.is_applying():
            return task()
        future = self.runner.between(task)
        while not future.cancelled():
            try:
                return future.result(limits.WAIT_STEP_S)
            except TimeoutError:
                if not self.runner.is_applying() and future.cancel():
                    break
            except CancelledError:
                break
        raise Unavailable(f"cell {self.name} is draining: try again")

    def freeze(self) -> Frozen | None:
        """The graph at the durable position, unless it holds toggles that this does not cover: a
        batch in hand, or what a crash left behind. Loaded there, it would be ahead of its store."""
        positions = list(self.worker.next_offsets)
        if any(end > at for end, at in zip(self.graph.end, positions, strict=True)):
            return None
        return self.graph.freeze(positions, self._stamp)

    def _save_graph(self, positions: list[int]) -> None:
        """Keep the graph at these positions, the worker's, if it can be kept."""
        frozen = self.freeze()
        if frozen is not None:
            graph_file.write(self._snapshot, frozen)

    def close(self, deadline_s: float = limits.DRAIN_S) -> bool:
        """Drain and give everything back; False when the deadline passed with work in hand."""
        drained = self.runner.stop(deadline_s)
        if drained:  # else the fan-out thread still uses them; the process is about to end
            if self.replays is not None:
                self.replays.keep()
            self.store.close()
            self.markers.close()
            self.decisions.close()
            self.log.close()
            if self.lock is not None:
                self.lock.release()
        return drained


def open_cell(
    settings: Settings,
    name: str,
    *,
    accept_gap: bool = False,
    create: bool = True,
    crash: Callable[[str], None] = no_crash,
) -> Cell:
    """The cell `name` of a configuration, loaded but not running: call `runner.start()`. A missing
    topic and missing tables are made, or only named unless `create`.

    Raises NotFound, Misconfigured, Precondition (store in use, hole, other firehose), Corruption.
    """
    if name not in settings.cells:
        raise NotFound(f"no cell {name!r} is configured; there are {', '.join(settings.cells)}")
    directory = load_directory(
        settings.data.folder, {cell: c.share for cell, c in settings.cells.items()}
    )
    own = settings.cells[name]
    with ExitStack() as opened:  # what refuses to start gives back what it has opened
        log = open_log(settings.firehose, create=create)
        opened.callback(log.close)
        lock = None
        if isinstance(own.place, EmbeddedPlace):
            lock = own_cell(own.folder, name, limits.SUCCESSOR_WAIT_S)
            opened.callback(lock.release)
            check_whole(own.folder, name)
        store = open_store(
            own,
            identity=log.identity,
            partitions=log.partitions,
            home=directory.ranges[name],
            helper=settings.hbase.helper,
            create=create,
        )
        opened.callback(store.close)
        check_positions(name, log, store, accept_gap)
        markers, decisions = open_born(own, store, log.identity, opened)
        cache = open_cache(own)
        own.folder.mkdir(parents=True, exist_ok=True)
        cell = Cell(
            name,
            directory,
            log,
            store,
            markers,
            decisions,
            PushPolicy(own.push_followers_max),
            cache,
            own.folder,
            settings.firehose.place,
            not isinstance(own.place, EmbeddedPlace),
            crash,
        )
        cell.lock = lock
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
    make_durable(store, facts, no_crash, {"rows": 0.0, "inbox": 0.0, "done": 0.0})


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
