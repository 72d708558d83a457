"""What goes in and out of the groups' routes, as msgspec types. Immutable once made."""

from __future__ import annotations

import msgspec


class AckIn(msgspec.Struct, forbid_unknown_fields=True):
    """The next offset (last finished + 1) of any of the session's partitions."""

    session: str
    positions: dict[str, int]


class AckOut(msgspec.Struct):
    """The checkpoints in force of the session's partitions."""

    session: str
    positions: dict[str, int]


class RewindIn(msgspec.Struct, forbid_unknown_fields=True):
    """Where to, by exactly one of the first seven, and whether to do it."""

    to_datetime: str | None = None
    by_duration: str | None = None
    to_earliest: bool = False
    to_latest: bool = False
    to_offset: int | None = None
    shift_by: int | None = None
    positions: dict[str, int] | None = None
    partitions: list[int] | None = None
    execute: bool = False


class RewindPart(msgspec.Struct):
    """The plan for one partition. `events`: how many come again; negative: are skipped."""

    partition: int
    now: int
    target: int
    events: int
    oldest: str | None  # time of the oldest kept event
    clamped: bool
    estimated_seconds: float


class RewindPlan(msgspec.Struct):
    """A rewind as planned, and whether it was done."""

    group: str
    identity: str
    executed: bool
    events: int
    estimated_seconds: float  # to read up to the end as it is now, at this gateway's speed
    partitions: list[RewindPart]
