"""What the compiled loops of this package share. The compiler's cache on disk notices changes of a
kernel's own file only, so nothing here may ever change its meaning: these are finished.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


@intrinsic  # type: ignore[untyped-decorator]
def pointer(_typing: Any, address: Any) -> Any:
    """An i64 address as a pointer, for `numba.carray`."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), build


@njit(inline="always")  # type: ignore[untyped-decorator]
def mix(value: Any) -> Any:
    """`engine.homing.mix64`."""
    value = (value ^ (value >> _S30)) * _A
    value = (value ^ (value >> _S27)) * _B
    return value ^ (value >> _S31)


@intrinsic  # type: ignore[untyped-decorator]
def big_endian(_typing: Any, address: Any) -> Any:
    """The u64 whose 8 bytes begin at an i64 address, most significant first; any alignment."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        place = builder.inttoptr(arguments[0], context.get_value_type(types.uint64).as_pointer())
        return builder.bswap(builder.load(place, align=1))

    return types.uint64(types.int64), build


@intrinsic  # type: ignore[untyped-decorator]
def copy_bytes(_typing: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy `count` bytes between two i64 addresses; they do not overlap."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, origin = (builder.inttoptr(each, cgutils.voidptr_t) for each in arguments[:2])
        cgutils.raw_memcpy(builder, target, origin, arguments[2], 1)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), build


@njit(inline="always")  # type: ignore[untyped-decorator]
def address_of(array: Any) -> Any:
    """Where an array's data begins, i64: numba's own is unsigned, and u64 + i64 are a float."""
    return np.int64(array.ctypes.data)
