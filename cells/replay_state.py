"""A replay as its file tells it: which span, how far, and what came of it. Values alone, no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from engine import limits
from engine.errors import BadInput

VERSION = 1
RUNNING: Final = "running"
DONE: Final = "done"
STOPPED: Final = "stopped"
FAILED: Final = "failed"


class Span(msgspec.Struct, frozen=True):
    """What to apply again: [start, end) per partition; `accounts`: only events about these."""

    start: list[int]
    end: list[int]
    accounts: list[int] | None = None

    @property
    def events(self) -> int:
        """How many events lie in it."""
        return sum(max(end - at, 0) for at, end in zip(self.start, self.end, strict=True))


class State(msgspec.Struct, forbid_unknown_fields=True):
    """A replay as its file tells it."""

    id: str
    span: Span
    at: list[int]
    created_ms: int
    settles: list[tuple[int, int]] = []  # bad records that it retries, forgotten when it is done
    state: Literal["running", "done", "stopped", "failed"] = "running"
    finished_ms: int = 0
    events: int = 0
    keys: int = 0
    mended: int = 0  # follows in memory that differed from what the firehose says
    skipped: int = 0  # events that fell below the retention before they were reached
    seconds: float = 0.0  # that its steps took
    error: str = ""
    format: int = VERSION


def vector(text: str, name: str, missing: Sequence[int]) -> list[int]:
    """`0:12,1:7`: next offsets, for the partitions that it names."""
    offsets = list(missing)
    for part in text.split(","):
        left, _, right = part.partition(":")
        digits = left + right
        fits = left and right and digits.isascii() and digits.isdigit()
        if not fits or len(digits) > len(str(limits.U64_MAX)) or int(left) >= len(offsets):
            raise BadInput(f"{name}: {part!r} is no partition:offset of this firehose", name)
        offsets[int(left)] = int(right)
    return offsets
