"""How far a cell is, whatever feeds it: applied, settled, lag, rates, gaps; and applying a batch.

Base of the runners: `cells/runner.py` on the embedded log, `cells/app.py` on Kafka. One thread
applies (`_apply`), the questions may be asked from any thread. What must not meet a batch half
done, a checkpoint or the step of a replay, is done by that same thread between two (`between`,
`aside`), so nothing of the graph or the store needs a lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cells.rebuild_state import Rebuilding
from cells.worker import Worker
from engine import limits
from engine.errors import FirecellError, Unavailable
from engine.ports import Gap, Log, Record, Store
from topics.backoff import Backoff
from topics.histogram import Histogram

_Result = TypeVar("_Result")
log_ = logging.getLogger("firecell.runner")


class Parts(NamedTuple):
    """What a runner is made of."""

    cell: str
    log: Log
    store: Store
    worker: Worker
    save_graph: Callable[[list[int]], None]  # at these positions, the worker's
    now_ms: Callable[[], int]


class Progress:
    """The state of one worker's progress; see the module."""

    _thread: threading.Thread  # the one that applies, or that feeds it

    def __init__(self, parts: Parts) -> None:
        self.cell = parts.cell
        self._log = parts.log
        self._store = parts.store
        self._worker = parts.worker
        self._save_graph = parts.save_graph
        self._now_ms = parts.now_ms
        self._target = parts.log.end_offsets()  # ready once all of this is applied
        self._ends = list(self._target)
        self._settled_ms = 0
        self._gaps = parts.store.gaps()
        self._stop = threading.Event()
        self._caught_up = False
        self._trouble: FirecellError | None = None
        self._started = time.monotonic()
        self._last_snapshot = time.monotonic()
        self._saved_toggles = 0
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._busy_s = 0.0  # that live batches took
        self.aside: Callable[[float], bool] | None = None  # a step beside live work; did it any?
        self.more_stats: list[Callable[[], dict[str, float]]] = []
        self._rebuilding: Rebuilding | None = None
        self.latency = Histogram()  # from append to durable here, ms
        self.failure: BaseException | None = None

    # --- what others ask ---

    @property
    def ready(self) -> bool:
        """Applied up to the log's end as it was at start, and not failed."""
        return self._caught_up and self.failure is None and not self._stop.is_set()

    def not_ready_reason(self) -> str:
        """Why not, for people; empty when ready."""
        if self.failure is not None:
            return f"stopped: {self.failure}"
        if self._stop.is_set():
            return "draining"
        if not self._caught_up:
            return f"catching up: {self.lag_events()} events behind"
        return ""

    def applied_past(self, partition: int, offset: int) -> bool:
        """Whether the event at this position shows in pages already."""
        return self._worker.next_offsets[partition] > offset

    def version(self) -> int:
        """Changes with every batch, and with those of other workers of the cell."""
        return self._worker.counts.batches + self._worker.counts.others

    def settled_ms(self) -> int:
        """Everything appended before this Unix ms is applied, less the margin."""
        return max(self._settled_ms - limits.SETTLE_MARGIN_MS, 0)

    def gaps(self) -> list[Gap]:
        """Spans that are not covered."""
        rebuilding = self._rebuilding
        if rebuilding is None:
            return self._gaps
        return self._gaps + rebuilding.gaps(self._worker.next_offsets, self._worker.times_ms)

    def rebuild(self, rebuilding: Rebuilding) -> None:
        """Before the start: what is missing up to the rebuild's target is a gap, not a reason to
        wait (DESIGN 6)."""
        self._rebuilding = rebuilding
        self._caught_up = True

    def lag_events(self) -> int:
        """Events between the applied position and the end as last seen."""
        pairs = zip(self._ends, self._worker.next_offsets, strict=True)
        return sum(max(end - at, 0) for end, at in pairs)

    def lag_seconds(self) -> float:
        """Age of the newest moment up to which everything is applied."""
        return max(self._now_ms() - self._settled_ms, 0) / 1_000 if self._settled_ms else 0.0

    def status(self) -> dict[str, Any]:
        """JSON-ready, for `firecell status`."""
        try:
            durable, _ = self._store.positions()
        except Unavailable:  # the status of a cell must not need its store; what it answered holds
            durable = list(self._worker.next_offsets)
        return {
            "name": self.cell,
            "ready": self.ready,
            "reason": self.not_ready_reason(),
            "trouble": self._trouble.message if self._trouble is not None else None,
            "applied": {str(p): offset for p, offset in enumerate(self._worker.next_offsets)},
            "durable": {str(p): offset for p, offset in enumerate(durable)},
            "end": {str(p): offset for p, offset in enumerate(self._ends)},
            "lag_events": self.lag_events(),
            "lag_seconds": self.lag_seconds(),
            "gaps": [gap._asdict() for gap in self.gaps()],
            "rebuilding": self._rebuilding is not None,
            "rates": self._rates(),
        }

    def explain_author(self, author: int) -> dict[str, Any]:
        """What is decided about an author here; JSON-ready, for `firecell explain`."""
        return {"cell": self.cell, **self._worker.explain_author(author)}

    def stats(self) -> dict[str, float]:
        """Plain numbers for metrics and benches."""
        counts = self._worker.counts
        numbers: dict[str, float] = {
            "events_total": counts.events,
            "posts_total": counts.posts,
            "inbox_keys_total": counts.inbox_keys,
            "batches_total": counts.batches,
            "quarantined_total": counts.quarantined,
            "dropped_total": counts.dropped,
            "backfilled_total": counts.backfilled,
            "pulled_authors": self._worker.intervals.open_count(),
            "inbox_keys_saved_total": self._worker.intervals.saved_keys,
            "gaps": len(self.gaps()),
            "lag_events": self.lag_events(),
            "lag_seconds": self.lag_seconds(),
            "ready": float(self.ready),
        }
        numbers |= {f"step_{name}_seconds_total": spent for name, spent in counts.seconds.items()}
        numbers |= {f"store_{name}": value for name, value in self._store.stats().items()}
        for more in self.more_stats:
            numbers |= more()
        return numbers

    def _rates(self) -> dict[str, float]:
        seconds = max(time.monotonic() - self._started, 1e-3)
        counts = self._worker.counts
        return {
            "events_per_second": round(counts.events / seconds, 1),
            "inbox_keys_per_second": round(counts.inbox_keys / seconds, 1),
        }

    def look_at_gaps(self) -> None:
        """The record of gaps has changed."""
        self._gaps = self._store.gaps()

    # --- between two batches ---

    def begin_stop(self) -> None:
        """Take nothing more; what is in hand goes on, unless it waits for its store."""
        self._stop.set()

    def is_applying(self) -> bool:
        """Whether the thread that applies is there."""
        return self._thread.is_alive()

    def between(self, task: Callable[[], _Result]) -> Future[_Result]:
        """Let the thread that applies do `task` before its next batch; from any thread. Unavailable
        when it has ended."""
        if self._stop.is_set() or self.failure is not None:
            raise Unavailable(f"cell {self.cell} is {self.not_ready_reason()}: try again")
        future: Future[_Result] = Future()
        self._tasks.append((task, future))
        return future

    def _do_between(self) -> bool:
        """All tasks, and one step beside; whether that step did anything."""
        while self._tasks:
            task, future = self._tasks.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except Exception as error:
                future.set_exception(error)
        return self.aside is not None and self.aside(self._busy_s)

    def _cancel_between(self) -> None:
        """At the end: nobody does these any more."""
        while self._tasks:
            self._tasks.popleft()[1].cancel()

    def _linger(self, seconds: float) -> None:
        """A pause, which those beside may use."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and time.monotonic() < until and self._do_between():
            pass
        self._stop.wait(max(until - time.monotonic(), 0))

    # --- the thread that applies ---

    def _apply(self, records: list[Record], then: Callable[[], None]) -> None:
        """Worker steps 1-6 for all of `records`, and `then`; after a sorted run a pause, so that
        the files at level 0 stay few."""
        self._choose_bulk()
        started = time.monotonic()
        keys_before = self._worker.counts.inbox_keys
        batch_in_hand = bool(records)
        self._apply_all(records)
        then()
        spent = time.monotonic() - started
        if not batch_in_hand:
            return
        self._busy_s += spent
        if self._worker.counts.inbox_keys - keys_before >= limits.RUN_KEYS_MIN:
            linger = limits.WORKER_LINGER_MS / 1_000 * self._store.pressure()
            self._linger(max(linger - spent, 0))

    def _choose_bulk(self) -> None:
        """Throughput or latency, by how far behind the cell is; two bounds, so that it does not
        waver between them."""
        bound = limits.BULK_UNTIL_EVENTS if self._store.bulk else limits.BULK_FROM_EVENTS
        self._store.bulk = self.lag_events() >= bound

    def _room(self) -> tuple[int, int]:
        """(events, bytes of their frames) of one batch at most: what `keys_aim` of the store takes
        of posts with some hundred followers each, in proportion when it aims at more."""
        batches = max(self._store.keys_aim // limits.WORKER_KEYS_AIM, 1)
        return limits.WORKER_EVENTS_MAX * batches, limits.WORKER_BYTES_MAX * batches

    def _apply_all(self, records: list[Record]) -> None:
        while records:
            batch = self._patiently(partial(self._worker.plan, records))
            self._worker.crash("planned")
            self._patiently(partial(self._worker.finish, batch))
            now_ms = self._now_ms()
            done, records = records[: batch.consumed], records[batch.consumed :]
            self.latency.add_many(now_ms - np.array([r.time_ms for r in done], dtype=np.int64))
            if batch.facts.quarantined or batch.facts.gaps:
                self._gaps = self._patiently(self._store.gaps)

    def _patiently(self, step: Callable[[], _Result]) -> _Result:
        """A step of the worker, however long the store is away; a stop gives up between tries."""
        waits = Backoff()
        while True:
            try:
                result = step()
                self._trouble = None
                return result
            except Unavailable as error:
                self._trouble = error
                log_.warning("cell %s waits for its store: %s", self.cell, error.message)
                if self._stop.wait(waits.next_s()):
                    raise

    def _settle(self, seen_at: int) -> None:
        """A partition applied to the end that was read at t counts as t (DESIGN 10)."""
        worker = self._worker
        self._settled_ms = min(
            seen_at if at >= end else time_ms
            for at, end, time_ms in zip(
                worker.next_offsets, self._ends, worker.times_ms, strict=True
            )
        )
        if self._rebuilding is not None and self._rebuilding.reached(worker.next_offsets):
            self._rebuilding.finish()
            self._rebuilding = None
            log_.info("cell %s is rebuilt", self.cell)
        if not self._caught_up:
            pairs = zip(worker.next_offsets, self._target, strict=True)
            self._caught_up = all(at >= target for at, target in pairs)

    def _is_at_end(self) -> bool:
        """Whether nothing is to be done but to note the time: asked 200 times a second, beside
        the thread that serves pages."""
        done = self._caught_up and self._rebuilding is None
        return done and self._ends == self._worker.next_offsets

    def _keep_graph(self, final: bool) -> None:
        """The graph's snapshot, when it has changed and it is time."""
        now = time.monotonic()
        toggles = self._worker.counts.toggles
        due = now - self._last_snapshot >= limits.GRAPH_SNAPSHOT_EVERY_MS / 1_000
        if toggles == self._saved_toggles or not (final or due):
            return
        self._last_snapshot = now  # one that failed is tried again when the next is due
        try:
            self._save_graph(list(self._worker.next_offsets))
        except Unavailable as error:  # it only makes a start fast: the store has the toggles
            log_.warning("cell %s could not keep its graph: %s", self.cell, error.message)
        else:
            self._saved_toggles = toggles
