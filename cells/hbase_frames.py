"""Thrift 1 calls on the wire (strict binary protocol), laid out by hand where happybase's call per
cell is too slow. Pure bytes; safe from any thread.

`mutateRows` of inbox keys has a fixed stride of 57 bytes a row, so numpy lays it out: no Python per
key. Rows of any other shape are joined in Python. Attributes are left out: none are sent.

| part | bytes |
| --- | --- |
| message | 80 01 00 and its type, name with length, sequence id 0; the arguments as a struct |
| struct | fields: type u8, id i16, value; ended by 0 |
| list | element type u8, count i32, elements |
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from engine.keys import INBOX_KEY_BYTES, Keys

FAMILY = b"f"
COLUMN = FAMILY + b":"  # the column with the empty qualifier
CALL, REPLY, EXCEPTION = 1, 2, 3
STRICT_HEAD = 0x80010000
BOOL, I32, I64, STRING, STRUCT, LIST = 2, 8, 10, 11, 12, 15
_U32 = struct.Struct(">I")
_TEXT = struct.Struct(">bhI")
_LIST_OF = struct.Struct(">bhbI")
_STOP = b"\x00"

Row = tuple[bytes, Sequence[tuple[bytes, bytes]]]
"""(row key, [(qualifier, value), ...])"""


def _text(field: int, value: bytes) -> bytes:
    return _TEXT.pack(STRING, field, len(value)) + value


def call_head(name: bytes) -> bytes:
    """What a call begins with; its arguments follow, then a zero byte."""
    return _U32.pack(STRICT_HEAD | CALL) + _U32.pack(len(name)) + name + bytes(4)


_ROW_HEAD = _TEXT.pack(STRING, 1, INBOX_KEY_BYTES)
_ROW_TAIL = b"".join(
    (
        _LIST_OF.pack(LIST, 2, STRUCT, 1),
        _text(2, COLUMN),
        _text(3, b""),
        _STOP,  # of the mutation
        _STOP,  # of the row
    )
)
KEY_STRIDE = len(_ROW_HEAD) + INBOX_KEY_BYTES + len(_ROW_TAIL)
_KEY_ROW = np.frombuffer(_ROW_HEAD + bytes(INBOX_KEY_BYTES) + _ROW_TAIL, dtype=np.uint8)


def put_keys(table: bytes, keys: Keys) -> bytes:
    """A mutateRows call that puts `keys`, u8 (n, 24), with an empty value each, at the server's
    time, with the write-ahead log."""
    body: npt.NDArray[np.uint8] = np.empty((len(keys), KEY_STRIDE), dtype=np.uint8)
    body[:] = _KEY_ROW
    body[:, len(_ROW_HEAD) : len(_ROW_HEAD) + INBOX_KEY_BYTES] = keys
    return b"".join((_rows_head(table, len(keys)), body.data, _STOP))


def put_rows(table: bytes, rows: Iterable[Row]) -> bytes:
    """A mutateRows call that puts rows of any shape, at the server's time, with the write-ahead
    log."""
    parts = []
    count = 0
    for key, columns in rows:
        count += 1
        parts.append(_text(1, key) + _LIST_OF.pack(LIST, 2, STRUCT, len(columns)))
        for qualifier, value in columns:
            parts.append(_text(2, COLUMN + qualifier) + _text(3, value) + _STOP)
        parts.append(_STOP)
    return b"".join((_rows_head(table, count), *parts, _STOP))


def _rows_head(table: bytes, count: int) -> bytes:
    return call_head(b"mutateRows") + _text(1, table) + _LIST_OF.pack(LIST, 2, STRUCT, count)


def put_at(table: bytes, key: bytes, qualifier: bytes, value: bytes, timestamp: int) -> bytes:
    """A mutateRowTs call: one cell with a timestamp of ours, which makes it a maximum register."""
    mutation = _text(2, COLUMN + qualifier) + _text(3, value) + _STOP
    head = call_head(b"mutateRowTs") + _text(1, table) + _text(2, key)
    one = _LIST_OF.pack(LIST, 3, STRUCT, 1) + mutation
    return head + one + struct.pack(">bhq", I64, 4, timestamp) + _STOP
