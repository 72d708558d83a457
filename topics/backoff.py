"""How long to wait before trying again: longer each time, up to a bound."""

from __future__ import annotations

from engine import limits


class Backoff:
    """Waits that double, from RETRY_FIRST_MS up to RETRY_MS_MAX, unless told otherwise. It does not
    wait itself: that is done on loops, on events, or asleep. Belongs to one thread."""

    def __init__(self, first_ms: int = 0, ms_max: int = 0) -> None:
        """0: the usual."""
        self._first_ms = first_ms or limits.RETRY_FIRST_MS
        self._ms_max = ms_max or limits.RETRY_MS_MAX
        self._next_ms = self._first_ms

    def next_s(self) -> float:
        """How long to wait now, in seconds; the next time twice as long."""
        wait_ms, self._next_ms = self._next_ms, min(2 * self._next_ms, self._ms_max)
        return wait_ms / 1_000

    def reset(self) -> None:
        """It has worked again."""
        self._next_ms = self._first_ms
