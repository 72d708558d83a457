"""Replays: spans of the firehose that a cell applies again, beside live work (DESIGN 8).

A replay has positions of its own, kept in `folder/replays/ID.json`, so a killed one goes on where
it was; the live position never goes back, and no answer changes (I2). What it heals, and why it
may use the followers of today: cells/replay_worker.py. How much of the time it gets:
cells/replay_pace.py.

`step` is called by the thread that applies live batches, between two of them. Everything else may
be called from any thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from cells.replay_pace import Pace
from cells.replay_state import DONE, FAILED, RUNNING, STOPPED, Span, State, vector
from cells.replay_worker import ReplayWorker
from cells.runner import gather
from cells.worker import Batch
from engine import limits
from engine.errors import (
    Conflict,
    Corruption,
    FirecellError,
    NotFound,
    RetentionPassed,
    Unavailable,
)
from engine.ports import Log, Record
from engine.times import format_ms, parse_time_ms
from topics.environments import failure_of
from topics.locks import sync_folder, write_durably


@dataclass
class _Running:
    """What a running replay has in memory."""

    state: State
    worker: ReplayWorker | None = None
    left: list[Record] = field(default_factory=list)
    batch: Batch | None = None  # planned, not durable: the store was away
    not_before: float = 0.0
    kept_at: float = 0.0
    began_at: float = field(default_factory=time.monotonic)
    began_events: int = 0


class Replays:
    """The replays of one cell.

    new_worker   makes a worker at positions, for some accounts; None: all
    applied      the live positions
    settle       called with the bad records that a replay retried, when it is done
    mended       called when a replay that mended the graph is done: keep it anew
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        new_worker: Callable[[Sequence[int], list[int] | None], ReplayWorker],
        applied: Callable[[], list[int]],
        now_ms: Callable[[], int],
        *,
        settle: Callable[[list[tuple[int, int]]], None] = lambda places: None,
        mended: Callable[[], None] = lambda: None,
        pace: Pace,
    ) -> None:
        self._folder = folder / "replays"
        self._log = log
        self._new_worker = new_worker
        self._applied = applied
        self._now_ms = now_ms
        self._settle = settle
        self._mended = mended
        self.pace = pace
        self._lock = threading.Lock()
        self._file_lock = threading.Lock()
        self._states: dict[str, State] = self._load()
        self._running = {s.id: _Running(s) for s in self._states.values() if s.state == RUNNING}

    # --- files ---

    def _load(self) -> dict[str, State]:
        found: dict[str, State] = {}
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                state = msgspec.json.decode(path.read_bytes(), type=State)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Corruption(
                    f"{path} is no replay's state ({error}): remove it, and replay again"
                ) from None
            found[state.id] = state
        return found

    def _path(self, replay: str) -> Path:
        return self._folder / f"{replay}.json"

    def _keep(self, state: State) -> None:
        """From any thread: one file is written at a time. DiskFull, Unavailable."""
        path = self._path(state.id)
        try:
            with self._file_lock:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_durably(path, msgspec.json.encode(state))
        except OSError as error:
            raise failure_of(error, path) from error

    # --- what people ask ---

    def span(self, since: str, until: str | None) -> Span:
        """The span of two times, durations ago, vectors `0:12,1:7`, or `earliest`; up to what is
        applied. BadInput, RetentionPassed with the floor."""
        applied, floors = self._applied(), self._log.begin_offsets()
        start = self._place(since, "from", floors, applied)
        end = applied if until is None else self._place(until, "until", applied, applied)
        end = [min(pair) for pair in zip(end, applied, strict=True)]
        start = [min(pair) for pair in zip(start, end, strict=True)]
        below = {
            str(p): floor
            for p, floor in enumerate(floors)
            if start[p] < min(floor, end[p]) and since != "earliest"
        }
        if below:
            raise RetentionPassed(
                f"the firehose no longer has all events from {since} on: {len(below)} partitions"
                " begin later; `--from earliest` replays what there is",
                floor=below,
            )
        return Span(start, end)

    def _place(
        self, text: str, name: str, missing: Sequence[int], applied: Sequence[int]
    ) -> list[int]:
        """Next offsets for a place in time; partitions that a vector leaves out are `missing`."""
        if text == "earliest":
            return self._log.begin_offsets()
        if text == "latest":
            return list(applied)
        if ":" in text and "T" not in text and "-" not in text:
            return vector(text, name, missing)
        time_ms = parse_time_ms(text, name, self._now_ms())
        offsets = self._log.offsets_at(time_ms)
        if name == "from" and time_ms < self._oldest_ms():
            floors = self._log.begin_offsets()
            return [floor - 1 if floor else 0 for floor in floors]  # gone: the caller says so
        return offsets

    def _oldest_ms(self) -> int:
        """Append time of the oldest event that is kept; 0 for none. Retention goes by time, over
        all partitions."""
        return min((at for at in self._log.oldest_ms() if at >= 0), default=0)

    def describe(self, span: Span) -> dict[str, Any]:
        """A plan, JSON-ready."""
        floors = self._log.begin_offsets()
        rate = self._rate()
        places = zip(span.start, span.end, floors, strict=True)
        return {
            "events": span.events,
            "estimated_seconds": round(span.events / rate, 1) if rate else None,
            "partitions": {
                str(p): {"from": start, "to": end, "events": max(end - start, 0), "floor": floor}
                for p, (start, end, floor) in enumerate(places)
            },
        }

    def start(self, span: Span, settles: Sequence[tuple[int, int]] = ()) -> State:
        """Begin one; durable on return. Conflict when too many are running."""
        with self._lock:
            if len(self._running) >= limits.REPLAYS_MAX:
                raise Conflict(f"{limits.REPLAYS_MAX} replays are running: stop one first")
            now = self._now_ms()
            number = sum(1 for s in self._states.values() if s.created_ms == now)
            name = f"{now}-{number}" if number else str(now)
            state = State(name, span, list(span.start), now, list(settles))
            self._keep(state)
            self._states[state.id] = state
            self._running[state.id] = _Running(state)
            self._forget_old()
        return state

    def _forget_old(self) -> None:
        done = [s for s in self._states.values() if s.state != RUNNING]
        for state in done[: -limits.REPLAYS_DONE_KEPT]:
            del self._states[state.id]
            self._path(state.id).unlink(missing_ok=True)
            sync_folder(self._folder)

    def stop(self, replay: str) -> dict[str, Any]:
        """End it where it is. NotFound, Conflict (it is over)."""
        with self._lock:
            state = self._states.get(replay)
            if state is None:
                raise NotFound(f"there is no replay {replay!r}: see `firecell replay list`")
            if state.state != RUNNING:
                raise Conflict(f"replay {replay} is {state.state} already")
            self._end(state, STOPPED)
        return self.document(state)

    def documents(self) -> list[dict[str, Any]]:
        """All that are known, oldest first."""
        with self._lock:
            states = list(self._states.values())
        return [self.document(state) for state in states]

    def get(self, replay: str) -> dict[str, Any]:
        """One. NotFound."""
        state = self._states.get(replay)
        if state is None:
            raise NotFound(f"there is no replay {replay!r}: see `firecell replay list`")
        return self.document(state)

    def document(self, state: State) -> dict[str, Any]:
        """JSON-ready, with the time left."""
        total = state.span.events
        left = sum(max(e - a, 0) for a, e in zip(state.at, state.span.end, strict=True))
        running = self._running.get(state.id)
        seconds_left = None
        if running is not None and state.events > running.began_events:
            spent = time.monotonic() - running.began_at
            seconds_left = round(left * spent / (state.events - running.began_events), 1)
        return {
            "id": state.id,
            "state": state.state,
            "created_at": format_ms(state.created_ms),
            "events": total,
            "events_done": total - left,
            "seconds_left": seconds_left,
            "keys": state.keys,
            "mended": state.mended,
            "skipped": state.skipped,
            "seconds": round(state.seconds, 3),
            "at": {str(partition): offset for partition, offset in enumerate(state.at)},
            "error": state.error,
        }

    def stats(self) -> dict[str, float]:
        """For metrics."""
        running = list(self._running.values())
        left = sum(
            max(end - at, 0)
            for r in running
            for at, end in zip(r.state.at, r.state.span.end, strict=True)
        )
        return {"replays_running": float(len(running)), "replay_events_left": float(left)}

    def _rate(self) -> float:
        """Events a second of the newest replays' steps; 0 when there was none."""
        known = [s for s in self._states.values() if s.events and s.seconds > 0]
        return known[-1].events / known[-1].seconds if known else 0.0

    # --- the thread that applies ---

    def step(self, busy_s: float) -> bool:
        """A step of the oldest one that may go on; whether anything was done. `busy_s`: what live
        batches took so far."""
        running = next(iter(self._running.values()), None)
        if running is None:
            self.pace.look(busy_s)
            return False
        may = self.pace.may_step(busy_s)
        if not may or time.monotonic() < running.not_before:
            return False
        started = time.monotonic()
        try:
            self._advance(running)
        except Unavailable as error:
            running.not_before = time.monotonic() + limits.RETRY_FIRST_MS / 1_000
            running.state.error = error.message
        except Corruption:
            raise
        except FirecellError as error:
            running.state.error = error.message
            with self._lock, contextlib.suppress(Unavailable):  # a restart finds it running
                self._end(running.state, FAILED)
        spent = time.monotonic() - started
        running.state.seconds += spent
        self.pace.spent(spent)
        return True

    def _advance(self, running: _Running) -> None:
        """Plan a batch, or take the one that the store had no room for; make it durable."""
        state = running.state
        worker = running.worker
        if worker is None:
            worker = running.worker = self._new_worker(state.at, state.span.accounts)
            running.began_events = state.events
        if running.batch is None:
            if not running.left:
                worker, running.left = self._gather(running, worker)
            if not running.left:
                self._complete(running, worker)
                return
            worker.pace(self.pace.alone)
            running.batch = worker.plan(running.left)
        worker.crash("planned")
        batch = running.batch
        worker.finish(batch)
        running.batch, running.left = None, running.left[batch.consumed :]
        state.error = ""
        state.at = list(worker.next_offsets)
        state.events += batch.consumed
        state.keys += len(batch.facts.inbox)
        state.mended = max(state.mended, worker.mended)
        if time.monotonic() - running.kept_at >= limits.REPLAY_KEEP_S:
            self._keep(state)
            running.kept_at = time.monotonic()

    def _gather(
        self, running: _Running, worker: ReplayWorker
    ) -> tuple[ReplayWorker, list[Record]]:
        """(the worker, a new one if need be, and the next records of the span). What the retention
        took meanwhile is stepped over, and counted: live work has applied it long ago."""
        state = running.state
        floors = self._log.begin_offsets()
        at = [
            max(place, min(floor, end))
            for place, floor, end in zip(worker.next_offsets, floors, state.span.end, strict=True)
        ]
        lost = sum(at) - sum(worker.next_offsets)
        if lost:
            state.skipped += lost
            state.at = at
            running.worker = worker = self._new_worker(at, state.span.accounts)
        alone = self.pace.alone
        events = limits.WORKER_EVENTS_MAX if alone else limits.REPLAY_EVENTS_BESIDE
        try:
            found = gather(self._log, at, state.span.end, events, limits.WORKER_BYTES_MAX)
        except RetentionPassed as error:  # since the floors were looked at: look again
            raise Unavailable(error.message) from error
        return worker, found

    def _complete(self, running: _Running, worker: ReplayWorker) -> None:
        state = running.state
        if state.settles:
            self._settle(state.settles)
        if state.mended:
            self._mended()
        with self._lock:
            if state.state == RUNNING:  # else somebody stopped it just now
                self._end(state, DONE)

    def _end(self, state: State, how: Literal["done", "stopped", "failed"]) -> None:
        state.state, state.finished_ms = how, self._now_ms()
        self._running.pop(state.id, None)
        self._keep(state)

    def keep(self) -> None:
        """Keep all positions: at the end of the process, from the thread that applied."""
        for running in list(self._running.values()):
            with contextlib.suppress(Unavailable):  # the place that is kept lies further back
                self._keep(running.state)
