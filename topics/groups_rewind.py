"""What is known of the groups, and rewinding them: plans first, then positions, read back.

The words are Kafka's (`kafka-consumer-groups --reset-offsets`), and so is their meaning: a target
below the oldest kept event or past the end is clamped, and says so. Rewinding the group of a cell
is a replay, which is another command.

Asks the log in the caller's thread; nothing here is kept between calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.errors import BadInput, NotFound, Precondition, Unavailable
from engine.limits import REWIND_SAMPLE_RECORDS, REWIND_SAMPLE_S, STREAM_PAGE_BYTES
from engine.times import format_ms, parse_duration_ms, parse_time_ms
from topics.catalog import RESERVED_PREFIXES, check_group_name
from topics.filters import ALL
from topics.groups_shapes import RewindIn, RewindPart, RewindPlan
from topics.stream_json import lines_of
from topics.stream_since import StreamLog


def known(log: StreamLog, group: str) -> dict[int, int]:
    """The checkpoint of a group; NotFound for one that never had any."""
    found = log.committed(check_group_name(group))
    if not found:
        raise NotFound(f"there is no group {group!r}; `firecell groups list` names them")
    return found


def group_facts(log: StreamLog, group: str, now_ms: int) -> dict[str, Any]:
    """Checkpoint, lag and what the retention leaves of one group, JSON-ready."""
    committed = known(log, group)
    begins, ends = log.begin_offsets(), log.end_offsets()
    rows = []
    for partition, offset in sorted(committed.items()):
        lag = max(ends[partition] - offset, 0)
        passed = offset < begins[partition]
        next_ms = None
        if lag and not passed:
            records = log.read(partition, offset, 1, 1)
            next_ms = records[0].time_ms if records else None
        rows.append(
            {
                "partition": partition,
                "checkpoint": offset,
                "begin": begins[partition],
                "end": ends[partition],
                "lag": lag,
                "next_at": None if next_ms is None else format_ms(next_ms),
                "below_floor": passed,
            }
        )
    return {
        "group": group,
        "reserved": group.startswith(RESERVED_PREFIXES),
        "lag": sum(row["lag"] for row in rows),
        "below_floor": any(row["below_floor"] for row in rows),
        "retention_left_seconds": _left(rows, log.retention_ms, now_ms),
        "partitions": rows,
    }


def _left(rows: list[dict[str, Any]], retention_ms: int, now_ms: int) -> float | None:
    """Seconds until the retention drops what the group has yet to read; None: it has read all."""
    if any(row["below_floor"] for row in rows):
        return 0.0
    times = [parse_time_ms(row["next_at"], "next_at") for row in rows if row["next_at"]]
    return max(min(times) + retention_ms - now_ms, 0) / 1_000 if times else None


def plan(log: StreamLog, group: str, asked: RewindIn, now_ms: int) -> RewindPlan:
    """Where every partition would go. BadInput, NotFound; Precondition for a cell's group."""
    refuse_reserved(group)
    _check(asked)
    committed = known(log, group)
    begins, ends = log.begin_offsets(), log.end_offsets()
    chosen = range(log.partitions) if asked.partitions is None else sorted(set(asked.partitions))
    if asked.positions is not None and asked.partitions is None:
        chosen = sorted(_number(name) for name in asked.positions)
    for partition in chosen:
        if not 0 <= partition < log.partitions:
            raise BadInput(
                f"partition {partition}: the firehose has 0..{log.partitions - 1}", "partitions"
            )
    now = [committed.get(partition, begin) for partition, begin in enumerate(begins)]
    wanted = _wanted(log, asked, now, begins, ends, now_ms)
    ends = log.end_offsets()  # after the look-up: what came meanwhile clamps nothing
    oldest_ms = log.oldest_ms()
    parts = []
    for partition in chosen:
        if partition not in wanted:
            raise BadInput(f"positions: partition {partition} is missing", "positions")
        at = now[partition]
        target = min(max(wanted[partition], begins[partition]), ends[partition])
        oldest = format_ms(oldest_ms[partition]) if oldest_ms[partition] >= 0 else None
        clamped = target != wanted[partition]
        parts.append(RewindPart(partition, at, target, at - target, oldest, clamped, 0.0))
    rate = _rate(log, parts, ends)
    for part in parts:
        part.estimated_seconds = round((ends[part.partition] - part.target) / rate, 3)
    total = round(sum(part.estimated_seconds for part in parts), 3)
    return RewindPlan(group, log.identity, False, sum(p.events for p in parts), total, parts)


def execute(
    log: StreamLog, planned: RewindPlan, fence: Callable[[], None] | None = None
) -> RewindPlan:
    """Write the plan's targets, and read them back. Unavailable when they read otherwise; what
    `fence`, called before, raises."""
    targets = {part.partition: part.target for part in planned.partitions}
    log.commit(planned.group, targets, fence)
    kept = log.committed(planned.group)
    wrong = [partition for partition, target in targets.items() if kept.get(partition) != target]
    if wrong:
        raise Unavailable(
            f"group {planned.group!r}: partition {wrong[0]} reads {kept.get(wrong[0])} after"
            f" {targets[wrong[0]]} was written: does somebody else move it? Run this again"
        )
    return msgspec.structs.replace(planned, executed=True)


def forget(log: StreamLog, group: str) -> None:
    """Drop a group's place: who comes by its name begins as a new group. NotFound; Precondition
    for a cell's or relay's."""
    refuse_reserved(group)
    if not log.committed(group):
        raise NotFound(f"there is no group {group!r}")
    log.forget(group)


def refuse_reserved(group: str) -> None:
    """Precondition for a name that belongs to a cell or relay; BadInput for what is no name."""
    check_group_name(group)
    kind, _, name = group.partition(".")
    if kind == "cell":
        raise Precondition(
            f"{group} is the group of a cell: its place is its store's own, and going back is a"
            f" replay beside live work: firecell replay --cell {name} --from ..."
        )
    if group.startswith(RESERVED_PREFIXES):
        raise Precondition(f"{group} belongs to a relay, which finds its place by itself")


def _check(asked: RewindIn) -> None:
    given = [
        asked.to_datetime is not None,
        asked.by_duration is not None,
        asked.to_earliest,
        asked.to_latest,
        asked.to_offset is not None,
        asked.shift_by is not None,
        asked.positions is not None,
    ]
    if sum(given) != 1:
        raise BadInput(
            "say where to by exactly one of to_datetime, by_duration, to_earliest, to_latest,"
            f" to_offset, shift_by, positions; {sum(given)} were given",
            "to_datetime",
        )


def _wanted(
    log: StreamLog,
    asked: RewindIn,
    now: Sequence[int],
    begins: Sequence[int],
    ends: Sequence[int],
    now_ms: int,
) -> dict[int, int]:
    """Partition -> its target before it is clamped; `positions` may leave some out. The log is
    asked once for all: each question to Kafka takes a broker's answer."""
    if asked.positions is not None:
        return {_number(name): offset for name, offset in asked.positions.items()}
    found = begins
    if asked.to_datetime is not None:
        found = log.offsets_at(parse_time_ms(asked.to_datetime, "to_datetime", now_ms))
    elif asked.by_duration is not None:
        back_ms = parse_duration_ms(asked.by_duration, "by_duration")
        found = log.offsets_at(max(now_ms - back_ms, 0))
    elif asked.to_latest:
        found = ends
    elif asked.to_offset is not None:
        found = [asked.to_offset] * len(begins)
    elif asked.shift_by is not None:
        found = [at + asked.shift_by for at in now]
    return dict(enumerate(found))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise BadInput(f"positions: {text[:20]!r} is no partition", "positions")
    return int(text)


def _rate(log: StreamLog, parts: list[RewindPart], ends: list[int]) -> float:
    """Events a second that this process reads and encodes, measured on some of those to come."""
    started, count = time.perf_counter(), 0
    for part in parts:
        if count >= REWIND_SAMPLE_RECORDS or time.perf_counter() - started > REWIND_SAMPLE_S:
            break
        if part.target < ends[part.partition]:
            room = REWIND_SAMPLE_RECORDS - count
            records = log.read(part.partition, part.target, room, STREAM_PAGE_BYTES)
            count += len(lines_of(records, ALL)[0])
    return max(count, 1) / max(time.perf_counter() - started, 1e-6)
