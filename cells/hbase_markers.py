"""Read markers on HBase: a marker's timestamp is the post id, so HBase keeps the newest one,
whatever the order in which devices report (I7).

In the write-ahead log before it is answered. Any number of threads and processes at once, each
thread over a connection of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from cells.hbase_client import Address, HBaseClient
from cells.hbase_frames import put_at, put_rows
from cells.hbase_schema import OWNER, marker_cell, read_marker
from cells.markers import EmbeddedMarkers, add_all
from engine.errors import Misconfigured, invariant
from engine.keys import user_prefix
from engine.limits import HBASE_SCAN_ROWS


class HBaseMarkers:
    """`engine.ports.Markers` on HBase. Use `HBaseMarkers.open`."""

    def __init__(self, client: HBaseClient) -> None:
        """Over a client; `open` makes one."""
        self._client = client

    @classmethod
    def open(cls, url: str) -> Self:
        """The markers of the cell that `url` names. Raises Misconfigured, Unavailable."""
        client = HBaseClient(Address.parse(url))
        markers = cls(client)
        table = client.table("marker").decode()
        try:
            if table not in client.probe():
                raise Misconfigured(f"{client.address.place} has no table {table}: open the store")
        except BaseException:
            markers.close()
            raise
        return markers

    def owner(self) -> bytes | None:
        """Whose they are, as `begin` noted it; None: nobody's yet."""
        return self._client.rows("marker", [OWNER])[0].get(b"")

    def begin(self, owner: bytes) -> None:
        """Note whose they are, in the write-ahead log on return."""
        call = partial(put_rows, self._client.table("marker"), [(OWNER, [(b"", owner)])])
        self._client.write("begin the markers", [call])

    def get(self, reader: int) -> int | None:
        """The marker in force, a post id; None when nothing was marked yet."""
        return read_marker(self._client.rows("marker", [user_prefix(reader)])[0])

    def advance(self, reader: int, post: int) -> int:
        """Move forward only; the marker in force, durable on return."""
        qualifier, value, timestamp = marker_cell(post)
        row = user_prefix(reader)
        self._client.mutate_at("write a marker", "marker", row, (qualifier, value), timestamp)
        in_force = self.get(reader)
        invariant(in_force is not None and in_force >= post, "a written marker is there")
        return post if in_force is None else in_force

    def all(self) -> Iterator[tuple[int, int]]:
        """(reader, marker) of everybody, each as it is when the walk comes to it."""
        start = b""
        while True:
            pairs = self._client.scan("marker", start, None, HBASE_SCAN_ROWS)
            for key, columns in pairs:
                marker = read_marker(columns) if key != OWNER else None
                if marker is not None:
                    yield int.from_bytes(key), marker
            if len(pairs) < HBASE_SCAN_ROWS:
                return
            start = pairs[-1][0] + b"\x00"

    def advance_many(self, markers: Sequence[tuple[int, int]]) -> None:
        """`advance` for many (reader, post), in few round trips; durable on return."""
        table = self._client.table("marker")
        calls = []
        for reader, post in markers:
            qualifier, value, timestamp = marker_cell(post)
            calls.append(partial(put_at, table, user_prefix(reader), qualifier, value, timestamp))
        for start in range(0, len(calls), HBASE_SCAN_ROWS):  # what sockets hold of the answers
            some = calls[start : start + HBASE_SCAN_ROWS]
            self._client.write("write markers", some, together=True)

    def copy_to(self, folder: str) -> None:
        """All of it in the new `folder`, as an embedded cell would have it."""
        copy = EmbeddedMarkers.open(Path(folder))
        try:
            add_all(self.all(), copy.advance_many)
        finally:
            copy.close()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._client.close()
