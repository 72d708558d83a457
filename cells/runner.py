"""The worker on the embedded log: one thread that reads the whole firehose and applies it.

Loop: look at the ends -> gather a batch -> worker steps 1-6 -> settled time, lag, group position;
where there is nothing to apply, or a pause is due, a step of what goes on beside (a replay).
A store that cannot be written is waited for with backoff, reads go on meanwhile (I11: a
dependency's failure is never bad input). Anything else that fails stops the runner with its error,
and the process ends with it. `stop` finishes the batch in hand, saves the graph, and returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from cells.progress import Parts, Progress, log_
from engine import limits
from engine.errors import FirecellError, Unavailable
from engine.ports import Log, Record

_GROUP_COMMIT_S = 1.0


class Runner(Progress):
    """Drives one worker; every public method may be called from any thread."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._thread = threading.Thread(target=self._run, name="fan-out", daemon=True)
        self._last_commit = 0.0

    def start(self) -> None:
        """Start applying."""
        self._thread.start()

    def stop(self, deadline_s: float) -> bool:
        """Finish the batch in hand, keep positions and graph; False when the deadline passed."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            busy_at = time.monotonic()
            while not self._stop.is_set():
                worked = self._pass()
                worked |= self._do_between()
                if worked:
                    busy_at = time.monotonic()
                    continue
                if time.monotonic() - busy_at > limits.WORKER_REST_S:
                    self._rest()
                    busy_at = time.monotonic()  # and again after as long
                self._stop.wait(limits.WORKER_POLL_MS / 1_000)
            self._keep_place(final=True)
        except BaseException as error:
            self.failure = error
            known = isinstance(error, FirecellError)
            log_.error("cell %s stopped: %s", self.cell, error, exc_info=not known)
        finally:
            self._cancel_between()

    def _rest(self) -> None:
        try:
            self._store.rest()
        except Unavailable as error:  # pages are slower, nothing else
            log_.warning("cell %s could not rest: %s", self.cell, error.message)

    def _pass(self) -> bool:
        """One look at the log; whether there was anything to do."""
        seen_at = self._now_ms()
        self._ends = self._log.end_offsets()
        if self._is_at_end():
            self._settled_ms = seen_at
            self._keep_place(final=False)
            return False
        records = self._gather()
        self._apply(records, lambda: self._settle_and_keep(seen_at))
        return bool(records)

    def _settle_and_keep(self, seen_at: int) -> None:
        self._settle(seen_at)
        self._keep_place(final=False)

    def _gather(self) -> list[Record]:
        return gather(self._log, self._worker.next_offsets, self._ends, *self._room())

    def _keep_place(self, final: bool) -> None:
        """The group's position (for lag, never ahead of durable) and the graph's snapshot."""
        now = time.monotonic()
        if final or now - self._last_commit >= _GROUP_COMMIT_S:
            self._last_commit = now
            self._commit_position()
        self._keep_graph(final)

    def _commit_position(self) -> None:
        group = f"cell.{self.cell}"
        position = dict(enumerate(self._worker.next_offsets))
        try:
            if self._log.committed(group) != position:
                self._log.commit(group, position)
        except Unavailable as error:  # the store's own vector is the truth
            log_.warning("cell %s could not commit its group: %s", self.cell, error.message)


def gather(
    log: Log, at: Sequence[int], ends: Sequence[int], events_max: int, bytes_max: int
) -> list[Record]:
    """A batch from `at` up to `ends`: a fair share of every partition that has something."""
    waiting = [partition for partition, end in enumerate(ends) if end > at[partition]]
    records: list[Record] = []
    left, room = events_max, bytes_max
    for index, partition in enumerate(waiting):
        share = len(waiting) - index
        fair = max(min(left // share, limits.READ_RECORDS_MAX), 1)
        most = min(fair, ends[partition] - at[partition])
        fair_bytes = max(min(room // share, limits.READ_BYTES_MAX), 1)
        got = log.read(partition, at[partition], most, fair_bytes)
        left -= len(got)
        room -= sum(len(record.frame) for record in got)
        records += got
    return records
