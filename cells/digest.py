"""The logical digest of a cell: the same for any two whose answers are the same (DESIGN 8).

Over posts and tombstones, outboxes, toggles with their floors, and visible inboxes with whom their
readers hide, each in the order of its keys. Stale inbox keys, positions, gaps and how files lie on
the disk do not count: a cell that was replayed or rebuilt has the digest of one that never was.
BLAKE2b of 16 bytes; one thread.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b

from cells.verify_rule import U64s
from engine.ports import OutboxEntry, PostRow, Toggle

_BYTES = 16
_POST = struct.Struct(">16sqQqQqII")
_OUTBOX = struct.Struct(">QQqq")
_TOGGLE = struct.Struct(">QQQBQ")
_INBOX = struct.Struct(">QII")
SECTIONS = ("posts", "outboxes", "toggles", "inboxes")


class Digest:
    """Gathers what the walks meet. `wanted` False: nothing is computed."""

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted
        self._sums = {section: blake2b(digest_size=_BYTES) for section in SECTIONS}

    def post(self, key: bytes, row: PostRow) -> None:
        """One post row, in the order of keys."""
        if self.wanted:
            offset, time_ms, frame, edit_offset, edit_ms, edit, delete = row
            head = _POST.pack(
                key, offset, time_ms, edit_offset, edit_ms, delete, len(frame), len(edit)
            )
            self._sums["posts"].update(head + frame + edit)

    def outbox(self, author: int, entry: OutboxEntry) -> None:
        """One outbox entry, in the order of keys."""
        if self.wanted:
            self._sums["outboxes"].update(_OUTBOX.pack(author, *entry))

    def toggles(self, reader: int, toggles: Iterable[Toggle]) -> None:
        """A reader's toggles, by author and offset; readers ascend."""
        if self.wanted:
            pack = _TOGGLE.pack
            self._sums["toggles"].update(
                b"".join(pack(reader, t.author, t.offset, t.follows, t.floor) for t in toggles)
            )

    def inbox(self, reader: int, hidden: Iterable[int], authors: U64s, posts: U64s) -> None:
        """What a reader's pages show, in their order, and whom the reader hides; readers ascend,
        those with neither are left out."""
        hides = sorted(hidden)
        if self.wanted and (hides or len(posts)):
            update = self._sums["inboxes"].update
            update(_INBOX.pack(reader, len(hides), len(posts)))
            update(struct.pack(f">{len(hides)}Q", *hides))
            update(posts.astype(">u8").tobytes() + authors.astype(">u8").tobytes())

    def document(self) -> dict[str, str]:
        """Section -> hex; `all` is the one to compare first."""
        parts = {section: self._sums[section].hexdigest() for section in SECTIONS}
        whole = blake2b("".join(parts.values()).encode(), digest_size=_BYTES)
        return {"all": whole.hexdigest(), **parts}
