"""Walks over whole tables of the store on HBase (`engine.ports.Scans`), a bounded step at a time.

For verify, digests and audits. Any number of threads may walk, beside readers and writers, each
over a connection of its own. A step that finds nothing is the end of its table.
"""

from __future__ import annotations

from cells import rows
from cells.hbase_reads import HBaseReads
from cells.hbase_schema import SALTS, read_outbox, read_post, read_relation
from engine import limits
from engine.keys import (
    INBOX_KEY_BYTES,
    parse_following_key,
    parse_inbox_key,
    parse_relation_key,
    user_prefix,
)
from engine.ports import OutboxEntry, PostRow, Toggle


class HBaseScans(HBaseReads):
    """`HBaseReads`, and the walks."""

    def readers_from(self, start: int, limit: int) -> list[int]:
        """Users from `start` on that have inbox keys or follow toggles, ascending. Each round reads
        about as many rows of both tables as readers are asked for, and goes on behind the last
        reader whom both have shown: a reader with many keys costs one round."""
        found: list[int] = []
        step = min(max(limit, 1), limits.HBASE_SCAN_ROWS)
        user = start
        while len(found) < limit and user <= limits.U64_MAX:
            seen: set[int] = set()
            shown = limits.U64_MAX
            for table in ("inbox", "following"):
                pairs = self._client.scan(table, user_prefix(user), None, step)
                readers = [int.from_bytes(key[:8]) for key, _ in pairs]
                seen.update(readers)
                if len(pairs) == step:
                    shown = min(shown, readers[-1])
            found += sorted(reader for reader in seen if reader <= shown)
            user = shown + 1
        return found[:limit]

    def inbox_from(self, start: bytes, limit: int) -> bytes:
        """Joined inbox keys of all readers."""
        return b"".join([key for key, _ in self._walk("inbox", start, None, limit)])

    def posts_from(self, start: bytes, limit: int) -> list[tuple[bytes, PostRow]]:
        """(post key, row), fewer than `limit` before the end, too. The salts are walked side by
        side, up to the last key that all of them have shown."""
        step = min(limit // SALTS + 1, limits.HBASE_SCAN_ROWS)
        salts = [bytes([salt]) for salt in range(SALTS)]
        ranges = [(salt + start, bytes([salt[0] + 1])) for salt in salts]
        found: list[tuple[bytes, PostRow]] = []
        shown: bytes | None = None
        for pairs in self._client.scans("post", ranges, step):
            for key, columns in pairs:
                row = read_post(columns)
                if row is not None:
                    found.append((key[1:], row))
            if len(pairs) == step and (shown is None or pairs[-1][0][1:] < shown):
                shown = pairs[-1][0][1:]
        known = [pair for pair in found if shown is None or pair[0] <= shown]
        return sorted(known)[:limit]

    def outboxes_from(self, start: bytes, limit: int) -> list[tuple[int, OutboxEntry]]:
        """(author, entry), from an outbox key on. Rows that are no entries (who ever posted, a
        delete of what nobody posted) are passed over."""
        found: list[tuple[int, OutboxEntry]] = []
        while len(found) < limit:
            step = min(limit - len(found), limits.HBASE_SCAN_ROWS)
            pairs = self._client.scan("outbox", start, None, step)
            for key, columns in pairs:
                if len(key) != INBOX_KEY_BYTES:
                    continue
                author, post, _ = parse_inbox_key(key)
                entry = read_outbox(post, columns)
                if entry is not None:
                    found.append((author, entry))
            if len(pairs) < step:
                break
            start = pairs[-1][0] + b"\x00"
        return found

    def followings_from(self, start: bytes, limit: int) -> list[tuple[int, Toggle]]:
        """(reader, toggle), from a following key on."""
        found = []
        for key, columns in self._walk("following", start, None, limit):
            reader, author, offset = parse_following_key(key)
            follows, floor = rows.unpack_following(columns[b""])
            found.append((reader, Toggle(author, offset, follows, floor)))
        return found

    def relations_from(self, start: bytes, limit: int) -> list[tuple[int, int, int, bool]]:
        """(owner, class, other, whether it is on), from a relation key on."""
        return [
            (*parse_relation_key(key), read_relation(columns))
            for key, columns in self._walk("relation", start, None, limit)
        ]
