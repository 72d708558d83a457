"""How long a gateway may coordinate on its own word, and when the next one may begin: by clocks
alone, whatever the servers in between believe.

    leader   confirms at c1, c2, ... (each answered): valid until  c + SESSION - MARGIN
    others   see the number of that confirmation at s >= c:  begin at  s + SESSION  or later

`c` is taken before the call, `s` after the answer, each by its own process's clock, which also
counts while the machine sleeps. What a leader confirms after the last look of its successor is not
possible: the successor looks once more when Kafka has given it the partition, and from then on
Kafka refuses the other one. So two of them never overlap, as long as clocks do not run apart by
more than MARGIN in SESSION. One that left by itself says so (`released`), and nobody waits.

Pure: the clock comes in. `Tenure` may be asked from any thread while one other confirms it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from engine.errors import Unavailable
from engine.limits import KAFKA_FENCED_S, KAFKA_LEADER_MARGIN_S, KAFKA_LEADER_SESSION_S

VALID_S = KAFKA_LEADER_SESSION_S - KAFKA_LEADER_MARGIN_S
LOST = "this gateway does not coordinate the firehose's groups any more: connect again"


class TimedTenure:
    """See topics/groups_lock.py:Tenure. `began_s`: before the first confirmation was asked for."""

    def __init__(self, clock: Callable[[], float], began_s: float) -> None:
        self._clock = clock
        self._until_s = began_s + VALID_S
        self._over = False

    def holds(self) -> bool:
        """Whether it is not over; one that has lapsed never comes back."""
        if self._clock() >= self._until_s:
            self._over = True
        return not self._over

    def fence(self) -> None:
        """Unavailable unless it holds for as long as a write may be on its way."""
        if not self.holds():
            raise Unavailable(LOST)
        if self._clock() + KAFKA_FENCED_S >= self._until_s:
            raise Unavailable(
                "Kafka answers slowly: this gateway can't be sure for long enough that it"
                " coordinates the groups; try again"
            )

    def confirm(self, began_s: float) -> bool:
        """A confirmation that was asked for at `began_s` is there; whether it was in time."""
        if self.holds():
            self._until_s = max(self._until_s, began_s + VALID_S)
        return self.holds()

    def end(self) -> None:
        """It is over."""
        self._over = True


class Sign(NamedTuple):
    """What a leader leaves at each confirmation. `number` grows; `holder` names a process."""

    number: int
    holder: str
    url: str
    released: bool


class Sightings:
    """What one gateway has seen of the leaders, itself among them (`own`: its `holder`)."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._last: Sign | None = None
        self._seen_s = -math.inf

    def saw(self, sign: Sign | None, now_s: float) -> None:
        """What was read last, at `now_s` or before. One that is gone (Kafka lost it) was still
        seen: its leader may not know yet."""
        if sign is not None and sign != self._last:
            self._last, self._seen_s = sign, now_s

    @property
    def number(self) -> int:
        """Of the newest sign; -1 before there was any."""
        return -1 if self._last is None else self._last.number

    def free_s(self) -> float:
        """From when on nobody else leads."""
        if self._last is None or self._last.released or self._last.holder == self._own:
            return -math.inf
        return self._seen_s + KAFKA_LEADER_SESSION_S

    def leader(self, now_s: float) -> str | None:
        """The URL of another one that leads, as far as one knows."""
        last = self._last
        if last is None or last.released or last.holder == self._own or now_s >= self.free_s():
            return None
        return last.url or None
