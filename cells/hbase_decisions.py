"""Recorded decisions on HBase: a row per interval, a column per fact, so writers never read.

Any number of threads and processes at once: one that tells the same again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Self

from cells.decisions import EmbeddedDecisions
from cells.hbase_client import Address, HBaseClient
from cells.hbase_frames import put_rows
from cells.hbase_schema import OWNER, decision_column
from engine.errors import Misconfigured
from engine.limits import HBASE_SCAN_ROWS
from engine.materialize import join, pack_key, unpack
from engine.ports import AuthorInterval


class HBaseDecisions:
    """`engine.ports.Decisions` on HBase. Use `HBaseDecisions.open`."""

    def __init__(self, client: HBaseClient) -> None:
        """Over a client; `open` makes one."""
        self._client = client

    @classmethod
    def open(cls, url: str) -> Self:
        """The decisions of the cell that `url` names. Raises Misconfigured, Unavailable."""
        client = HBaseClient(Address.parse(url))
        decisions = cls(client)
        table = client.table("decision").decode()
        try:
            if table not in client.probe():
                raise Misconfigured(f"{client.address.place} has no table {table}: open the store")
        except BaseException:
            decisions.close()
            raise
        return decisions

    def owner(self) -> bytes | None:
        """Whose they are, as `begin` noted it; None: nobody's yet."""
        return self._client.rows("decision", [OWNER])[0].get(b"")

    def begin(self, owner: bytes) -> None:
        """Note whose they are, in the write-ahead log on return."""
        call = partial(put_rows, self._client.table("decision"), [(OWNER, [(b"", owner)])])
        self._client.write("begin the decisions", [call])

    def intervals(self) -> list[AuthorInterval]:
        """All of them, by author and from_offset."""
        found: list[AuthorInterval] = []
        start = b""
        while True:
            pairs = self._client.scan("decision", start, None, HBASE_SCAN_ROWS)
            found += [
                reduce(join, [unpack(key, value) for value in row.values()])
                for key, row in pairs
                if key != OWNER
            ]
            if len(pairs) < HBASE_SCAN_ROWS:
                return found
            start = pairs[-1][0] + b"\x00"

    def record(self, intervals: Sequence[AuthorInterval]) -> None:
        """Keep intervals, in the write-ahead log on return; see the port."""
        if intervals:
            rows = [(pack_key(interval), [decision_column(interval)]) for interval in intervals]
            call = partial(put_rows, self._client.table("decision"), rows)
            self._client.write("write decisions", [call])

    def copy_to(self, folder: str) -> None:
        """All of it in the new `folder`, as an embedded cell would have it."""
        copy = EmbeddedDecisions.open(Path(folder))
        try:
            copy.record(self.intervals())
        finally:
            copy.close()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._client.close()
