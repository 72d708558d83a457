"""The worker on the embedded log: one thread that reads the whole firehose and applies it.

Loop: look at the ends -> gather a batch -> worker steps 1-6 -> settled time, lag, group position.
A store that cannot be written is waited for with backoff, reads go on meanwhile (I11: a
dependency's failure is never bad input). Anything else that fails stops the runner with its error,
and the process ends with it. `stop` finishes the batch in hand, saves the graph, and returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from cells.worker import Batch, Worker
from engine import limits
from engine.errors import FirecellError, Unavailable
from engine.ports import Gap, Log, Record, Store
from topics.histogram import Histogram

log_ = logging.getLogger("firecell.runner")
_GROUP_COMMIT_S = 1.0


class Runner:
    """Drives one worker; every public method may be called from any thread."""

    def __init__(
        self,
        cell: str,
        log: Log,
        store: Store,
        worker: Worker,
        save_graph: Callable[[list[int]], None],
        now_ms: Callable[[], int],
    ) -> None:
        self.cell = cell
        self._log = log
        self._store = store
        self._worker = worker
        self._save_graph = save_graph
        self._now_ms = now_ms
        self._target = log.end_offsets()  # ready once all of this is applied
        self._ends = list(self._target)
        self._settled_ms = 0
        self._gaps = store.gaps()
        self._quarantined_seen = 0
        self._stop = threading.Event()
        self._caught_up = False
        self._trouble: FirecellError | None = None
        self._thread = threading.Thread(target=self._run, name="fan-out", daemon=True)
        self._started = time.monotonic()
        self._last_commit = 0.0
        self._last_snapshot = time.monotonic()
        self._saved_toggles = 0
        self.latency = Histogram()  # from append to durable here, ms
        self.failure: BaseException | None = None

    # --- what others ask ---

    def start(self) -> None:
        """Start applying."""
        self._thread.start()

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
        """Changes with every batch."""
        return self._worker.counts.batches

    def settled_ms(self) -> int:
        """Everything appended before this Unix ms is applied, less the margin."""
        return max(self._settled_ms - limits.SETTLE_MARGIN_MS, 0)

    def gaps(self) -> list[Gap]:
        """Spans that are not covered."""
        return self._gaps

    def lag_events(self) -> int:
        """Events between the applied position and the end as last seen."""
        pairs = zip(self._ends, self._worker.next_offsets, strict=True)
        return sum(max(end - at, 0) for end, at in pairs)

    def lag_seconds(self) -> float:
        """Age of the newest moment up to which everything is applied."""
        return max(self._now_ms() - self._settled_ms, 0) / 1_000 if self._settled_ms else 0.0

    def status(self) -> dict[str, Any]:
        """JSON-ready, for `firecell status`."""
        durable, _ = self._store.positions()
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
            "gaps": [gap._asdict() for gap in self._gaps],
            "rates": self._rates(),
        }

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
            "gaps": len(self._gaps),
            "lag_events": self.lag_events(),
            "lag_seconds": self.lag_seconds(),
            "ready": float(self.ready),
        }
        numbers |= {f"step_{name}_seconds_total": spent for name, spent in counts.seconds.items()}
        numbers |= {f"store_{name}": value for name, value in self._store.stats().items()}
        return numbers

    def _rates(self) -> dict[str, float]:
        seconds = max(time.monotonic() - self._started, 1e-3)
        counts = self._worker.counts
        return {
            "events_per_second": round(counts.events / seconds, 1),
            "inbox_keys_per_second": round(counts.inbox_keys / seconds, 1),
        }

    # --- the thread ---

    def stop(self, deadline_s: float) -> bool:
        """Finish the batch in hand, keep positions and graph; False when the deadline passed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            busy_at = time.monotonic()
            while not self._stop.is_set():
                if self._pass():
                    busy_at = time.monotonic()
                    continue
                if time.monotonic() - busy_at > limits.WORKER_REST_S:
                    self._store.rest()
                self._stop.wait(limits.WORKER_POLL_MS / 1_000)
            self._keep_place(final=True)
        except BaseException as error:
            self.failure = error
            known = isinstance(error, FirecellError)
            log_.error("cell %s stopped: %s", self.cell, error, exc_info=not known)

    def _pass(self) -> bool:
        """One look at the log; whether there was anything to do."""
        seen_at = self._now_ms()
        self._ends = self._log.end_offsets()
        records = self._gather()
        started = time.monotonic()
        keys_before = self._worker.counts.inbox_keys
        self._apply_all(records)
        self._settle(seen_at)
        self._keep_place(final=False)
        if self._worker.counts.inbox_keys - keys_before >= limits.RUN_KEYS_MIN:
            linger = limits.WORKER_LINGER_MS / 1_000 * self._store.pressure()
            self._stop.wait(max(linger - (time.monotonic() - started), 0))
        return bool(records)

    def _gather(self) -> list[Record]:
        """A batch: a fair share of every partition that has something."""
        at = self._worker.next_offsets
        waiting = [p for p, end in enumerate(self._ends) if end > at[p]]
        records: list[Record] = []
        left, room = limits.WORKER_EVENTS_MAX, limits.WORKER_BYTES_MAX
        for index, partition in enumerate(waiting):
            share = len(waiting) - index
            records_max = max(min(left // share, limits.READ_RECORDS_MAX), 1)
            bytes_max = max(min(room // share, limits.READ_BYTES_MAX), 1)
            got = self._log.read(partition, at[partition], records_max, bytes_max)
            left -= len(got)
            room -= sum(len(record.frame) for record in got)
            records += got
        return records

    def _apply_all(self, records: list[Record]) -> None:
        while records:
            batch = self._worker.plan(records)
            self._worker.crash("planned")
            self._finish(batch)
            now_ms = self._now_ms()
            done, records = records[: batch.consumed], records[batch.consumed :]
            self.latency.add_many(now_ms - np.array([r.time_ms for r in done], dtype=np.int64))
            if batch.facts.quarantined or batch.facts.gaps:
                self._gaps = self._store.gaps()

    def _finish(self, batch: Batch) -> None:
        """Make a batch durable, however long the store is away; a stop gives up between tries."""
        wait_ms = limits.RETRY_FIRST_MS
        while True:
            try:
                self._worker.finish(batch)
                self._trouble = None
                return
            except Unavailable as error:
                self._trouble = error
                log_.warning("cell %s waits for its store: %s", self.cell, error.message)
                if self._stop.wait(wait_ms / 1_000):
                    raise
                wait_ms = min(wait_ms * 2, limits.RETRY_MS_MAX)

    def _settle(self, seen_at: int) -> None:
        """A partition applied to the end that was read at t counts as t (DESIGN 10)."""
        worker = self._worker
        self._settled_ms = min(
            seen_at if at >= end else time_ms
            for at, end, time_ms in zip(
                worker.next_offsets, self._ends, worker.times_ms, strict=True
            )
        )
        if not self._caught_up:
            pairs = zip(worker.next_offsets, self._target, strict=True)
            self._caught_up = all(at >= target for at, target in pairs)

    def _keep_place(self, final: bool) -> None:
        """The group's position (for lag, never ahead of durable) and the graph's snapshot."""
        now = time.monotonic()
        if final or now - self._last_commit >= _GROUP_COMMIT_S:
            self._last_commit = now
            self._commit_position()
        toggles = self._worker.counts.toggles
        due = now - self._last_snapshot >= limits.GRAPH_SNAPSHOT_EVERY_MS / 1_000
        if toggles != self._saved_toggles and (final or due):
            self._save_graph(list(self._worker.next_offsets))
            self._last_snapshot, self._saved_toggles = now, toggles

    def _commit_position(self) -> None:
        group = f"cell.{self.cell}"
        position = dict(enumerate(self._worker.next_offsets))
        try:
            if self._log.committed(group) != position:
                self._log.commit(group, position)
        except Unavailable as error:  # the store's own vector is the truth
            log_.warning("cell %s could not commit its group: %s", self.cell, error.message)
