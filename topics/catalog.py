"""What a firehose is: its identity, its partitions, its retention; and the names of groups.

`firehose.json` is written once, when the firehose is made: identity and partition count can never
change, since every cell's offsets and homes follow from them. The retention is a setting of whoever
opens it. Pure but for reading and writing that file; safe from any thread.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import msgspec

from engine.errors import BadInput, Corruption, Misconfigured
from engine.limits import (
    FORMAT_VERSION,
    GROUP_NAME_CHARACTERS_MAX,
    PARTITIONS_MAX,
    RETENTION_MS_MIN,
)
from topics.locks import write_durably

META_FILE = "firehose.json"
RESERVED_PREFIXES = ("cell.", "relay.")
_NAME = re.compile(rf"[a-z0-9._-]{{1,{GROUP_NAME_CHARACTERS_MAX}}}")
_IDENTITY = re.compile(r"[0-9a-f]{32}")


class FirehoseMeta(msgspec.Struct, frozen=True):
    """A firehose as it was made, and how long this process keeps its events."""

    identity: str
    partitions: int
    retention_ms: int


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `firehose.json`."""

    format: int
    identity: str
    partitions: int


def new_identity() -> str:
    """32 random hexadecimal digits; called once in a firehose's life."""
    return uuid.uuid4().hex


def check_partitions(partitions: int) -> int:
    """`partitions` when a firehose may have so many, else Misconfigured."""
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise Misconfigured(f"[firehose] partitions = {partitions}; it must be 1..{PARTITIONS_MAX}")
    return partitions


def check_retention_ms(retention_ms: int) -> int:
    """`retention_ms` when it is long enough to be meant, else Misconfigured."""
    if retention_ms < RETENTION_MS_MIN:
        raise Misconfigured(
            f"[firehose] retention = {retention_ms} ms; it must be at least {RETENTION_MS_MIN} ms"
        )
    return retention_ms


def write_meta(folder: Path, meta: FirehoseMeta) -> None:
    """Write `firehose.json`: the last step of making a firehose."""
    written = _Written(FORMAT_VERSION, meta.identity, meta.partitions)
    write_durably(folder / META_FILE, msgspec.json.encode(written) + b"\n")


def read_meta(folder: Path, partitions: int | None, retention_ms: int) -> FirehoseMeta | None:
    """The firehose in `folder`; None when none was made there.

    Misconfigured when it has another number of partitions than asked for (None: any) or a format
    that this software does not know; Corruption when the file is not ours.
    """
    path = folder / META_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        written = msgspec.json.decode(content, type=_Written)
    except msgspec.MsgspecError as error:
        raise Corruption(f"{path} is damaged: {error}. Restore it from a backup") from None
    if written.format != FORMAT_VERSION:
        raise Misconfigured(
            f"{path} has format {written.format}; this software reads {FORMAT_VERSION}:"
            " use the version that wrote it"
        )
    if not _IDENTITY.fullmatch(written.identity) or not 1 <= written.partitions <= PARTITIONS_MAX:
        raise Corruption(f"{path} is damaged: {written}. Restore it from a backup")
    if partitions is not None and partitions != written.partitions:
        raise Misconfigured(
            f"the firehose in {folder} has {written.partitions} partitions, the configuration says"
            f" {partitions}. The number can never change: set [firehose] partitions ="
            f" {written.partitions}, or use another folder for a new firehose"
        )
    return FirehoseMeta(written.identity, written.partitions, retention_ms)


def check_group_name(group: str) -> str:
    """`group` when it is a group's name at all, else BadInput."""
    if not _NAME.fullmatch(group):
        raise BadInput(
            f"group {group[:GROUP_NAME_CHARACTERS_MAX]!r}: a name is 1 to"
            f" {GROUP_NAME_CHARACTERS_MAX} of a-z, 0-9, '.', '_' and '-'",
            "group",
        )
    return group


def gateways_group(topic: str) -> str:
    """The consumer group of the gateways of a firehose in Kafka. No public group has this name: a
    slash is in none of theirs."""
    return f"gateways/{topic}"


def gateways_topic(topic: str) -> str:
    """The topic whose one partition its coordinating gateway owns."""
    return f"{topic}.gateways"


def check_public_group_name(group: str) -> str:
    """`group` when a consumer may use it: `cell.` and `relay.` are reserved. Else BadInput."""
    check_group_name(group)
    if group.startswith(RESERVED_PREFIXES):
        raise BadInput(
            f"group {group!r}: names that begin with {' or '.join(RESERVED_PREFIXES)} belong to"
            " cells and relays; choose another",
            "group",
        )
    return group
