"""Walks over whole tables of the embedded store (`engine.ports.Scans`), a bounded step at a time.

For verify, digests and audits. Any number of threads may walk, beside readers and the writer; each
step holds the interpreter's lock for its few thousand rows.
"""

from __future__ import annotations

from itertools import islice

from cells import rows
from cells.rocks import translate
from cells.store_reads import StoreReads
from engine.errors import Unavailable
from engine.keys import (
    INBOX_KEY_BYTES,
    parse_following_key,
    parse_inbox_key,
    parse_relation_key,
    user_prefix,
)
from engine.limits import SCAN_TRIES_MAX, U64_MAX
from engine.ports import OutboxEntry, PostRow, Toggle


class StoreScans(StoreReads):
    """`StoreReads`, and the walks."""

    def readers_from(self, start: int, limit: int) -> list[int]:
        """Users from `start` on that have inbox keys or follow toggles, ascending. Skips from
        user to user: the cost is two seeks for each."""
        found: list[int] = []
        try:
            scans = [self._tables[table].iter() for table in ("inbox", "following")]
            user = start
            while len(found) < limit:
                nearest: list[int] = []
                for scan in scans:
                    scan.seek(user_prefix(user))
                    key = scan.key()
                    if key is None:
                        scan.status()
                    else:
                        nearest.append(int.from_bytes(key[:8]))
                if not nearest:
                    break
                user = min(nearest)
                found.append(user)
                if user == U64_MAX:
                    break
                user += 1
        except Exception as error:
            raise translate(error, "list its readers") from error
        return found

    def inbox_from(self, start: bytes, limit: int) -> bytes:
        """Joined inbox keys of all readers."""
        for _ in range(SCAN_TRIES_MAX):
            try:
                raw = b"".join(islice(self._inbox.keys(from_key=start), limit))
            except Exception as error:
                raise translate(error, "read the inbox table") from error
            if len(raw) == limit * INBOX_KEY_BYTES:
                return raw
            last = raw[-INBOX_KEY_BYTES:]
            if self._check_end("inbox", last + b"\x00" if last else start):
                return raw
        raise Unavailable("the inbox table changed while its end was read; ask again")

    def posts_from(self, start: bytes, limit: int) -> list[tuple[bytes, PostRow]]:
        """(post key, row)."""
        return [(key, rows.unpack_post(v)) for key, v in self._scan("post", start, b"", limit)]

    def outboxes_from(self, start: bytes, limit: int) -> list[tuple[int, OutboxEntry]]:
        """(author, entry), from an outbox key on."""
        found = []
        for key, value in self._scan("outbox", start, b"", limit):
            author, post, _ = parse_inbox_key(key)
            found.append((author, rows.unpack_outbox(post, value)))
        return found

    def followings_from(self, start: bytes, limit: int) -> list[tuple[int, Toggle]]:
        """(reader, toggle), from a following key on."""
        found = []
        for key, value in self._scan("following", start, b"", limit):
            reader, author, offset = parse_following_key(key)
            follows, floor = rows.unpack_following(value)
            found.append((reader, Toggle(author, offset, follows, floor)))
        return found

    def relations_from(self, start: bytes, limit: int) -> list[tuple[int, int, int, bool]]:
        """(owner, class, other, whether it is on), from a relation key on."""
        return [
            (*parse_relation_key(key), rows.unpack_relation(value)[1])
            for key, value in self._scan("relation", start, b"", limit)
        ]
