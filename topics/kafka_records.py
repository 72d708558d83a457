"""What a message in a firehose topic is: the event's frame; a relayed copy says where it came from.

In the root firehose a message has no header of ours: Kafka's own partition, offset and append time
are the root position. A relayed copy carries them in one header:

| header `firecell-root` | content, big-endian |
| --- | --- |
| byte 0 | version = 1 |
| 1..2 | root partition |
| 3..10 | root offset |
| 11..18 | root append time, Unix ms |

Pure; safe from any thread. The layout never changes; another one gets another version.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from engine.errors import Corruption
from engine.ports import Record

ROOT_HEADER = "firecell-root"
_VERSION = 1
_ROOT = struct.Struct(">BHQQ")


def root_header(record: Record) -> tuple[str, bytes]:
    """The header of a relayed copy of `record`."""
    return ROOT_HEADER, _ROOT.pack(_VERSION, record.partition, record.offset, record.time_ms)


def record_of(message: Any) -> Record:
    """A consumed message of the client library as a record."""
    frame = message.value() or b""
    headers = message.headers()
    if headers:
        record = relayed(headers, frame)
        if record is not None:
            return record
    return Record(message.partition(), message.offset(), message.timestamp()[1], frame)


def relayed(headers: Iterable[tuple[str, bytes]], frame: bytes) -> Record | None:
    """The record of a relayed copy; None for one of the root firehose. Corruption when the header
    is not ours."""
    for name, value in headers:
        if name != ROOT_HEADER:
            continue
        if len(value) != _ROOT.size or value[0] != _VERSION:
            raise Corruption(
                f"a relayed message has the header {value.hex()[:64]}, which this version cannot"
                " read: use the version that relayed it"
            )
        _, partition, offset, time_ms = _ROOT.unpack(value)
        return Record(partition, offset, time_ms, frame)
    return None
