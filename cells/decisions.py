"""Recorded decisions on LMDB: born in the cell, so a small database of their own, synced.

Key and value: engine/materialize.py. One process has it open; any number of its threads may call.
"""

from __future__ import annotations

from collections.abc import Sequence

import lmdb

from cells.synced import SyncedDatabase, translate
from engine import materialize
from engine.limits import DECISIONS_MAP_BYTES, DECISIONS_READERS_MAX
from engine.ports import AuthorInterval


class EmbeddedDecisions(SyncedDatabase):
    """`engine.ports.Decisions` on LMDB. Use `EmbeddedDecisions.open`."""

    what = "decisions"
    map_bytes = DECISIONS_MAP_BYTES
    readers_max = DECISIONS_READERS_MAX

    @classmethod
    def check(cls, key: bytes, value: bytes) -> None:
        """Corruption when it is no decision."""
        materialize.unpack(key, value)

    def intervals(self) -> list[AuthorInterval]:
        """All of them, by author and from_offset."""
        try:
            with self._opened().begin(buffers=False) as transaction:
                return [materialize.unpack(*pair) for pair in self._pairs(transaction)]
        except lmdb.Error as error:
            raise translate(error, "read the decisions") from error

    def record(self, intervals: Sequence[AuthorInterval]) -> None:
        """Keep intervals, durable on return; see the port. Raises DiskFull, Unavailable."""
        try:
            with self._commit_lock, self._opened().begin(write=True) as transaction:
                for interval in intervals:
                    key = materialize.pack_key(interval)
                    value = transaction.get(key)
                    if value is not None:
                        interval = materialize.join(materialize.unpack(key, value), interval)
                    transaction.put(key, materialize.pack_value(interval))
        except lmdb.Error as error:
            raise translate(error, "write the decisions") from error
