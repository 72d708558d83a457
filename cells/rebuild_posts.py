"""Posts of another cell's snapshot for a cell that is rebuilt: every cell has every post.

What the firehose no longer holds, and no snapshot of the cell's own, is lost to it; but posts,
edits and tombstones are the same in all cells. With them pages have authors' old posts again, and
follows that the firehose still holds get the backfills that they had. Lost stay the follows, blocks
and mutes of the cell's own users from before. Copying again changes nothing (I2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cells.snapshot import Whose
from cells.snapshot_files import STORE, Manifest, Tell, check_files, read_manifest
from cells.store_embedded import EmbeddedStore
from engine.errors import Precondition
from engine.homing import HomeRange
from engine.keys import INBOX_KEY_BYTES, inbox_key, parse_post_key
from engine.limits import VERIFY_SCAN_ROWS
from engine.ports import Facts, PostRow, Store


def checked(folder: Path, whose: Whose, tell: Tell) -> Manifest:
    """The manifest of the snapshot in `folder`, all read, if its posts are of use to the cell
    `whose`. NotFound, Corruption; Precondition when it is of another firehose, or has no embedded
    store."""
    manifest = read_manifest(folder)
    if (manifest.identity, manifest.partitions) != (whose.identity, whose.partitions):
        raise Precondition(f"{folder} is a snapshot of another firehose: its posts are others")
    if manifest.store != "embedded":
        raise Precondition(
            f"{folder} is a snapshot of a store in {manifest.store}: only embedded ones can be read"
            " by another cell"
        )
    check_files(folder, manifest, tell)
    return manifest


def stays_lost(manifest: Manifest, at: Sequence[int], floors: Sequence[int]) -> str:
    """What a snapshot's posts do not bring back to a cell that is at the next offsets `at`, when
    the firehose begins at `floors`; empty where nothing is lost."""
    lost = sum(max(floor - here, 0) for here, floor in zip(at, floors, strict=True))
    if not lost:
        return ""
    places = zip(at, manifest.positions, floors, strict=True)
    newer = sum(max(floor - max(here, theirs), 0) for here, theirs, floor in places)
    text = f"follows, blocks and mutes of this cell's own users among {lost:,} events"
    if any(at):  # it has followers from a snapshot of its own
        text += "; the posts among them stay out of its inboxes: pages show a gap there"
    if newer:
        text += f"; all of the {newer:,} among them that are newer than that snapshot"
    return text


def copy_posts(folder: Path, manifest: Manifest, home: HomeRange, store: Store) -> int:
    """Copy every post, edit and tombstone of a `checked` snapshot into `store`, and its own posts
    into the inbox of each author in `home`; how many rows."""
    theirs = EmbeddedStore.open(
        folder / STORE,
        identity=manifest.identity,
        partitions=manifest.partitions,
        cell=manifest.cell,
        home=HomeRange(manifest.home_first, manifest.home_last),
        read_only=True,
    )
    copied, start = 0, b""
    try:
        while rows := theirs.posts_from(start, VERIFY_SCAN_ROWS):
            facts = facts_of(rows, home)
            store.write_rows(facts)
            store.write_inbox(facts.inbox)
            copied += len(rows)
            start = rows[-1][0] + b"\x00"
    finally:
        theirs.close()
    return copied


def facts_of(rows: list[tuple[bytes, PostRow]], home: HomeRange) -> Facts:
    """What makes these rows, and the inbox keys of authors at home, who see what they posted."""
    facts = Facts()
    own: list[bytes] = []
    for key, row in rows:
        post, author = parse_post_key(key)
        if row.offset >= 0:
            facts.posts.append((key, row.offset, row.time_ms, row.frame))
            if author in home:
                own.append(inbox_key(author, post, author))
        if row.edit_offset >= 0:
            facts.edits.append((key, row.edit_offset, row.edit_time_ms, row.edit_frame))
        if row.delete_offset >= 0:
            facts.deletes.append((key, row.delete_offset))
    raw = np.frombuffer(b"".join(sorted(own)), dtype=np.uint8)
    facts.inbox = raw.reshape(-1, INBOX_KEY_BYTES)
    return facts
