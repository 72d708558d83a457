"""Numbers for people and for machines: latency histograms, result files, one small table.

A result is a JSON document under `bench/results/<name>.json`, complete with the machine it was
measured on. One histogram is one thread's; merge them afterwards.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from bench import machine
from engine.errors import BadInput
from engine.times import format_ms

RESULTS = Path(__file__).parent / "results"
RESULT_FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")

_PER_DOUBLING = 32  # buckets; so a bucket is 2.2% wide
_DOUBLINGS = 40  # from SMALLEST on: 1 us to 12 days, when the unit is ms
_BUCKETS = _PER_DOUBLING * _DOUBLINGS
SMALLEST = 0.001  # what is less counts as this


class Histogram:
    """Counts in logarithmic buckets: bounded memory, percentiles at most 2.2% too high, never
    too low. The unit is the caller's (milliseconds, as everywhere here)."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(_BUCKETS, dtype=np.int64)
        self._sum = 0.0
        self._max = 0.0

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """The exact mean; 0.0 of nothing."""
        return self._sum / self.count if self.count else 0.0

    @property
    def maximum(self) -> float:
        """The exact maximum; 0.0 of nothing."""
        return self._max

    def record(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        place = math.ceil(math.log2(max(value, SMALLEST) / SMALLEST) * _PER_DOUBLING)
        self._counts[min(place, _BUCKETS - 1)] += times
        self._sum += value * times
        self._max = max(self._max, value)

    def record_many(self, values: npt.ArrayLike) -> None:
        """Count each of an array of numbers."""
        flat = np.asarray(values, dtype=np.float64).ravel()
        if not len(flat):
            return
        places = np.ceil(np.log2(np.maximum(flat, SMALLEST) / SMALLEST) * _PER_DOUBLING)
        places = np.minimum(places, _BUCKETS - 1).astype(np.int64)
        self._counts += np.bincount(places, minlength=_BUCKETS)
        self._sum += float(flat.sum())
        self._max = max(self._max, float(flat.max()))

    def merge(self, other: Histogram) -> None:
        """Add what `other` counted."""
        self._counts += other._counts
        self._sum += other._sum
        self._max = max(self._max, other._max)

    def percentile(self, percent: float) -> float:
        """A value that `percent` % of the recorded ones do not pass; 0.0 of nothing."""
        total = self.count
        if not total:
            return 0.0
        rank = max(1, math.ceil(total * percent / 100))
        place = int(np.searchsorted(np.cumsum(self._counts), rank))
        if place == _BUCKETS - 1:  # everything beyond the range is in the last one
            return self._max
        return min(SMALLEST * math.exp2(place / _PER_DOUBLING), self._max)

    def summary(self, percents: Iterable[float] = (50, 90, 99, 99.9)) -> dict[str, float]:
        """JSON-ready: count, mean, p50 .. p99.9, max."""
        at = {f"p{percent:g}": round(self.percentile(percent), 3) for percent in percents}
        count = {"count": self.count, "mean": round(self.mean, 3)}
        return {**count, **at, "max": round(self._max, 3)}


def write_result(name: str, document: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<folder>/<name>.json` whole or not at all; its path.

    Beside the document's own members it has `name`, `format`, `measured_at` and `machine`; of
    folders in its `command` only the names.
    Raises BadInput for a name that is no plain file name.
    """
    if _NAME.fullmatch(name) is None:
        raise BadInput(f"result name {name!r}: use a-z, 0-9, dot, dash, underscore", "name")
    head = {
        "name": name,
        "format": RESULT_FORMAT,
        "measured_at": format_ms(time.time_ns() // 1_000_000),
        "machine": machine.describe(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    draft = folder / f".{name}.json.{os.getpid()}"
    command = " ".join(map(_without_folder, str(document.get("command", "")).split()))
    whole = {**head, **document} | ({"command": command} if command else {})
    draft.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)
    return path


def _without_folder(word: str) -> str:
    """Where something lies on this machine is nobody's business."""
    return Path(word).name if word.startswith("/") else word


def read_result(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The document of an earlier `write_result`. Raises OSError, ValueError."""
    document: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return document


def table(title: str, document: Mapping[str, Any]) -> Table:
    """A two-column table; members that are objects become `member.key` rows."""
    rendered = Table(title=title, show_header=False, title_justify="left")
    rendered.add_column("what")
    rendered.add_column("value", justify="right")
    for name, value in _flat("", document):
        rendered.add_row(name, _show(value))
    return rendered


def show(title: str, document: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table to `console`, by default stderr: data go to stdout, talk to stderr."""
    (console or Console(stderr=True)).print(table(title, document))


def _flat(prefix: str, document: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.3g}"
    return str(value)
