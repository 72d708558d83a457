"""What a measured span of a cell's life comes to: rates, shares, bytes. Pure arithmetic on the
numbers that the cell and the kernel gave before and after."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_GIL_STEPS = ("plan", "rows")
_GIL_HOW = (
    "seconds in the worker's steps that run Python (plan: decode and judge; rows: puts of posts and"
    " outboxes and their synced write) over wall seconds; an upper bound: the write frees the GIL"
)


@dataclass
class Measured:
    """The cell's numbers before and after, and what the kernel saw."""

    before: dict[str, Any]
    after: dict[str, Any]
    seconds: float
    cpu_seconds: float
    written_bytes: int
    topped_up_posts: int
    python_cpu_seconds: float = 0.0  # of the cell: fan-out and HTTP; the rest is its store's
    other_cpu_seconds: float = 0.0  # of everything on the machine but the cell
    looks: list[tuple[float, float]] = field(default_factory=list)  # (seconds, inbox keys) since

    def gained(self, name: str) -> float:
        """How much a number of the cell grew."""
        return float(self.after.get(name, 0)) - float(self.before.get(name, 0))


def figures(measured: Measured) -> dict[str, Any]:
    """JSON-ready: the names of the contract first."""
    seconds = measured.seconds
    keys, posts = measured.gained("inbox_keys_total"), measured.gained("posts_total")
    steps = step_seconds(measured.before, measured.after, seconds)
    store = {
        name.removeprefix("store_"): round(measured.gained(name), 3)
        for name in measured.after
        if name.startswith("store_")
    }
    gil = sum(steps.get(name, 0.0) for name in _GIL_STEPS)
    saved = measured.gained("inbox_keys_saved_total")
    return {
        "inbox_writes_per_second": round(keys / seconds, 1),
        "posts_per_second": round(posts / seconds, 1),
        "seconds": round(seconds, 2),
        "mean_fanout": round(keys / max(posts, 1), 2),
        "cpu_seconds": round(measured.cpu_seconds, 2),
        "python_cpu_seconds": round(measured.python_cpu_seconds, 2),
        "store_cpu_seconds": round(measured.cpu_seconds - measured.python_cpu_seconds, 2),
        "other_cpu_seconds": round(measured.other_cpu_seconds, 2),
        "bytes_per_inbox_write": round(measured.written_bytes / max(keys, 1), 2),
        "inbox_writes": int(keys),
        "inbox_writes_saved": int(saved),
        "inbox_writes_saved_share": round(saved / max(keys + saved, 1), 3),
        "pulled_authors": int(measured.after.get("pulled_authors", 0)),
        "posts": int(posts),
        "topped_up_posts": measured.topped_up_posts,
        "batches": int(measured.gained("batches_total")),
        "slowest_10_seconds_writes_per_second": slowest(measured.looks, 10.0),
        "step_seconds": steps,
        "gil_share": round(gil / seconds, 3),
        "gil_share_how": _GIL_HOW,
        "compaction_bytes": int(store.get("compaction_bytes", 0)),
        "store_growth": store,
        "store_after": {
            name: value for name, value in measured.after.items() if name.startswith("store_")
        },
    }


def step_seconds(
    before: dict[str, Any], after: dict[str, Any], seconds: float
) -> dict[str, float]:
    """Where the worker's time went, by step; `outside`: reading the log, waiting, the rest."""
    steps = {
        name[len("step_") : -len("_seconds_total")]: round(after[name] - before[name], 2)
        for name in after
        if name.startswith("step_")
    }
    return {**steps, "outside": round(seconds - sum(steps.values()), 2)}


def latency_between(before: dict[str, Any], after: dict[str, Any]) -> list[int]:
    """What a cell's histogram of publish to inbox (topics/histogram.py) counted between two looks;
    empty when the cell keeps none."""
    pairs = zip(before.get("latency_counts", []), after.get("latency_counts", []), strict=True)
    return [later - earlier for earlier, later in pairs]


def slowest(looks: list[tuple[float, float]], window_s: float) -> float | None:
    """Inbox writes/s of the slowest span of at least `window_s`; None when it was shorter."""
    worst: float | None = None
    first = 0
    for at, keys in looks:
        while first < len(looks) - 1 and at - looks[first + 1][0] >= window_s:
            first += 1
        spent = at - looks[first][0]
        if spent >= window_s:
            rate = (keys - looks[first][1]) / spent
            worst = rate if worst is None else min(worst, rate)
    return None if worst is None else round(worst, 1)
