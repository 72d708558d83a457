"""The cell on Kafka: one Faust app per cell, its group `cell.<name>`. No logic of its own.

Faust reads, keeps the place in the group and hands batches on; `cells.worker` does what is to be
done, as on the embedded log. In order:

1. before the app joins   the group gets the store's durable vector where it has none, read back
2. take                   `noack_take`: nothing is acknowledged by Faust itself
3. apply                  worker steps 1-6 in ONE thread; heartbeats go on beside it. A store that
                          cannot be written is waited for with backoff inside
4. acknowledge            in the order of offsets, and only what is durable
5. give up                what cannot go on ends the process; nothing is skipped. Offsets that do
                          not continue stop the worker (I8), whatever Kafka or Faust did

`firecell cell NAME` runs this in a thread beside the cell's HTTP (`FaustRunner`); plain
`FIRECELL_CELL=c1 faust -A cells.app worker` runs the same app under Faust's own command line.
Kafka being away is survived: the app is made anew until it is back, pages are served meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

from cells.faust_app import build_app, leave
from cells.progress import Parts, Progress, log_
from engine import limits
from engine.errors import FirecellError, Precondition, RetentionPassed, Unavailable
from engine.ports import Record
from topics.backoff import Backoff
from topics.kafka_records import relayed
from topics.urls import KafkaPlace


class FaustRunner(Progress):
    """Drives one worker with Faust; the public methods are those of `cells.runner.Runner`."""

    def __init__(
        self, parts: Parts, *, place: KafkaPlace, folder: Path, shared: bool
    ) -> None:
        """`folder` is for what Faust keeps; `shared`: other workers may be in the group."""
        super().__init__(parts)
        self.shared = shared
        self.place = place
        self.folder = folder
        self.group = f"cell.{self.cell}"
        self._apply_pool = ThreadPoolExecutor(1, thread_name_prefix="fan-out")
        self._thread = threading.Thread(target=self._run, name="faust", daemon=True)
        self._looking = threading.Thread(target=self._look, name="ends", daemon=True)
        self._batches_in_hand = 0  # on the apps' loop only
        self.apps_started = 0

    # --- the life beside HTTP ---

    def start(self) -> None:
        """Start applying."""
        self.look()
        self._thread.start()

    def look(self) -> None:
        """Start to look at the ends of the firehose; the app is somebody else's."""
        self._looking.start()

    def stop(self, deadline_s: float) -> bool:
        """Finish the batches in hand, acknowledge them, leave the group, keep the graph; False
        when the deadline passed."""
        deadline = time.monotonic() + deadline_s
        self.begin_stop()
        for thread in (self._thread, self._looking):
            if thread.is_alive():
                thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.ident is None:  # another one's app: its batches are done (finish_in_hand)
            self._end_applying()
        return not (self._thread.is_alive() or self._looking.is_alive())

    def _end_applying(self) -> None:
        self._apply_pool.shutdown(wait=True)
        with contextlib.suppress(OSError, FirecellError):
            self._keep_graph(final=True)

    def _run(self) -> None:
        """Apps, one after the other, until told to stop. Only Kafka's absence leads to the next."""
        waits = Backoff()
        try:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    self.prepare()
                    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
                        loop.run(self._one_app())
                except Unavailable as error:
                    self._trouble = error
                    log_.warning("cell %s waits for Kafka: %s", self.cell, error.message)
                if self.failure is not None:
                    return
                if time.monotonic() - started > limits.RESTART_HEALTHY_S:
                    waits.reset()
                self._stop.wait(waits.next_s())
        except BaseException as error:
            self.fail(error)
        finally:
            self._end_applying()

    async def _one_app(self) -> None:
        """One app's life. It ends when told to stop, or when it crashed: Kafka is away, or took
        its place in the group for dead."""
        app = build_app(self)
        self.apps_started += 1
        try:
            await app.start()
            while not (self._stop.is_set() or app.should_stop or self.failure is not None):
                await asyncio.sleep(limits.WAIT_STEP_S)
            crashed = getattr(app, "_crash_reason", None)
            if crashed is not None and not self._stop.is_set():
                raise _reason(crashed, self.group)
        finally:
            await self.finish_in_hand()
            await leave(app)

    def _look(self) -> None:
        try:
            self._keep_looking()
        except BaseException as error:  # else nobody would learn how far the cell is any more
            self.fail(error)
        finally:
            self._cancel_between()

    def _keep_looking(self) -> None:
        """Ends, settled time and readiness, apart from the applying."""
        following: Future[None] | None = None
        beside: Future[None] | None = None
        away: FirecellError | None = None
        while not self._stop.wait(limits.ENDS_EVERY_S):
            seen_at = self._now_ms()
            try:
                self._ends = self._log.end_offsets()
            except FirecellError as error:
                self._trouble = away = error
                continue
            if away is not None and self._trouble is away:
                self._trouble = None  # it is back, perhaps with nothing to apply
            if self.shared and (following is None or following.done()):
                with contextlib.suppress(RuntimeError):  # the pool has ended
                    following = self._apply_pool.submit(self._follow_others, None)
            self._settle(seen_at)
            wanted = bool(self._tasks) or self.aside is not None
            if wanted and (beside is None or beside.done()):
                with contextlib.suppress(RuntimeError):
                    beside = self._apply_pool.submit(self._beside)

    def _beside(self) -> None:
        """On the thread that applies, between two batches: at most as long as to the next look."""
        until = time.monotonic() + limits.ENDS_EVERY_S
        try:
            while self._do_between() and time.monotonic() < until and not self._batches_in_hand:
                pass
        except FirecellError as error:
            self.fail(error)

    def _follow_others(self, upto: dict[int, int] | None) -> None:
        """Between two batches, on the thread that applies: what other workers of this cell have
        made durable meanwhile goes into the graph and out of the caches. A partition that comes
        here by a rebalance is brought to its first record, `upto`, in the same way."""
        worker = self._worker
        try:
            durable = self._refuse_older_store()
            for partition, end in (dict(enumerate(durable)) if upto is None else upto).items():
                if durable[partition] < end:
                    continue  # a hole: the worker says so
                while (at := worker.next_offsets[partition]) < end and not self._stop.is_set():
                    most = min(end - at, limits.READ_RECORDS_MAX)
                    worker.follow_other(
                        self._log.read(partition, at, most, limits.READ_BYTES_MAX)
                    )
        except Unavailable as error:
            self._trouble = error
        except FirecellError as error:
            self.fail(error)

    def _refuse_older_store(self) -> list[int]:
        """The durable vector. Precondition when this process has applied more: what comes again
        below that it would drop as seen, into a store that has not seen it (I8)."""
        mine = list(self._worker.next_offsets)  # first: it only grows, and after the store
        durable, _ = self._store.positions()
        for partition, (at, applied) in enumerate(zip(durable, mine, strict=True)):
            if at < applied:
                raise Precondition(
                    f"the store of cell {self.cell} is behind what this process has applied, {at}"
                    f" and not {applied} in partition {partition}: it was restored or rebuilt"
                    " meanwhile; start the process anew"
                )
        return durable

    # --- what the app asks for ---

    def prepare(self) -> None:
        """Step 1: the group's positions from the store's durable vector, before anybody joins.

        While the group has members (other workers, or a killed one whose session is not over),
        Kafka takes none: then what is there must do. Precondition when it does not do, and when
        the store was, or is being, restored.
        """
        durable = self._refuse_older_store()
        self._store.check_whole(self.cell)
        deadline = time.monotonic() + limits.FAUST_GROUP_WAIT_S
        while True:
            committed = self._log.committed(self.group)
            ahead = {p: at for p, at in committed.items() if at > durable[p]}
            if ahead and not self._batches_in_hand:
                partition, at = min(ahead.items())
                raise Precondition(
                    f"group {self.group} is at {at} in partition {partition}, ahead of the durable"
                    f" {durable[partition]} of the cell: its store is older than its group"
                    " (restored?); remove the group's position or restore the newer store"
                )
            wrong = {p: at for p, at in enumerate(durable) if committed.get(p) != at}
            if not wrong:
                return
            try:
                self._log.commit(self.group, wrong)
                return
            except Precondition as active:
                begins = self._log.begin_offsets()
                if all(committed.get(p, -1) >= begin for p, begin in enumerate(begins)):
                    return  # below durable is harmless: the worker drops what it has seen
                if time.monotonic() > deadline or self._stop.is_set():
                    raise active
            self._stop.wait(limits.RETRY_FIRST_MS / 1_000)

    async def take(self, stream: Any) -> None:
        """Steps 2-4, for the life of one agent. What comes while a batch is applied gathers for the
        next one, so a busy worker takes few and large batches: as large as on the embedded log,
        and cut by the worker where the store aims at no more keys."""
        gc.freeze()  # what is there now stays; each event makes a dozen objects, in no cycles
        gc.set_threshold(limits.FAUST_COLLECT_OBJECTS)
        waiting = Waiting()
        room = asyncio.Event()
        applying: asyncio.Task[None] | None = None
        taken = stream.noack_take(limits.FAUST_TAKE_EVENTS, within=limits.FAUST_WITHIN_S)
        try:
            async for events in taken:
                waiting.add(events)
                if applying is None or applying.done():
                    applying = asyncio.create_task(self._apply_waiting(waiting, room))
                while waiting.fills(*self._room()) and not applying.done():
                    room.clear()
                    await room.wait()
                if self._stop.is_set() or self.failure is not None:
                    break  # not acknowledged, so they come again
            await asyncio.Event().wait()  # an agent that returns would be started again
        finally:
            if applying is not None:
                applying.cancel()

    async def _apply_waiting(self, waiting: Waiting, room: asyncio.Event) -> None:
        """Steps 3 and 4, one batch after the other, until nothing waits."""
        loop = asyncio.get_running_loop()
        try:
            while waiting.events and self.failure is None and not self._stop.is_set():
                events = waiting.take(*self._room())
                room.set()
                records = [record_of(event.message) for event in events]
                self._batches_in_hand += 1
                try:
                    applied = loop.run_in_executor(self._apply_pool, self._apply_batch, records)
                    await self._acknowledge(applied, events)
                finally:
                    self._batches_in_hand -= 1
        finally:
            room.set()

    async def _acknowledge(self, applied: asyncio.Future[None], events: list[Any]) -> None:
        """Step 4."""
        try:
            await asyncio.wait_for(asyncio.shield(applied), limits.FAUST_BATCH_S_MAX)
            for event in events:
                event.ack()
        except TimeoutError:
            self.fail(
                Unavailable(
                    f"cell {self.cell}: a batch is not durable after {limits.FAUST_BATCH_S_MAX} s:"
                    " its store hangs"
                )
            )
        except Exception as error:
            self.fail(error)

    def _apply_batch(self, records: list[Record]) -> None:
        if self.failure is not None:
            raise Precondition("an earlier batch failed: this one must not overtake it")
        try:
            if self.shared:
                self._follow_to(records)
            self._apply(records, lambda: self._keep_graph(final=False))
        except BaseException as error:
            self.fail(error)  # on this thread, before it takes the next batch in its queue
            raise

    def _follow_to(self, records: list[Record]) -> None:
        """Bring partitions that came here by a rebalance to the first record taken of each."""
        firsts: dict[int, int] = {}
        for record in records:
            firsts.setdefault(record.partition, record.offset)
        at = self._worker.next_offsets
        ahead = {p: first for p, first in firsts.items() if first > at[p]}
        if ahead:
            self._follow_others(ahead)

    async def finish_in_hand(self) -> None:
        """Wait for the batches in hand, and for their acknowledgements, within the drain."""
        deadline = time.monotonic() + limits.DRAIN_S - limits.FAUST_STOP_S
        while self._batches_in_hand and self.failure is None and time.monotonic() < deadline:
            await asyncio.sleep(limits.WORKER_POLL_MS / 1_000)

    def fail(self, error: BaseException) -> None:
        """Step 5: keep the first error; whoever owns the process ends it."""
        if self.failure is None:
            self.failure = error
            known = isinstance(error, FirecellError)
            log_.error("cell %s stopped: %s", self.cell, error, exc_info=None if known else error)


class Waiting:
    """Events that were taken, of which no batch has been made yet. On the app's loop only."""

    def __init__(self) -> None:
        self.events: deque[Any] = deque()
        self.bytes = 0  # of their frames; an event costs some 500 beside its own (measured)

    def add(self, events: list[Any]) -> None:
        """Behind those that wait."""
        self.events += events
        self.bytes += sum(map(_size, events))

    def fills(self, events_max: int, bytes_max: int) -> bool:
        """Whether they are a batch that has no room left."""
        return len(self.events) >= events_max or self.bytes >= bytes_max

    def take(self, events_max: int, bytes_max: int) -> list[Any]:
        """The first of them, within both bounds; at least one."""
        taken: list[Any] = []
        size = 0
        while self.events and len(taken) < events_max:
            size += _size(self.events[0])
            if taken and size > bytes_max:
                break
            taken.append(self.events.popleft())
        self.bytes -= sum(map(_size, taken))
        return taken


def _size(event: Any) -> int:
    return len(event.message.value or b"")


def record_of(message: Any) -> Record:
    """A message of Faust as a record. Its time is in seconds there; ours was milliseconds."""
    frame = message.value or b""
    if message.headers:
        headers = message.headers
        copied = relayed(headers.items() if isinstance(headers, dict) else headers, frame)
        if copied is not None:
            return copied
    return Record(message.partition, message.offset, round(message.timestamp * 1_000), frame)


def _reason(crashed: BaseException, group: str) -> FirecellError:
    """Why an app crashed, as one of ours: a lost offset is a precondition, all else passes."""
    if type(crashed).__name__ in ("NoOffsetForPartitionError", "OffsetOutOfRangeError"):
        return RetentionPassed(
            f"group {group}: Kafka no longer has the events at its position: {crashed}; start the"
            " cell once with --accept-gap to record the gap and go on"
        )
    return Unavailable(f"Faust's app of {group} crashed: {type(crashed).__name__}: {crashed}")


def __getattr__(name: str) -> Any:
    """`cells.app:app`, made when `faust -A cells.app` asks for it; needs FIRECELL_CELL."""
    if name != "app":
        raise AttributeError(f"module 'cells.app' has no attribute {name!r}")
    from cells.faust_worker import plain_app

    made = plain_app(os.environ)
    globals()["app"] = made
    return made
