"""Event -> id -> partition -> one synced commit shared by all who wait (DESIGN 1, step 1).

The caller's thread checks events, gives posts their ids and makes frames. One commit thread takes
everything that waits, within bounds, and appends it in one transaction: while that is being synced
the next group gathers, so there is no linger and no commit is wasted. What was answered is durable.

A failed append fails its whole group and nothing of it is kept; later groups are tried anew.
Any thread; the queue is bounded by entries and bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import msgspec

from engine import codec
from engine.errors import BadInput, FirecellError, TooLarge, Unavailable, Unprocessable, invariant
from engine.events import NO_ID, Event, Post
from engine.homing import partition_of
from engine.ids import id_ms
from engine.limits import (
    BATCH_BYTES_MAX,
    DRAIN_S,
    GROUP_COMMIT_ENTRIES_MAX,
    ID_AHEAD_MS_MAX,
    PUBLISH_QUEUE_BYTES_MAX,
    PUBLISH_QUEUE_ENTRIES_MAX,
    SETTLE_MARGIN_MS,
)
from engine.ports import Log
from topics.log_embedded import system_clock_ms
from topics.nodes import IdSource


class Published(NamedTuple):
    """Where an event lies now. `id`: a post's. `at_ms`: the event's own, else the append time."""

    id: int | None
    partition: int
    offset: int
    time_ms: int
    at_ms: int


Result = Published | FirecellError


class _Entry:
    """One event on its way: its place in the request, and its frame."""

    __slots__ = ("event", "frame", "index", "own_id", "partition")

    def __init__(
        self, index: int, event: Event, own_id: bool, partition: int, frame: bytes
    ) -> None:
        self.index = index
        self.event = event
        self.own_id = own_id  # made here, so it may be made again
        self.partition = partition
        self.frame = frame


class _Request:
    """One call's events; `refused` by place. `made_ms`: when its ids were made."""

    def __init__(self, count: int, made_ms: int) -> None:
        self.count = count
        self.made_ms = made_ms
        self.entries: list[_Entry] = []
        self.refused: dict[int, FirecellError] = {}
        self.size = 0
        self.future: Future[list[Result]] = Future()


def _nothing() -> None:
    """Nobody wants to know."""


class Publisher:
    """Publishes events to a log. `ids` None: posts must bring their own. `appended` is told, in
    the commit thread, of every append: it must not raise, and must not take long."""

    def __init__(
        self,
        log: Log,
        ids: IdSource | None,
        clock: Callable[[], int] = system_clock_ms,
        appended: Callable[[], None] = _nothing,
    ) -> None:
        self._log = log
        self._ids = ids
        self._clock = clock
        self._appended = appended
        self._changed = threading.Condition()  # guards the four below
        self._queue: deque[_Request] = deque()
        self._queued_entries = 0
        self._queued_bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="group commit", daemon=True)
        self._thread.start()

    def publish_many(self, events: Sequence[Event]) -> list[Result]:
        """Publish events in order and wait; per event where it lies, or why it was refused.

        Raises what `submit` raises. An error of the append stands for every event of the call.
        """
        return self.submit(events).result()

    async def publish_many_async(self, events: Sequence[Event]) -> list[Result]:
        """`publish_many` for an event loop. Making ids may sleep (see IdSource.take), so big
        batches are prepared better in a thread, by `submit`."""
        return await asyncio.wrap_future(self.submit(events))

    def submit(self, events: Sequence[Event]) -> Future[list[Result]]:
        """Check, number and enqueue events; the future has `publish_many`'s list. A future that is
        cancelled in time takes its events back.

        TooLarge over GROUP_COMMIT_ENTRIES_MAX events or BATCH_BYTES_MAX of frames; Unavailable
        when the queue is full or closed: then nothing was enqueued.
        """
        if len(events) > GROUP_COMMIT_ENTRIES_MAX:
            raise TooLarge(f"{len(events)} events at once; at most {GROUP_COMMIT_ENTRIES_MAX}")
        request = self._prepare(events)
        if request.size > BATCH_BYTES_MAX:
            raise TooLarge(f"{request.size} bytes of events at once; at most {BATCH_BYTES_MAX}")
        if request.entries:
            self._enqueue(request)
        else:
            request.future.set_result(_results(request, [], []))
        return request.future

    def close(self) -> None:
        """Refuse new events, append what waits, and end. Idempotent; not the log's or the ids'."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(DRAIN_S)
        with self._changed:
            left = list(self._queue)
            self._queue.clear()
        for request in left:
            if request.future.set_running_or_notify_cancel():
                request.future.set_exception(
                    Unavailable(f"the log took nothing for {DRAIN_S} s; publish again elsewhere")
                )

    def queued(self) -> tuple[int, int]:
        """(entries, bytes) that wait for the commit thread."""
        with self._changed:
            return self._queued_entries, self._queued_bytes

    # --- the caller's thread ----------------------------------------------------------------------

    def _prepare(self, events: Sequence[Event]) -> _Request:
        now_ms = self._clock()
        request = _Request(len(events), now_ms)
        wanting = [i for i, event in enumerate(events) if type(event) is Post and event.id == NO_ID]
        try:
            made = dict(zip(wanting, self._take(len(wanting)), strict=True))
        except FirecellError as error:
            made = {}
            request.refused = dict.fromkeys(wanting, error)
        for index, event in enumerate(events):
            if index in request.refused:
                continue
            own_id = index in made
            try:
                if own_id:
                    event = msgspec.structs.replace(event, id=made[index])
                entry = self._entry(index, event, own_id, now_ms)
            except FirecellError as error:
                request.refused[index] = error
                continue
            request.entries.append(entry)
            request.size += len(entry.frame)
        return request

    def _take(self, count: int) -> list[int]:
        if not count:
            return []
        if self._ids is None:
            raise BadInput("id: this process makes no ids; posts must bring their own", "id")
        return self._ids.take(count)

    def _entry(self, index: int, event: Event, own_id: bool, now_ms: int) -> _Entry:
        frame = _frame(event)
        if type(event) is Post and not own_id and id_ms(event.id) > now_ms + ID_AHEAD_MS_MAX:
            raise Unprocessable(
                f"post id {event.id} is {id_ms(event.id) - now_ms} ms ahead of the clock; at most"
                f" {ID_AHEAD_MS_MAX}: take one from GET /v1/ids, or check the machine's time",
                field="id",
            )
        partition = partition_of(event.account, self._log.partitions)
        return _Entry(index, event, own_id, partition, frame)

    def _enqueue(self, request: _Request) -> None:
        with self._changed:
            if self._closing:
                raise Unavailable("publishing is closing here; publish again in a moment")
            entries = self._queued_entries + len(request.entries)
            size = self._queued_bytes + request.size
            if entries > PUBLISH_QUEUE_ENTRIES_MAX or size > PUBLISH_QUEUE_BYTES_MAX:
                raise Unavailable(
                    f"{self._queued_entries} events ({self._queued_bytes} bytes) wait for the log"
                    " already; publish again in a moment"
                )
            self._queue.append(request)
            self._queued_entries, self._queued_bytes = entries, size
            self._changed.notify()

    # --- the commit thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while group := self._gather():
            self._commit([request for request in group if _claim(request)])

    def _gather(self) -> list[_Request]:
        """Everything that waits, within the bounds and at least one; empty: closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            group: list[_Request] = []
            entries = size = 0
            while self._queue:
                request = self._queue[0]
                entries += len(request.entries)
                size += request.size
                if group and (entries > GROUP_COMMIT_ENTRIES_MAX or size > BATCH_BYTES_MAX):
                    break
                group.append(self._queue.popleft())
                self._queued_entries -= len(request.entries)
                self._queued_bytes -= request.size
            return group

    def _commit(self, group: list[_Request]) -> None:
        """Append a group and answer everybody in it. No exception may end the commit thread:
        whatever goes wrong is the answer."""
        appended: list[tuple[int, int]] | FirecellError
        try:
            for request in group:
                self._renew(request)
            entries = [(e.partition, e.frame) for request in group for e in request.entries]
            appended = offsets = self._log.append(entries)
            invariant(len(offsets) == len(entries), "the log answered another number of entries")
            self._appended()
        except FirecellError as error:
            appended = error
        except Exception as error:
            for request in group:
                request.future.set_exception(error)
            return
        start = 0
        for request in group:
            if isinstance(appended, FirecellError):
                for entry in request.entries:
                    request.refused[entry.index] = appended
                request.future.set_result(_results(request, [], []))
                continue
            end = start + len(request.entries)
            request.future.set_result(_results(request, request.entries, appended[start:end]))
            start = end

    def _renew(self, request: _Request) -> None:
        """Ids that waited for longer than pages allow for are made anew (DESIGN 10): a page that
        was settled meanwhile must not lack the post for ever."""
        if self._clock() - request.made_ms <= SETTLE_MARGIN_MS:
            return
        old = [entry for entry in request.entries if entry.own_id]
        try:
            ids = self._take(len(old))
        except FirecellError as error:
            request.refused |= {entry.index: error for entry in old}
            request.entries = [entry for entry in request.entries if not entry.own_id]
            return
        for entry, post in zip(old, ids, strict=True):
            entry.event = msgspec.structs.replace(entry.event, id=post)
            entry.frame = codec.encode(entry.event)


def _frame(event: Event) -> bytes:
    """The frame of an event that every cell will accept; BadInput names what is wrong."""
    try:
        if type(event) is Post:
            codec.check_post(event)
            return codec.encode(event)
        frame = codec.encode(event)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"the event cannot be written: {error}") from None
    codec.decode(frame)
    return frame


def _claim(request: _Request) -> bool:
    return request.future.set_running_or_notify_cancel()


def _results(
    request: _Request, entries: Sequence[_Entry], appended: Sequence[tuple[int, int]]
) -> list[Result]:
    """One result per event, in the order of the call."""
    results: dict[int, Result] = dict(request.refused)
    for entry, (offset, time_ms) in zip(entries, appended, strict=True):
        event = entry.event
        post = event.id if type(event) is Post else None
        results[entry.index] = Published(
            post, entry.partition, offset, time_ms, event.at_ms or time_ms
        )
    return [results[index] for index in range(request.count)]
