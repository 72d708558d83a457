"""Whose data the tables of a cell on HBase hold, and that they are being restored: table `meta`.

Both are rows that every process of the cell sees at its start, on whatever machine. Restores never
touch this table. Any thread.
"""

from __future__ import annotations

from functools import partial

from cells import rows
from cells.hbase_client import HBaseClient
from cells.hbase_frames import put_rows
from cells.hbase_schema import BEGUN
from engine.errors import Misconfigured, Precondition

_META_KEY = b"cell"
_NOTE_KEY = b"restoring"


def check_meta(client: HBaseClient, wanted: rows.Meta) -> None:
    """Compare the record, or write it where there is none. Misconfigured when the tables are
    another cell's or firehose's."""
    found = client.rows("meta", [_META_KEY])[0]
    if not found:
        _put(client, _META_KEY, rows.pack_meta(wanted))
        found = client.rows("meta", [_META_KEY])[0]  # another process may have begun it
    kept = rows.unpack_meta(found[b""])
    for name in rows.Meta.__struct_fields__:
        mine, theirs = getattr(wanted, name), getattr(kept, name)
        if mine != theirs:
            raise Misconfigured(
                f"the tables {client.address.cell}.* at {client.address.place} hold a cell with"
                f" {name} {theirs}, not {mine}: {_META_ADVICE[name]}"
            )


def owner(client: HBaseClient) -> rows.Meta | None:
    """Whose they are; None: not known yet."""
    found = client.rows("meta", [_META_KEY])[0]
    return rows.unpack_meta(found[b""]) if found else None


def is_written(client: HBaseClient) -> bool:
    """Whether it is known whose they are."""
    return bool(client.rows("meta", [_META_KEY])[0])


def forget_begun(client: HBaseClient) -> None:
    """Markers and decisions are put back or begin anew: what is there at the next start is taken
    over (cells/born.py)."""
    client.delete("forget what was begun", "meta", [BEGUN])


def noted(client: HBaseClient) -> bool:
    """Whether a restore has begun and not ended."""
    return bool(client.rows("meta", [_NOTE_KEY])[0])


def check_whole(client: HBaseClient, cell: str) -> None:
    """Refuse a cell whose restore was cut short: Precondition."""
    if noted(client):
        raise Precondition(
            f"cell {cell} was being restored when that was cut short: type `firecell snapshot"
            " restore` or `firecell rebuild` again (its note is the row `restoring` in the table"
            f" {client.table('meta').decode()})"
        )


def note(client: HBaseClient, what: str) -> None:
    """A restore begins."""
    _put(client, _NOTE_KEY, what.encode())


def end_note(client: HBaseClient) -> None:
    """It is done."""
    client.delete("end a restore", "meta", [_NOTE_KEY])


def _put(client: HBaseClient, key: bytes, value: bytes) -> None:
    call = partial(put_rows, client.table("meta"), [(key, [(b"", value)])])
    client.write("write about a store", [call])


_META_ADVICE = {
    "format": "use the software that wrote it, or rebuild the cell under another name",
    "identity": "these are the tables of a cell of another firehose; configure that firehose, or"
    " give the cell another name in the URL",
    "partitions": "the number of partitions can never change; set it back",
    "cell": "these are another cell's tables; correct the name in the URL",
    "home_first": "its users' range has changed; set the shares back, or rebuild the cell",
    "home_last": "its users' range has changed; set the shares back, or rebuild the cell",
}
