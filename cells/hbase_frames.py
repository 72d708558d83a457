"""Thrift 1 on the wire (strict binary protocol): calls laid out by hand where a call per row is too
slow, and what is read out of their answers. Pure bytes; safe from any thread.

`mutateRows` of inbox keys has a fixed stride of 57 bytes a row, so numpy lays it out; rows of any
other shape are joined in Python (thousands a second). Scans of fixed-size rows answer with a fixed
stride as well, so an inbox slice is cut out by numpy.

    message    80 01 00 TT, name with length, sequence id; then the arguments as a struct
    struct     fields: type u8, id i16, value; ended by 0
    list       element type u8, count i32, elements
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import Corruption
from engine.keys import INBOX_KEY_BYTES, Keys

FAMILY = b"f"
COLUMN = FAMILY + b":"  # the column with the empty qualifier
_CALL, _REPLY, _EXCEPTION = 1, 2, 3
_STRICT = 0x80010000
_BOOL, _I32, _I64, _STRING, _STRUCT, _MAP, _LIST = 2, 8, 10, 11, 12, 13, 15
_U32 = struct.Struct(">I")
_FIELD = struct.Struct(">bh")
_FIELD_SIZE = struct.Struct(">bhI")
_LIST_OF = struct.Struct(">bhbI")

Row = tuple[bytes, Sequence[tuple[bytes, bytes]]]  # row key, (qualifier, value) pairs


class RemoteFault(NamedTuple):
    """What the server says went wrong."""

    kind: str
    text: str


def _text(field: int, value: bytes) -> bytes:
    return _FIELD_SIZE.pack(_STRING, field, len(value)) + value


def _call(name: bytes, arguments: bytes) -> bytes:
    head = _U32.pack(_STRICT | _CALL) + _U32.pack(len(name)) + name + bytes(4)
    return head + arguments + b"\x00"


_ROW_HEAD = _FIELD_SIZE.pack(_STRING, 1, INBOX_KEY_BYTES)
_ROW_TAIL = (
    _LIST_OF.pack(_LIST, 2, _STRUCT, 1)
    + _text(2, COLUMN)
    + _text(3, b"")
    + b"\x00\x00"  # end of the mutation, end of the row
)
KEY_STRIDE = len(_ROW_HEAD) + INBOX_KEY_BYTES + len(_ROW_TAIL)


def put_keys(table: bytes, keys: Keys) -> bytes:
    """A mutateRows call that puts `keys`, u8 (n, 24), with an empty value each; the server's time,
    write-ahead log on."""
    head = _text(1, table) + _LIST_OF.pack(_LIST, 2, _STRUCT, len(keys))
    start = _call(b"mutateRows", head)[:-1]
    row = _ROW_HEAD + bytes(INBOX_KEY_BYTES) + _ROW_TAIL
    body: npt.NDArray[np.uint8] = np.empty((len(keys), KEY_STRIDE), dtype=np.uint8)
    body[:] = np.frombuffer(row, dtype=np.uint8)
    body[:, len(_ROW_HEAD) : len(_ROW_HEAD) + INBOX_KEY_BYTES] = keys
    return b"".join((start, memoryview(body).cast("B"), _NO_ATTRIBUTES))


_NO_ATTRIBUTES = _FIELD.pack(_MAP, 3) + struct.pack(">bbI", _STRING, _STRING, 0) + b"\x00"


def put_rows(table: bytes, rows: Iterable[Row]) -> bytes:
    """A mutateRows call that puts rows of any shape; the server's time, write-ahead log on."""
    parts = []
    for key, columns in rows:
        parts.append(_text(1, key) + _LIST_OF.pack(_LIST, 2, _STRUCT, len(columns)))
        for qualifier, value in columns:
            parts.append(_text(2, COLUMN + qualifier) + _text(3, value) + b"\x00")
        parts.append(b"\x00")
    count = parts.count(b"\x00")
    head = _text(1, table) + _LIST_OF.pack(_LIST, 2, _STRUCT, count)
    return _call(b"mutateRows", head + b"".join(parts))[:-1] + _NO_ATTRIBUTES


def put_at(table: bytes, key: bytes, value: bytes, timestamp: int) -> bytes:
    """A mutateRowTs call: one cell with a timestamp of ours (a maximum register)."""
    mutation = _text(2, COLUMN) + _text(3, value) + b"\x00"
    return _call(
        b"mutateRowTs",
        _text(1, table)
        + _text(2, key)
        + _LIST_OF.pack(_LIST, 3, _STRUCT, 1)
        + mutation
        + struct.pack(">bhq", _I64, 4, timestamp)
        + _NO_ATTRIBUTES[:-1],
    )


def open_scan(
    table: bytes, start: bytes, stop: bytes | None, rows_max: int, *, reverse: bool = False
) -> bytes:
    """A scannerOpenWithScan call for at most `rows_max` rows of [start, stop), or downwards."""
    scan = _text(1, start) + (b"" if stop is None else _text(2, stop))
    scan += struct.pack(">bhi", _I32, 5, rows_max)
    scan += _text(6, b"PageFilter(%d)" % rows_max)
    if reverse:
        scan += struct.pack(">bhb", _BOOL, 9, 1)
    arguments = _text(1, table) + _FIELD.pack(_STRUCT, 2) + scan + b"\x00"
    return _call(b"scannerOpenWithScan", arguments + _NO_ATTRIBUTES_3)


_NO_ATTRIBUTES_3 = _NO_ATTRIBUTES[:-1]


def next_rows(scanner: int, rows_max: int) -> bytes:
    """A scannerGetList call."""
    arguments = struct.pack(">bhibhi", _I32, 1, scanner, _I32, 2, rows_max)
    return _call(b"scannerGetList", arguments)


def close_scan(scanner: int) -> bytes:
    """A scannerClose call."""
    return _call(b"scannerClose", struct.pack(">bhi", _I32, 1, scanner))


# --- answers -------------------------------------------------------------------------------------


def answer_body(message: bytes) -> int:
    """Where the result begins in an answer with its fields. Raises Corruption for no answer of the
    strict binary protocol."""
    if len(message) < 13 or message[:3] != b"\x80\x01\x00" or message[3] not in (2, 3):
        raise Corruption("no answer of Thrift's binary protocol")
    return 12 + _U32.unpack_from(message, 4)[0]
