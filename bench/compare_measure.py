"""What one path of `bench compare` comes to: marks while it runs, the rates of its windows, and the
processor seconds of clients and servers beside it.

A path is a generator: each time that some writes are answered it yields how many there are so far.
Closing it gives back what it holds. One thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from engine.errors import Unavailable
from ops.stack_processes import all_living

WINDOW_S = 2.0  # at least; a window ends with the first answer behind it
SETTLED_SHARE = 0.15  # of a core that all servers use together when they have nothing left to do
SETTLE_S_MAX = 30.0

Path_ = Generator[int, None, None]
Mark = tuple[float, int]  # (seconds on the monotonic clock, writes answered so far)


@dataclass
class Usage:
    """Processor seconds so far: of this process and its children, and of each server."""

    clients: float = 0.0
    servers: dict[str, float] = field(default_factory=dict)

    @classmethod
    def now(cls, stack_folder: Path) -> Usage:
        """From /proc, by the process ids that the stack in the folder keeps."""
        living = {server.name: server.pid for server in all_living(stack_folder)}
        return cls(
            machine.cpu_seconds() + sum(map(machine.cpu_seconds, children())),
            {name: machine.cpu_seconds(pid) for name, pid in living.items()},
        )

    def since(self, before: Usage) -> Usage:
        """What was used from `before` until this."""
        servers = {name: at - before.servers.get(name, 0.0) for name, at in self.servers.items()}
        return Usage(self.clients - before.clients, servers)


def children() -> list[int]:
    """Process ids of this process's living children."""
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, path.read_text().split())
    return found


@dataclass
class Measured:
    """One path, the warm-up left out."""

    marks: list[Mark]
    used: Usage

    @property
    def seconds(self) -> float:
        """Of all marks."""
        return self.marks[-1][0] - self.marks[0][0]

    @property
    def writes(self) -> int:
        """Answered in that time."""
        return self.marks[-1][1] - self.marks[0][1]

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = windows(self.marks)
        return {
            "inbox_writes_per_second": round(statistics.median(rates), 1),
            "windows": [round(rate, 1) for rate in rates],
            "mean_writes_per_second": round(self.writes / self.seconds, 1),
            "inbox_writes": self.writes,
            "seconds": round(self.seconds, 2),
            "client_cpu_seconds": round(self.used.clients, 2),
            "server_cpu_seconds": round(sum(self.used.servers.values()), 2),
            "server_cpu_seconds_by_server": {
                name: round(spent, 2) for name, spent in self.used.servers.items()
            },
        }


def windows(marks: list[Mark], window_s: float = WINDOW_S) -> list[float]:
    """Writes/s of consecutive windows of `window_s` or more, cut at marks; what is left over at the
    end counts only when there is no whole window."""
    rates: list[float] = []
    at, done = marks[0]
    for now, answered in marks[1:]:
        if now - at >= window_s:
            rates.append((answered - done) / (now - at))
            at, done = now, answered
    return rates or [(marks[-1][1] - done) / max(marks[-1][0] - at, 1e-9)]


def measure(
    path: Path_,
    seconds: float,
    warm_s: float,
    usage: Callable[[], Usage],
    on_mark: Callable[[float], None] = lambda spent: None,
) -> Measured:
    """Run `path` for `warm_s` seconds from its first word on, then measure it for `seconds`.

    `on_mark` is told of the seconds since its first word. Raises Unavailable when the path ends
    before that, and whatever the path raises.
    """
    marks: list[Mark] = []
    first_at: float | None = None
    before = Usage()
    with closing(path):
        for done in path:
            now = time.monotonic()
            first_at = now if first_at is None else first_at
            on_mark(now - first_at)
            if not marks:
                if now - first_at < warm_s:
                    continue
                before = usage()
            marks.append((now, done))
            if now - marks[0][0] >= seconds:
                return Measured(marks, usage().since(before))
    raise Unavailable("a path ended before its time was over: see what it says above")


def settle(stack_folder: Path, wait_s: float = SETTLE_S_MAX) -> float:
    """Wait until the servers have nothing left to do of what came before; the seconds it took."""
    started = time.monotonic()
    while time.monotonic() - started < wait_s:
        before = Usage.now(stack_folder)
        time.sleep(1.0)
        used = sum(Usage.now(stack_folder).since(before).servers.values())
        if used < SETTLED_SHARE:
            break
    return time.monotonic() - started
