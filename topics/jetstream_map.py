"""What an import of Jetstream must remember: whose id is whose, and what each record said.

A delete names only the record key, so what every follow, like and block pointed at is kept. It is
also what makes importing a file twice change nothing: a record that was seen is not sent again.

One LMDB environment per data folder, format version 1, all numbers big-endian:

| database | key | value |
| --- | --- | --- |
| users | user u64 | the DID |
| records | user u64, collection u8, record key | state u8: 1 live, 2 deleted; author, post u64 |
| live | collection u8, reader u64, author u64, post u64 | how many live records say so, u32 |
| revisions | author u64, post u64 | revision of the newest edit sent |
| cursors | the stream's URL | Unix us up to which everything was published |
| about | name | format version; identity of the firehose that it was imported into |

One import at a time (a file lock). `Batch` is one write transaction around one published batch: it
is committed only after the publish was acknowledged, so a crash between the two sends that batch
again, and nothing is ever taken for sent that was not.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from engine.errors import BadInput, Conflict, Corruption, Precondition
from engine.limits import (
    JETSTREAM_DID_BYTES_MAX,
    JETSTREAM_MAP_BYTES,
    JETSTREAM_RECORD_KEY_BYTES_MAX,
)
from topics.environments import failure_of
from topics.locks import FileLock

VERSION = 1
_NAMES = (b"users", b"records", b"live", b"revisions", b"cursors", b"about")
_USER = struct.Struct(">Q")
_RECORD = struct.Struct(">BQQ")
_LIVE = struct.Struct(">BQQQ")
_COUNT = struct.Struct(">I")
_POST = struct.Struct(">QQ")
_ALIVE, _DELETED = 1, 2


class Target(NamedTuple):
    """What a record points at; `post` 0 for a follow or a block."""

    author: int
    post: int


class Collision(Conflict):
    """Two DIDs with one id: the later one cannot be told from the first."""


def user_id(did: str) -> int:
    """The u64 of a DID: the first 8 bytes of its SHA-256, big-endian; the same everywhere.

    BadInput when it is none."""
    raw = did.encode()
    if not raw.startswith(b"did:") or len(raw) > JETSTREAM_DID_BYTES_MAX:
        raise BadInput(f"{did[:80]!r} is no DID", "did")
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")


class JetstreamMap:
    """The map in `folder`, made when there is none. `identity`: of the firehose imported into."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Precondition when another import uses it, or it belongs to another firehose."""
        folder.mkdir(parents=True, exist_ok=True)
        refusal = f"another import of Jetstream uses {folder}: wait for it, or stop it"
        self._lock = FileLock.acquire(folder / "lock", 0, refusal)
        try:
            self._environment = lmdb.open(
                str(folder), map_size=JETSTREAM_MAP_BYTES, max_dbs=len(_NAMES)
            )
            self._databases = [self._environment.open_db(name) for name in _NAMES]
        except (lmdb.Error, OSError) as error:
            self._lock.release()
            raise failure_of(error, folder) from error
        try:
            self._claim(folder, identity)
        except BaseException:
            self.close()
            raise

    def _claim(self, folder: Path, identity: str) -> None:
        about = self._databases[5]
        try:
            with self._environment.begin(write=True) as transaction:
                version = transaction.get(b"version", db=about)
                if version is None:
                    transaction.put(b"version", b"%d" % VERSION, db=about)
                    transaction.put(b"identity", identity.encode(), db=about)
                    return
                kept = transaction.get(b"identity", b"", db=about).decode()
        except lmdb.Error as error:
            raise failure_of(error, folder) from error
        if version != b"%d" % VERSION:
            raise Precondition(
                f"{folder} has format {version.decode(errors='replace')}, this Firecell reads"
                f" {VERSION}: use the Firecell that wrote it, or move the folder away"
            )
        if kept != identity:
            raise Precondition(
                f"{folder} knows what was imported into firehose {kept}, this one is {identity}:"
                " move that folder away to import from the beginning"
            )

    def close(self) -> None:
        """Give the map back. Idempotent."""
        self._environment.close()
        self._lock.release()

    def cursor(self, url: str) -> int | None:
        """Unix us up to which everything of this stream was published; None: nothing yet."""
        with self._environment.begin() as transaction:
            value = transaction.get(_cursor_key(url), db=self._databases[4])
        return None if value is None else _USER.unpack(value)[0]

    @contextmanager
    def batch(self) -> Iterator[Batch]:
        """One batch: kept when the block ends, forgotten when it raises."""
        try:
            with self._environment.begin(write=True) as transaction:
                yield Batch(transaction, self._databases)
        except lmdb.Error as error:
            raise failure_of(error, Path(self._environment.path())) from error


class Batch:
    """Questions and changes of one batch; see the module. One thread."""

    def __init__(self, transaction: lmdb.Transaction[bytes], databases: list[Any]) -> None:
        self._transaction = transaction
        self._users, self._records, self._live, self._revisions, self._cursors, _ = databases

    def user(self, did: str) -> int:
        """The id of a DID, remembered. Collision when it is another DID's already."""
        user = user_id(did)
        key, raw = _USER.pack(user), did.encode()
        if not self._transaction.put(key, raw, overwrite=False, db=self._users):
            known = self._transaction.get(key, b"", db=self._users)
            if known != raw:
                raise Collision(
                    f"{did[:80]} and {known[:80].decode()} have the same id {user}; what the first"
                    " of the two did is not imported"
                )
        return user

    def add(self, user: int, collection: int, record: str, target: Target) -> bool:
        """Note a new record; whether it is the first live one that says so. False for a record
        that was seen before, deleted or not."""
        value = _RECORD.pack(_ALIVE, *target)
        key = _record_key(user, collection, record)
        if not self._transaction.put(key, value, overwrite=False, db=self._records):
            return False
        return self._count(user, collection, target, 1) == 1

    def remove(self, user: int, collection: int, record: str) -> tuple[Target | None, bool]:
        """Note a deleted record: what it pointed at (None: never seen), and whether it was the
        last live one that said so."""
        key = _record_key(user, collection, record)
        value = self._transaction.get(key, db=self._records)
        if value is None:
            return None, False
        if len(value) != _RECORD.size:
            raise Corruption("the map of an import is damaged: move its folder away, import anew")
        state, author, post = _RECORD.unpack(value)
        target = Target(author, post)
        if state != _ALIVE:
            return target, False
        self._transaction.put(key, _RECORD.pack(_DELETED, *target), db=self._records)
        return target, self._count(user, collection, target, -1) == 0

    def newer(self, author: int, post: int, revision: str) -> bool:
        """Note an edit; False when it, or a newer one, was seen before."""
        key, raw = _POST.pack(author, post), revision.encode()
        if self._transaction.get(key, b"", db=self._revisions) >= raw:
            return False
        self._transaction.put(key, raw, db=self._revisions)
        return True

    def move_cursor(self, url: str, time_us: int) -> None:
        """Everything of this stream up to here is published, once the batch is kept."""
        self._transaction.put(_cursor_key(url), _USER.pack(time_us), db=self._cursors)

    def _count(self, user: int, collection: int, target: Target, change: int) -> int:
        key = _LIVE.pack(collection, user, *target)
        value = self._transaction.get(key, db=self._live)
        count = (0 if value is None else _COUNT.unpack(value)[0]) + change
        if count > 0:
            self._transaction.put(key, _COUNT.pack(count), db=self._live)
        else:
            self._transaction.delete(key, db=self._live)
        return count


def _record_key(user: int, collection: int, record: str) -> bytes:
    raw = record.encode()
    if not 0 < len(raw) <= JETSTREAM_RECORD_KEY_BYTES_MAX:
        raise BadInput(f"a record key of {len(raw)} bytes", "rkey")
    return _USER.pack(user) + bytes((collection,)) + raw


def _cursor_key(url: str) -> bytes:
    return hashlib.sha256(url.encode()).digest()
