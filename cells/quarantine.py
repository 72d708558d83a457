"""Bad records that a cell has kept: shown, tried again after a fix, or given up.

A quarantined record is a gap of one event (I11). *Retry* applies it as if it had been good all
along: the record, then everything about the same account since, as a replay (cells/replay.py), so
later follows get the backfills and floors that they would have had, and later posts reach a reader
whose follow comes late. What the firehose no longer holds of that is made up from the outbox.
*Drop* forgets the bytes and leaves the gap, so that no page claims what it does not have.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from cells.replay_state import Span, State
from engine import limits
from engine.codec import decode
from engine.errors import BadInput, Conflict, FirecellError, NotFound, Unprocessable
from engine.events import FOLLOW, KIND_NAMES, Event, Relation
from engine.homing import partition_of
from engine.keys import INBOX_KEY_BYTES, inbox_key, outbox_key
from engine.ports import Gap, Record, Store
from engine.timeline import covers, fold_toggles
from engine.times import format_ms

if TYPE_CHECKING:
    from cells.cell import Cell

DROPPED = "quarantined and dropped: "  # what the gap of a dropped record begins with


def dropped_places(store: Store) -> Set[tuple[int, int]]:
    """Where records were given up."""
    gaps = store.gaps()
    return frozenset((g.partition, g.first_offset) for g in gaps if g.cause.startswith(DROPPED))


def listed(store: Store) -> list[dict[str, Any]]:
    """All that are kept, JSON-ready, by place."""
    return [document(*kept) for kept in store.quarantined(limits.QUARANTINE_LIST_MAX)]


def document(record: Record, cause: str) -> dict[str, Any]:
    """One, JSON-ready: with what it is read as now."""
    event, problem = _read(record)
    return {
        "position": f"{record.partition}:{record.offset}",
        "appended_at": format_ms(record.time_ms),
        "cause": cause,
        "bytes": len(record.frame),
        "frame": record.frame.hex(),
        "reads_as": KIND_NAMES[event.kind] if event is not None else None,
        "problem": problem,
    }


def kept(store: Store, place: tuple[int, int]) -> tuple[Record, str]:
    """One by its place. NotFound."""
    for record, cause in store.quarantined(limits.QUARANTINE_LIST_MAX):
        if (record.partition, record.offset) == place:
            return record, cause
    raise NotFound(f"no bad record is kept at {place[0]}:{place[1]}: see quarantine list")


def _read(record: Record) -> tuple[Event | None, str]:
    """(the event that the frame is to this version, what is wrong with it)."""
    try:
        return decode(record.frame), ""
    except FirecellError as error:
        return None, error.message


def check(record: Record, partitions: int) -> Event:
    """The event of a record that can be retried; Unprocessable when it is as bad as before."""
    event, problem = _read(record)
    where = f"{record.partition}:{record.offset}"
    if event is None:
        raise Unprocessable(f"the record at {where} is still bad: {problem}; fix that, or drop it")
    if partition_of(event.account, partitions) != record.partition:
        raise Unprocessable(f"the event at {where} lies in another partition than its account's")
    return event


def drop(store: Store, places: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Give records up: the bytes go, gaps stay."""
    found = [kept(store, place) for place in places]
    gaps = [
        Gap(r.partition, r.offset, r.offset, r.time_ms, r.time_ms, f"{DROPPED}{cause}")
        for r, cause in found
    ]
    store.settle_quarantined(list(places), gaps)
    return [document(*each) for each in found]


def retry(cell: Cell, place: tuple[int, int]) -> State:
    """Begin to apply a record as if it had been good: a replay of its account since. Any thread.
    NotFound, Unprocessable (still bad), Conflict."""
    record, _ = kept(cell.store, place)
    account = check(record, cell.log.partitions).account
    replays = cell.replays
    if replays is None:
        raise Conflict(f"cell {cell.name} replays nothing in this process")
    span = cell.between(lambda: _first(cell, record, account))
    return replays.start(span, [place])


def _first(cell: Cell, record: Record, account: int) -> Span:
    """The record itself; what is left to apply of its account. Between two batches."""
    applied = list(cell.worker.next_offsets)
    partition = record.partition
    if record.offset >= applied[partition]:
        raise BadInput(f"position {partition}:{record.offset} is not applied yet")
    start = list(applied)
    start[partition] = record.offset
    worker = cell.replay_worker(start, [account])
    batch = worker.plan([record])
    if batch.facts.quarantined:
        raise Unprocessable(f"the record is still bad: {batch.facts.quarantined[0][1]}")
    worker.finish(batch)
    floor = cell.log.begin_offsets()[partition]
    start[partition] = min(max(record.offset + 1, floor), applied[partition])
    return Span(start, applied, [account])


def settle(cell: Cell, places: Sequence[tuple[int, int]]) -> None:
    """The replay of retried records is done: what their follows show from before the firehose's
    oldest event comes from the outbox; then they are bad no more. On the thread that applies."""
    for place in places:
        record = next(
            (r for r, _ in cell.store.quarantined(limits.QUARANTINE_LIST_MAX) if r[:2] == place),
            None,
        )
        event = decode(record.frame) if record is not None else None
        if isinstance(event, Relation) and event.kind == FOLLOW:
            materialize(cell.store, event.reader, event.author)
    cell.store.settle_quarantined(list(places), [])
    cell.runner.look_at_gaps()


def materialize(store: Store, reader: int, author: int) -> int:
    """Write the inbox key of every post in the outbox that the rule shows to `reader`; how many."""
    toggles = store.toggles_between(reader, author)
    interval = fold_toggles((t.offset, t.follows, t.floor) for t in toggles)
    if interval is None:
        return 0
    written, before = 0, b""
    while True:
        entries = store.outbox(author, before, limits.OUTBOX_SCAN_KEYS)
        keys = [
            inbox_key(reader, entry.post, author)
            for entry in entries
            if entry.delete_offset < 0 and covers(interval, entry.offset, entry.post)
        ]
        if keys:
            raw = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, INBOX_KEY_BYTES)
            store.write_inbox(raw)
        written += len(keys)
        if len(entries) < limits.OUTBOX_SCAN_KEYS:
            return written
        before = outbox_key(author, entries[-1].post)
