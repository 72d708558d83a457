"""How each server of the stack does, asked now. Changes nothing; any thread."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ops import stack_processes
from ops.stack_plan import PORTS, Plan
from ops.stack_probe import probe
from ops.stack_processes import living, resident_mb


@dataclass(frozen=True)
class Condition:
    """One server as `status` tells it. `state`: ready, silent (it lives, but does not answer),
    paused, dead (killed or crashed), stopped."""

    name: str
    state: str
    pid: int | None
    ports: dict[str, int]
    heap_mb: int  # what it may take; of Redis for data
    resident_mb: int
    up_s: int
    probe_ms: float | None
    problem: str

    def document(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def condition(plan: Plan, name: str) -> Condition:
    """One server: its process, and its answer to a real request."""
    server = living(plan.folder, name)
    problem, took = "", None
    if server is None:
        state = "dead" if stack_processes.server_file(plan.folder, name).exists() else "stopped"
        if state == "dead":
            words = stack_processes.last_words(diary(plan, name))
            problem = f"`firecell stack up` starts it again; its last words: {words}"
    elif server.paused:
        state, problem = "paused", f"stopped by a signal: kill -CONT {server.pid}"
    else:
        started = time.monotonic()
        problem = probe(plan, name)
        took = round((time.monotonic() - started) * 1000, 1)
        state = "silent" if problem else "ready"
    now_ms = time.time_ns() // 1_000_000
    return Condition(
        name=name,
        state=state,
        pid=server.pid if server else None,
        ports={port: plan.ports[port] for port in PORTS[name]},
        heap_mb=plan.heaps_mb[name],
        resident_mb=resident_mb(server.pid) if server else 0,
        up_s=(now_ms - server.since_ms) // 1000 if server else 0,
        probe_ms=took,
        problem=problem,
    )


def diary(plan: Plan, name: str) -> Path:
    """Its own log or what it printed, whichever it wrote to last."""
    both = [plan.logs() / f"{name}.{kind}" for kind in ("out", "log")]
    written = [path for path in both if path.exists() and path.stat().st_size]
    return max(written, key=lambda path: path.stat().st_mtime_ns, default=both[0])
