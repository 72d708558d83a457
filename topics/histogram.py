"""A histogram with logarithmic buckets: 5% wide, from 1 to some 10^8, 400 counters in all.

For latencies in ms where percentiles are asked for later. One thread adds, any may read.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_BUCKETS = 400
_GROWTH = float(np.log(1.05))


class Histogram:
    """Counts of positive numbers by magnitude."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, dtype=np.int64)
        self.total = 0  # of all values

    def add_many(self, values: npt.NDArray[np.int64]) -> None:
        """Count each value; below 1 counts as 1."""
        if len(values):
            self.total += int(values.sum())
            buckets = np.log(np.maximum(values, 1)) / _GROWTH
            indexes = np.minimum(buckets.astype(np.int64), _BUCKETS - 1)
            self._counts += np.bincount(indexes, minlength=_BUCKETS)

    def snapshot(self) -> list[int]:
        """The counters, to subtract an earlier snapshot from."""
        counts: list[int] = self._counts.tolist()
        return counts


def at_most(counts: list[int], bound: float) -> int:
    """How many of all counted are surely at most `bound`: whole buckets below it."""
    whole = int(np.log(max(bound, 1.0)) / _GROWTH + 1e-9)
    return sum(counts[:whole])


def percentile(counts: list[int], share: float) -> float:
    """The upper edge of the bucket that holds the `share` (0..1) of all counted; 0.0 if none."""
    total = sum(counts)
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if total and seen >= share * total:
            return float(np.exp((index + 1) * _GROWTH))
    return 0.0
