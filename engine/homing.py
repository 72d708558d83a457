"""Which partition an account's events lie in, and which cell is a user's home.

Both are functions of `mix64`, never of Python's `hash()`, which differs per process (trap 24).
mix64 is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of u64.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import Misconfigured
from engine.limits import U64_MAX

_A, _B = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix64(value: int) -> int:
    """Scatter a u64 over all u64."""
    value = ((value ^ (value >> 30)) * _A) & U64_MAX
    value = ((value ^ (value >> 27)) * _B) & U64_MAX
    return value ^ (value >> 31)


def mix64_many(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix64` of each element; u64 array of the same shape."""
    v: npt.NDArray[Any] = values.astype(np.uint64)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(_A)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(_B)
    mixed: npt.NDArray[np.uint64] = v ^ (v >> np.uint64(31))
    return mixed


def partition_of(account: int, partitions: int) -> int:
    """Partition of an event about `account`: the only place where this is decided."""
    return mix64(account) % partitions


def partition_of_many(
    accounts: npt.NDArray[np.uint64], partitions: int
) -> npt.NDArray[np.uint64]:
    """`partition_of` of each element."""
    return mix64_many(accounts) % np.uint64(partitions)


class HomeRange:
    """A cell's users: `first <= mix64(user) <= last` (both inclusive, u64)."""

    __slots__ = ("first", "last")

    def __init__(self, first: int = 0, last: int = U64_MAX) -> None:
        self.first = first
        self.last = last

    def __contains__(self, user: int) -> bool:
        return self.first <= mix64(user) <= self.last

    def __repr__(self) -> str:
        return f"HomeRange({self.first:#018x}, {self.last:#018x})"

    def contains_many(self, users: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Bool array: which of `users` (u64) are at home here."""
        mixed = mix64_many(users)
        return (mixed >= np.uint64(self.first)) & (mixed <= np.uint64(self.last))


def split_by_share(shares: list[float]) -> list[HomeRange]:
    """Cut the hashed user space into one contiguous range per share, in order, without holes.

    Exact arithmetic: floats round, and Python 3.12 sums them otherwise than 3.11, so an upgrade
    would have moved users. Misconfigured when a share is not above 0, or too small for one user.
    """
    if not all(0 < share < float("inf") for share in shares):
        raise Misconfigured(f"every share must be a number above 0, not {shares}")
    parts = [Fraction(share) for share in shares]
    total, seen, start = sum(parts), Fraction(0), 0
    ranges: list[HomeRange] = []
    for share, part in zip(shares, parts, strict=True):
        seen += part
        end = int(seen * 2**64 / total) - 1
        if end < start:
            raise Misconfigured(f"a share of {share} among {shares} leaves no user: make it bigger")
        ranges.append(HomeRange(start, end))
        start = end + 1
    return ranges
