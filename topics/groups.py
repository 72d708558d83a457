"""The groups' positions: next offsets per (group, partition), in an LMDB environment of their own,
so that committing never waits for an append. Synced at once.

A group's place is kept until somebody forgets it: without one the group would begin again at the
end, and skip in silence what it had yet to read (I9). So their number has a bound.

Key: group name, a zero byte (no name has one), partition u16 BE; value: next offset u64 BE.
Several processes and threads may use it at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import lmdb

from engine.errors import BadInput, Precondition, Unavailable
from engine.limits import GROUPS_KEPT_MAX, POSITIONS_MAP_BYTES, U64_MAX
from topics import environments
from topics.catalog import RESERVED_PREFIXES, check_group_name

FOLDER = "positions"
_NAMES = [b"positions"]
_PARTITION = struct.Struct(">H")
_OFFSET = struct.Struct(">Q")


class GroupPositions:
    """What groups committed. Any thread."""

    def __init__(self, folder: Path, partitions: int) -> None:
        self._partitions = partitions
        self._environment = environments.open_shared(folder / FOLDER, POSITIONS_MAP_BYTES, _NAMES)

    @staticmethod
    def create(folder: Path) -> None:
        """Make the empty environment in `folder`. Structure lock held."""
        environments.create_environment(
            folder / FOLDER, POSITIONS_MAP_BYTES, _NAMES, lambda transaction, databases: None, {}
        )

    def commit(self, group: str, positions: Mapping[int, int]) -> None:
        """Keep next offsets of some partitions; one synced transaction. BadInput; Precondition
        for a new group beyond GROUPS_KEPT_MAX; DiskFull, Unavailable."""
        prefix = check_group_name(group).encode() + b"\0"
        for partition, offset in positions.items():
            if not 0 <= partition < self._partitions:
                raise BadInput(f"partition {partition}: the firehose has {self._partitions}")
            if not 0 <= offset <= U64_MAX:
                raise BadInput(f"partition {partition}: {offset} is no offset")
        if not positions:
            return
        with self._environment.use() as opened:
            try:
                with opened.begin(write=True) as transaction:
                    cursor = transaction.cursor(opened.databases[0])
                    if not (cursor.set_range(prefix) and cursor.key().startswith(prefix)):
                        _refuse_too_many(group, cursor)
                    for partition, offset in positions.items():
                        key = prefix + _PARTITION.pack(partition)
                        transaction.put(key, _OFFSET.pack(offset), db=opened.databases[0])
            except lmdb.MapFullError:
                raise Unavailable(
                    f"the groups' positions fill their {POSITIONS_MAP_BYTES} bytes: there are too"
                    f" many groups, so nothing was kept for {group!r}; use fewer"
                ) from None

    def committed(self, group: str) -> dict[int, int]:
        """Next offset per committed partition; empty for a group never seen."""
        prefix = check_group_name(group).encode() + b"\0"
        found: dict[int, int] = {}
        with self._environment.use() as opened, opened.begin() as transaction:
            cursor = transaction.cursor(opened.databases[0])
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                partition = _PARTITION.unpack(cursor.key()[len(prefix) :])[0]
                found[partition] = _OFFSET.unpack(cursor.value())[0]
                more = cursor.next()
        return found

    def groups(self) -> list[str]:
        """Names of all groups that ever committed, in byte order."""
        with self._environment.use() as opened, opened.begin() as transaction:
            return list(_names(transaction.cursor(opened.databases[0])))

    def forget(self, group: str) -> None:
        """Drop what is kept of a group; synced. Nothing happens for one never seen."""
        prefix = check_group_name(group).encode() + b"\0"
        with self._environment.use() as opened, opened.begin(write=True) as transaction:
            cursor = transaction.cursor(opened.databases[0])
            more = cursor.set_range(prefix)
            while more and cursor.key().startswith(prefix):
                more = cursor.delete()

    def close(self) -> None:
        """Give the environment back."""
        environments.release(self._environment)


def _names(cursor: lmdb.Cursor) -> Iterator[str]:
    """Each group once, in byte order."""
    more = cursor.first()
    while more:
        name = bytes(cursor.key()).partition(b"\0")[0]
        yield name.decode()
        more = cursor.set_range(name + b"\1")


def _refuse_too_many(group: str, cursor: lmdb.Cursor) -> None:
    """Of consumers' groups; cells and relays are as many as are configured."""
    if group.startswith(RESERVED_PREFIXES):
        return
    kept = sum(not name.startswith(RESERVED_PREFIXES) for name in _names(cursor))
    if kept >= GROUPS_KEPT_MAX:
        raise Precondition(
            f"{kept} groups have a place in this firehose already, so {group!r} gets none: use one"
            " of them, or forget one that nobody needs: firecell groups forget NAME"
        )
