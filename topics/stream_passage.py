"""What of a group's stream has arrived at a client behind another gateway, by that one's word.

A stream that another gateway passes on is not taken when that one's socket has taken it: some of
it lies in kernels and in that process, which may be slow, be stopped or end. So that gateway says,
in the body of the request that it made, how many bytes of the stream its client's connection has
taken so far: a line of decimal digits each time. What a member was sent counts as taken by these
words alone, never by time and never because a stream has ended.

No I/O and no clock of its own; lives on one event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from engine.limits import STREAM_PASSAGES_MAX

_DIGITS_MAX = 20  # of a number of bytes
_Write = Callable[[bytes], Awaitable[None]]


def passed_line(size: int) -> bytes:
    """What the other gateway says: its client has taken `size` bytes so far."""
    return b"%d\n" % size


class Passage:
    """One stream. `clock`: seconds, monotonic; `passed(places, now)` is told the next offsets of
    the partitions up to which the client has taken what it was sent."""

    def __init__(
        self, clock: Callable[[], float], passed: Callable[[Mapping[int, int], float], None]
    ) -> None:
        self._clock = clock
        self._passed = passed
        self._written = 0  # bytes of the stream
        self._taken = 0  # of which the client has taken so many
        self._line = b""  # a word of which the end has not come
        self._held: deque[tuple[int, dict[int, int]]] = deque()  # (so many bytes, places by then)
        self.waiting_since: float | None = None  # nothing of what was written has arrived since

    def counted(self, write: _Write) -> _Write:
        """`write`, whose bytes are counted."""

        async def count_and_write(content: bytes) -> None:
            if not self.untaken():
                self.waiting_since = self._clock()
            self._written += len(content)
            await write(content)

        return count_and_write

    def hold(self, places: Mapping[int, int]) -> None:
        """All that was written so far ends at these next offsets."""
        if len(self._held) >= STREAM_PASSAGES_MAX:  # then the last two arrive together
            places = {**self._held.pop()[1], **places}
        self._held.append((self._written, dict(places)))
        self._settle()

    def heard(self, body: bytes) -> None:
        """A piece of what the other gateway says. What is no number of bytes says nothing."""
        *words, line = (self._line + body).split(b"\n")
        self._line = line[: _DIGITS_MAX + 1]
        sizes = [int(word) for word in words if word.isdigit() and len(word) <= _DIGITS_MAX]
        taken = min(max([self._taken, *sizes]), self._written)
        if taken > self._taken:
            self._taken = taken
            self.waiting_since = self._clock() if self.untaken() else None
            self._settle()

    def untaken(self) -> int:
        """Bytes that have not arrived, as far as is known."""
        return self._written - self._taken

    def _settle(self) -> None:
        places: dict[int, int] = {}
        while self._held and self._held[0][0] <= self._taken:
            places |= self._held.popleft()[1]
        if places:
            self._passed(places, self._clock())
