"""The ports: what the core asks of the world. Backends implement them; tests/contract checks each.

A *record* is a frame with its ROOT position; a relayed copy keeps the root's partition, offset and
append time. A vector of positions always means the *next* offset per partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from engine.keys import INBOX_KEY_BYTES, Keys


class Record(NamedTuple):
    """One event as it lies in the firehose: root position, root append time, frame."""

    partition: int
    offset: int
    time_ms: int
    frame: bytes


class Log(Protocol):
    """The firehose. Several processes may append and read at once; one instance is one thread's
    unless the backend says more."""

    identity: str  # of this firehose: written once, checked by every cell
    partitions: int

    def append(self, entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
        """Append (partition, frame) pairs in order; (offset, append time ms) of each, durable on
        return. All or nothing. Raises DiskFull, Unavailable."""

    def read(
        self, partition: int, offset: int, records_max: int, bytes_max: int
    ) -> list[Record]:
        """Records from `offset` on, at least one if there is any, within the two bounds.
        Empty at the end. RetentionPassed (with `floor`) below the oldest kept."""

    def begin_offsets(self) -> list[int]:
        """Per partition the oldest kept offset."""

    def end_offsets(self) -> list[int]:
        """Per partition the next offset to be appended."""

    def offsets_at(self, time_ms: int) -> list[int]:
        """Per partition the first kept offset appended at `time_ms` (Unix ms) or later; the end
        where there is none."""

    def oldest_ms(self) -> list[int]:
        """Per partition the append time of the oldest kept event, Unix ms; -1 where there is
        none."""

    def commit(
        self,
        group: str,
        positions: Mapping[int, int],
        fence: Callable[[], None] | None = None,
    ) -> None:
        """Keep next offsets of some partitions for a group; synced. `fence` is called right before
        the write, and what it raises prevents it."""

    def committed(self, group: str) -> dict[int, int]:
        """The group's kept next offsets; empty for a group never seen."""

    def groups(self) -> list[str]:
        """Names of all groups that ever committed."""

    def apply_retention(self, now_ms: int) -> int:
        """Drop what is wholly older than the retention; number of segments dropped."""

    def close(self) -> None:
        """Give everything back. Idempotent."""


class PostRow(NamedTuple):
    """A post as a cell holds it. Offsets are of the author's partition; -1 means: not there.
    A tombstone (deleted >= 0) keeps no frames (I6)."""

    offset: int  # lowest offset at which (author, id) was posted
    time_ms: int  # its append time
    frame: bytes  # its event frame; empty when deleted or never posted
    edit_offset: int  # highest offset of an edit
    edit_time_ms: int
    edit_frame: bytes
    delete_offset: int  # lowest offset of a delete


class OutboxEntry(NamedTuple):
    """One of an author's own posts, newest id first; delete_offset -1: not deleted."""

    post: int
    offset: int
    delete_offset: int


class Toggle(NamedTuple):
    """One follow or unfollow, as kept by reader: `floor` is the follow's backfill floor."""

    author: int
    offset: int
    follows: bool
    floor: int


class AuthorInterval(NamedTuple):
    """A recorded decision: of one author's posts those at [from_offset, to_offset) of the author's
    partition are not pushed here; pages merge them in. to_offset -1: it is open."""

    author: int
    from_offset: int
    from_ms: int  # root append time at which it opened
    from_followers: int  # in this cell, when it opened
    push_followers_max: int  # the setting then
    to_offset: int
    to_ms: int
    to_followers: int


class Gap(NamedTuple):
    """A span of one partition that a cell has not covered: [first, last] offsets, times, cause."""

    partition: int
    first_offset: int
    last_offset: int
    from_ms: int
    to_ms: int
    cause: str


def no_keys() -> Keys:
    """An empty (0, 24) array."""
    return np.empty((0, INBOX_KEY_BYTES), dtype=np.uint8)


@dataclass
class Facts:
    """What one batch of records adds to a cell: a pure function of the records, the followers and
    the outboxes at their positions. Applying it again changes nothing (I2)."""

    posts: list[tuple[bytes, int, int, bytes]] = field(default_factory=list)
    """(post key, offset, append time ms, frame)"""
    edits: list[tuple[bytes, int, int, bytes]] = field(default_factory=list)
    """(post key, offset, append time ms, frame)"""
    deletes: list[tuple[bytes, int]] = field(default_factory=list)
    """(post key, offset)"""
    toggles: list[tuple[int, int, int, int, bool, int]] = field(default_factory=list)
    """(partition, author, reader, offset, follows, floor)"""
    relations: list[tuple[int, int, int, int, bool]] = field(default_factory=list)
    """(owner, class, other, offset, on): the highest offset wins"""
    quarantined: list[tuple[Record, str]] = field(default_factory=list)
    """(record, cause)"""
    gaps: list[Gap] = field(default_factory=list)
    inbox: Keys = field(default_factory=no_keys)
    """u8 (n, 24), strictly ascending in byte order"""
    positions: dict[int, tuple[int, int]] = field(default_factory=dict)
    """partition -> (next offset, append time ms of the last record)"""
    again: bool = False
    """applied before (a replay): also what seems to be there already is written, to heal it"""


class Scans(Protocol):
    """Walks over whole tables, for verify, digests and audits: each call is one bounded step, in
    key order, from `start` on; the next step starts behind the last key. Beside a writer a walk
    sees each row as it is when the step comes to it."""

    def readers_from(self, start: int, limit: int) -> list[int]:
        """Users from `start` on that have inbox keys or follow toggles, ascending."""

    def inbox_from(self, start: bytes, limit: int) -> bytes:
        """Joined inbox keys of all readers."""

    def posts_from(self, start: bytes, limit: int) -> list[tuple[bytes, PostRow]]:
        """(post key, row)."""

    def outboxes_from(self, start: bytes, limit: int) -> list[tuple[int, OutboxEntry]]:
        """(author, entry), from an outbox key on."""

    def followings_from(self, start: bytes, limit: int) -> list[tuple[int, Toggle]]:
        """(reader, toggle), from a following key on."""

    def relations_from(self, start: bytes, limit: int) -> list[tuple[int, int, int, bool]]:
        """(owner, class, other, whether it is on), from a relation key on."""


class Store(Scans, Protocol):
    """A cell's durable state. The three write steps are called in the order of I1 by one
    function, `cells.durable.make_durable`; reads may run beside them from another thread.
    Every method may raise Unavailable (dependency) or Corruption."""

    atomic: bool  # write_all is there: all of a batch in one synced, atomic write
    remote: bool  # calls wait for a network: readers make them in threads, with a bound
    bulk: bool  # set while the cell lags far behind: throughput counts, latency does not

    @property
    def keys_aim(self) -> int:
        """A batch is closed when its inbox keys pass this (one post may exceed it)."""

    def write_all(self, facts: Facts) -> None:
        """Rows, inbox keys and positions as one atomic, synced write (small batches)."""

    def write_rows(self, facts: Facts) -> None:
        """Step 1: posts, edits, tombstones, outbox, toggles, relations, quarantine; synced."""

    def write_inbox(self, keys: Keys) -> None:
        """Step 2: inbox keys, durable on return."""

    def write_positions(self, positions: Mapping[int, tuple[int, int]]) -> None:
        """Step 3: next offsets and times, synced."""

    def begun(self) -> dict[str, bytes]:
        """What was begun beside this store (`markers`, `decisions`) -> whose it was then."""

    def note_begun(self, what: str, owner: bytes) -> None:
        """Note that; durable on return."""

    def positions(self) -> tuple[list[int], list[int]]:
        """(next offset, append time ms of the last applied record) of every partition."""

    def inbox_older(self, reader: int, before: bytes, limit: int) -> bytes:
        """Joined inbox keys of `reader` strictly behind key `before` (b"": from the newest)."""

    def inbox_newer(self, reader: int, above: bytes, limit: int) -> bytes:
        """Joined inbox keys of `reader` strictly in front of key `above`, nearest first."""

    def post_rows(self, keys: Sequence[bytes]) -> list[PostRow | None]:
        """The rows of post keys, in their order."""

    def posts_with_id(self, post: int, limit: int) -> list[tuple[int, PostRow]]:
        """(author, row) of every author's post with this id."""

    def outbox(self, author: int, before: bytes, limit: int) -> list[OutboxEntry]:
        """Entries of `author` strictly behind outbox key `before` (b"": from the newest)."""

    def outboxes(self, authors: Sequence[int], limit: int) -> list[list[OutboxEntry]]:
        """The newest entries of many authors, at most `limit` of each, in the order of `authors`:
        a follow needs its author's, an import those of many thousands."""

    def outbox_newer(self, author: int, above: bytes, limit: int) -> list[OutboxEntry]:
        """Entries of `author` strictly in front of outbox key `above` (b"": from the oldest),
        nearest first."""

    def toggles_between(self, reader: int, author: int) -> list[Toggle]:
        """All toggles of one reader towards one author, by offset."""

    def toggles_of_pairs(self, pairs: Sequence[tuple[int, int]]) -> list[list[Toggle]]:
        """`toggles_between` of many (reader, author), in their order: a page needs up to twenty, a
        replay thousands."""

    def toggles_of(self, reader: int, author_from: int, limit: int) -> list[Toggle]:
        """Toggles of a reader by (author, offset), from `author_from` on, at most `limit`."""

    def relations_of(self, owner: int) -> list[tuple[int, int]]:
        """(class, other) of the relations of `owner` that are on."""

    def toggle_rows(self, partition: int) -> Iterable[npt.NDArray[np.uint64]]:
        """All toggles of a partition in key order, as u64 arrays (n, 4): author, reader, offset,
        follows (0 or 1)."""

    def gaps(self) -> list[Gap]:
        """Recorded gaps, quarantined records included, by place."""

    def quarantined(self, limit: int) -> list[tuple[Record, str]]:
        """Kept bad records and their causes, by place."""

    def settle_quarantined(self, places: Sequence[tuple[int, int]], gaps: Sequence[Gap]) -> None:
        """Forget kept bad records by (partition, offset), and keep `gaps`, durable on return; where
        that is not one write, the gaps are kept first."""

    def flush(self) -> None:
        """What is durable in memory and log only goes to files; from any thread. So a checkpoint
        right after it is short."""

    def checkpoint(self, folder: str) -> None:
        """The whole durable state in the new `folder`: what restoring needs. Called between two
        batches it is that of one moment. A remote store is not held for it: there, what it has
        beyond its own positions may be a part of a batch. Raises Conflict when the folder exists.
        """

    def check_whole(self, cell: str) -> None:
        """Precondition while a restore of this store of `cell` has begun and not ended."""

    def forget_checkpoint(self, folder: str) -> None:
        """What a checkpoint holds outside of its folder may go: the folder goes next."""

    def rest(self) -> None:
        """Called while there is nothing to write: a store may use the time for its readers."""

    def pressure(self) -> float:
        """How much longer than at ease (1.0) the worker should gather before a batch: more keys in
        fewer runs let merging catch up, where a stop would make everybody wait."""

    def stats(self) -> dict[str, int]:
        """Numbers for metrics: at least `disk_bytes`, `files_level0`, `compaction_bytes`."""

    def close(self) -> None:
        """Flush what is not durable and give the lock back. Idempotent."""


class Owned(Protocol):
    """What is born in a cell, and so knows whose it is."""

    def owner(self) -> bytes | None:
        """Whose they are, as `begin` noted it; None: nobody's yet."""

    def begin(self, owner: bytes) -> None:
        """Note whose they are, durable on return."""


class Markers(Owned, Protocol):
    """Read markers: born in the cell, so kept apart and synced (I7)."""

    def get(self, reader: int) -> int | None:
        """The marker in force, a post id."""

    def advance(self, reader: int, post: int) -> int:
        """Move forward only; the marker in force, durable on return."""

    def all(self) -> Iterable[tuple[int, int]]:
        """(reader, marker) of everybody."""

    def copy_to(self, folder: str) -> None:
        """All of it as it is at one moment, in the new `folder`, beside writers."""

    def close(self) -> None:
        """Idempotent."""


class Decisions(Owned, Protocol):
    """Recorded decisions: born in the cell, so kept apart and synced. Few, and never removed."""

    def intervals(self) -> list[AuthorInterval]:
        """All of them, by author and from_offset."""

    def record(self, intervals: Sequence[AuthorInterval]) -> None:
        """Keep intervals, durable on return. One is known by its author and from_offset; told
        again, the lowest `to_offset` that closes it counts, whatever the order."""

    def copy_to(self, folder: str) -> None:
        """All of it as it is at one moment, in the new `folder`, beside writers."""

    def close(self) -> None:
        """Idempotent."""


class Shown(NamedTuple):
    """A post as pages need it: its offset (-1: no such post, or deleted) and its JSON, open at the
    end: `...,"seen":` waits for the reader's own view."""

    offset: int
    fragment: bytes


class PostCache(Protocol):
    """Posts in front of a store. Losing all of it at any moment changes no answer.

    The worker writes the store, then the cache. A filler notes `epoch()`, reads the store, then
    calls `fill` with that epoch: nothing is kept if the worker wrote between.
    """

    remote: bool  # calls wait for a network

    def epoch(self) -> int:
        """Changes with every `changed`."""

    def get_many(self, keys: Sequence[bytes]) -> list[Shown | None]:
        """What is kept of the post keys, in their order."""

    def compose(
        self, keys: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], limit: int, marker: int
    ) -> tuple[memoryview, int, int] | None:
        """A page out of joined inbox keys, u8 (24 n,), and the offsets from which the reader
        follows their authors, i64 (n,), -1 when not: the JSON of the visible ones among the first
        `limit` posts (seen up to `marker`), how many, and the index of the last of them (-1: none).
        None when it takes more than is kept here."""

    def fill(
        self, keys: Sequence[bytes], rows: Sequence[PostRow | None], epoch: int
    ) -> list[Shown]:
        """Keep rows that were read at `epoch`; what to show of each either way."""

    def changed(self, keys: Sequence[bytes]) -> None:
        """Forget written posts, from the worker, after that is durable."""

    def stats(self) -> dict[str, int]:
        """At least `entries`, `bytes`, `hits`, `misses`."""
