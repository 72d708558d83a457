"""Where a stream begins and ends: `since`, `until`, vectors of next offsets, the retention's floor.

A vector is written `0:12,1:7,...`: the next offset of every partition. Parsing is pure; looking
places up asks the log, in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from engine.errors import BadInput, RetentionPassed, Unprocessable
from engine.limits import STREAM_SINCE_CHARACTERS_MAX
from engine.ports import Log
from engine.times import format_ms, parse_time_ms
from topics.http_query import position

EARLIEST, LATEST, CHECKPOINT = "earliest", "latest", "checkpoint"
_WORDS = (EARLIEST, LATEST, CHECKPOINT)


class StreamLog(Log, Protocol):
    """A log that tells how long it keeps events, and forgets groups."""

    retention_ms: int

    def forget(self, group: str) -> None:
        """Drop a group's place; synced. Precondition where the log does that by itself."""


class Start(NamedTuple):
    """Where to begin: a word, a time in Unix ms, or a vector."""

    word: str = ""
    time_ms: int = -1
    vector: Mapping[int, int] | None = None


class Placed(NamedTuple):
    """A vector to begin at, and what lies before it that the retention has dropped."""

    vector: dict[int, int]
    gaps: list[dict[str, Any]]


def vector_text(vector: Mapping[int, int]) -> str:
    """`0:12,1:7`, by partition."""
    return ",".join(f"{partition}:{offset}" for partition, offset in sorted(vector.items()))


def parse_vector(text: str, field: str, partitions: int) -> dict[int, int]:
    """The next offset of every partition; BadInput names what is wrong."""
    if len(text) > STREAM_SINCE_CHARACTERS_MAX:
        raise BadInput(f"{field}: a vector of {len(text)} characters is none of ours", field)
    found: dict[int, int] = {}
    for item in text.split(","):
        partition, offset = position(item, field, partitions)
        if partition in found:
            raise BadInput(f"{field}: partition {partition} is named twice", field)
        found[partition] = offset
    missing = sorted(set(range(partitions)) - found.keys())
    if missing:
        raise BadInput(
            f"{field}: partition {missing[0]} is missing; a vector names all {partitions}", field
        )
    return found


def parse_since(text: str, now_ms: int, partitions: int, field: str = "since") -> Start:
    """A word, a vector, or a time. BadInput for none of them, Unprocessable for the future."""
    if text in _WORDS:
        return Start(word=text)
    if _looks_like_a_vector(text):
        return Start(vector=parse_vector(text, field, partitions))
    time_ms = parse_time_ms(text, field, now_ms)
    if time_ms > now_ms:
        raise Unprocessable(
            f"{field}: {format_ms(time_ms)} is in the future: nothing is there yet; use latest"
        )
    return Start(time_ms=time_ms)


def _looks_like_a_vector(text: str) -> bool:
    """Partition 0 comes as `0:12`; a time of the day comes behind a date."""
    left, colon, _ = text.partition(":")
    return bool(colon) and left.isdigit()


def place(log: StreamLog, start: Start, now_ms: int, *, clamp: bool) -> Placed:
    """The vector of a start that is no checkpoint. RetentionPassed (with `floor`) when the
    retention has passed it, unless `clamp`; Unprocessable when it lies past the end."""
    begins, ends = log.begin_offsets(), log.end_offsets()
    if start.word == LATEST:
        return Placed(dict(enumerate(ends)), [])
    if start.word == EARLIEST:
        return Placed(dict(enumerate(begins)), [])
    if start.vector is not None:
        return checked(start.vector, begins, ends, clamp=clamp)
    at = dict(enumerate(log.offsets_at(start.time_ms)))
    if start.time_ms >= now_ms - log.retention_ms:
        return Placed(at, [])  # nothing younger than the retention is ever dropped
    gaps = []
    begins = log.begin_offsets()  # after the look-up: what was dropped in between is missing, too
    oldest = log.oldest_ms()
    for partition in at:
        if at[partition] > begins[partition] or begins[partition] == 0:
            continue
        offset = at[partition] = begins[partition]
        if 0 <= oldest[partition] <= start.time_ms:
            continue
        to = format_ms(oldest[partition]) if oldest[partition] >= 0 else None
        gaps.append(gap(partition, None, offset, format_ms(start.time_ms), to))
    if gaps and not clamp:
        raise passed("since", begins)
    return Placed(at, gaps)


def checked(
    vector: Mapping[int, int], begins: Sequence[int], ends: Sequence[int], *, clamp: bool
) -> Placed:
    """`vector` within what is kept; as `place`."""
    found: dict[int, int] = {}
    gaps = []
    for partition, offset in vector.items():
        if offset > ends[partition]:
            raise Unprocessable(
                f"since: partition {partition} ends at {ends[partition]}, and {offset} lies past"
                " it: is this a position of another firehose?",
                end=vector_text(dict(enumerate(ends))),
            )
        found[partition] = max(offset, begins[partition])
        if offset < begins[partition]:
            gaps.append(gap(partition, offset, begins[partition]))
    if gaps and not clamp:
        raise passed("the position", begins)
    return Placed(found, gaps)


def passed(what: str, begins: Sequence[int]) -> RetentionPassed:
    """The error of a place that the retention has passed (I9)."""
    floor = vector_text(dict(enumerate(begins)))
    return RetentionPassed(
        f"{what} is older than the oldest kept event: events between were dropped. `clamp=true`"
        " begins at the floor, and tells the gap",
        floor=floor,
    )


def gap(
    partition: int,
    first: int | None,
    following: int,
    from_time: str | None = None,
    to_time: str | None = None,
) -> dict[str, Any]:
    """A gap record's entry: offsets [from_offset, to_offset) of a partition are lost."""
    return {
        "partition": partition,
        "from_offset": first,
        "to_offset": following,
        "from": from_time,
        "to": to_time,
        "cause": "older than the retention",
    }
