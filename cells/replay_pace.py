"""When a replay may take a step beside live work, and how big that may be.

What live batches leave of the time is the headroom; a replay gets a share of it, all of it where
nothing else is on. Time that it may take is saved up to a small bound, so a step, and what a live
batch waits for it, stays short. While the store's merging is behind, a replay adds next to nothing:
each step is one more sorted run, and the brake for those stops live work, too (measured: p99 12
times as long). One thread asks; pure but for the clock and the pressure that it is given.
"""

from __future__ import annotations

from collections.abc import Callable

from engine import limits


class Pace:
    """The allowance of one cell's replays; `busy_s` is the time that live batches took so far."""

    def __init__(
        self,
        clock: Callable[[], float],
        share: float = limits.REPLAY_SHARE,
        pressure: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """`pressure`: the store's, 1.0 at ease."""
        self.share = share
        self._clock = clock
        self._pressure = pressure
        self._stepped_at = clock()
        self._seen_at = clock()
        self._seen_busy_s = 0.0
        self._credit_s = 0.0
        self._window_at = self._seen_at
        self._window_busy_s = 0.0
        self.live_share = 0.0  # of the last window

    def look(self, busy_s: float) -> None:
        """While there is no replay: how much live work there is, for when there will be one."""
        self._look_at_live(self._clock(), busy_s)

    def may_step(self, busy_s: float) -> bool:
        """Whether there is allowance left."""
        now = self._clock()
        self._look_at_live(now, busy_s)
        headroom_s = (now - self._seen_at) - (busy_s - self._seen_busy_s)
        self._seen_at, self._seen_busy_s = now, busy_s
        earned_s = max(headroom_s, 0.0) * self.share
        self._credit_s = min(self._credit_s + earned_s, limits.REPLAY_CREDIT_S_MAX)
        if self.alone:
            return True
        if self._credit_s <= 0:
            return False
        held = now - self._stepped_at < limits.REPLAY_HELD_S
        return not (held and self._pressure() > 1.0)

    def spent(self, seconds: float) -> None:
        """A step took this long."""
        self._stepped_at = self._clock()
        self._credit_s = max(self._credit_s - seconds, -limits.REPLAY_WINDOW_S)

    @property
    def alone(self) -> bool:
        """Whether there is next to no live work."""
        return self.live_share <= limits.REPLAY_IDLE_SHARE

    def _look_at_live(self, now: float, busy_s: float) -> None:
        spent = now - self._window_at
        live_s = busy_s - self._window_busy_s
        if spent >= limits.REPLAY_WINDOW_S:
            self.live_share = live_s / spent
            self._window_at, self._window_busy_s = now, busy_s
        elif live_s > limits.REPLAY_IDLE_SHARE * limits.REPLAY_WINDOW_S:
            self.live_share = max(self.live_share, live_s / limits.REPLAY_WINDOW_S)
