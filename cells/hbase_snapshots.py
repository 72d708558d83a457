"""A checkpoint of a cell on HBase: snapshots that HBase keeps, named in a small file of ours.

    FOLDER/hbase.json      {"tables": {"position": "firecell-...", ...}, "format": 1}

Each table's snapshot has everything that was answered before it was asked for, but they are taken
one after the other, beside writers. So their order makes them one state:

1. `position`: whatever it covers is in all that follow; what they have beyond it is applied again,
   which changes nothing (I2)
2. `inbox`: no key without its post (I3)
3. the others, at once

Read markers are copied apart, for they only grow (I7); `meta` stays where it is. The file is
written before the first snapshot is taken, so whoever removes the folder can forget them all.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import msgspec

from cells.hbase_loader import Helper
from engine.errors import Corruption
from topics.locks import write_durably

FILE = "hbase.json"
VERSION = 1
TAKEN = (
    "position",
    "inbox",
    "outbox",
    "toggle",
    "following",
    "relation",
    "gap",
    "quarantine",
    "post",
    "decision",
)


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: table -> the name of its snapshot in HBase."""

    tables: dict[str, str]
    format: int = VERSION


def take(helper: Helper, cell: str, folder: Path) -> None:
    """Take them all into `folder`, which is there. `cell` is what its tables' names begin with."""
    own = uuid.uuid4().hex[:16]
    names = Names({table: _legal(f"firecell-{cell}-{own}-{table}") for table in TAKEN})
    write_durably(folder / FILE, msgspec.json.encode(names))
    orders = [["snapshot", name, f"{cell}.{table}"] for table, name in names.tables.items()]
    helper.command(*orders[0])
    helper.command(*orders[1])
    helper.commands(orders[2:])


def read(folder: Path) -> Names:
    """What `take` wrote. Corruption when it is not there or none of ours."""
    path = folder / FILE
    try:
        names = msgspec.json.decode(path.read_bytes(), type=Names)
    except FileNotFoundError:
        raise Corruption(f"{folder} names no snapshots of HBase: use another snapshot") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Corruption(f"{path} is damaged ({error}): use another snapshot") from None
    if names.format != VERSION or set(names.tables) != set(TAKEN):
        raise Corruption(f"{path} is of version {names.format}: use the software that wrote it")
    return names


def forget(helper: Helper, folder: Path) -> None:
    """Let HBase drop what `take` named in `folder`, if anything."""
    if (folder / FILE).exists():
        helper.commands([["forget", name] for name in read(folder).tables.values()])


def check_there(helper: Helper, names: Names) -> None:
    """Corruption when HBase has lost one of them."""
    there = {pair.partition("=")[0] for pair in helper.command("snapshots").split(",")}
    lost = sorted(set(names.tables.values()) - there)
    if lost:
        raise Corruption(
            f"HBase no longer has its snapshot {lost[0]} ({len(lost)} of {len(names.tables)}): use"
            " another snapshot"
        )


def clone(helper: Helper, names: Names, cell: str) -> None:
    """New tables that begin with `cell`, as the snapshots have them."""
    helper.commands(
        [["clone", name, f"{cell}.{table}"] for table, name in names.tables.items()]
    )


def aside_of(cell: str, table: str) -> str:
    """The snapshot of what a restore has replaced."""
    return _legal(f"firecell-{cell}-replaced-{table}")


def _legal(name: str) -> str:
    """A table may lie in a namespace, a snapshot has none."""
    return name.replace(":", "-")
