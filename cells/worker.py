"""The worker: from records of the firehose to inboxes, in numbered steps. No I/O of its own.

1. decode and judge   bad input is quarantined, never stops a cell (I11)
2. toggles            follows and unfollows change the graph, in the order of offsets;
                      a follow that opens an interval copies a backfill
3. recipients         each post takes its author's followers as they are at that moment; those
                      of an author inside an interval (engine/materialize.py) are left out
4. expand             posts x followers -> sorted 24-byte keys (engine.fanout)
5. make durable       I1: decisions -> post rows -> outbox and inbox keys -> position
6. tell               caches forget what changed, readers may see it

Steps 1-4 are a pure function of the records and of the state before them, so a batch that is
applied again (a crash, a replay) writes the same (I2). One thread calls; readers look at the
graph and the store beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cells.backfill import BatchOutbox, OutboxHeads
from cells.durable import make_durable, no_crash
from cells.graph import Graph
from cells.intervals import AuthorIntervals
from engine import fanout, limits
from engine.codec import decode
from engine.errors import BadInput, Precondition, Unavailable, Unprocessable
from engine.events import (
    BLOCK,
    FOLLOW,
    MUTE,
    UNBLOCK,
    UNFOLLOW,
    Delete,
    Edit,
    Event,
    Post,
    Relation,
)
from engine.homing import HomeRange, mix64
from engine.ids import id_ms
from engine.keys import (
    BLOCKED_BY,
    BLOCKS,
    INBOX_KEY_BYTES,
    MUTES,
    Keys,
    inbox_key,
    parse_post_key,
    post_key,
)
from engine.limits import FLOOR_NONE
from engine.ports import AuthorInterval, Facts, PostCache, Record, Store, no_keys
from engine.timeline import backfill, fold_toggles

_NOBODY = np.empty(0, dtype=np.uint32)


class Batch:
    """What steps 1-4 gather of one batch."""

    def __init__(self, store: Store, heads: OutboxHeads) -> None:
        self.facts = Facts()
        self.post_ids: list[int] = []
        self.authors: list[int] = []
        self.recipients: list[Any] = []  # one u32 array of reader indexes per post
        self.decided: list[AuthorInterval] = []
        self.extra: list[bytes] = []  # inbox keys of backfills and of authors themselves
        self.outbox = BatchOutbox(store, heads)
        self.keys_expected = 0
        self.consumed = 0


@dataclass
class WorkerCounts:
    """What a worker has done since it started; plain numbers, read by metrics."""

    events: int = 0
    posts: int = 0
    toggles: int = 0
    inbox_keys: int = 0
    batches: int = 0
    others: int = 0  # events that other workers of this cell applied
    quarantined: int = 0
    dropped: int = 0  # below the position: seen before
    backfilled: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"plan": 0.0, "expand": 0.0, "rows": 0.0, "inbox": 0.0, "done": 0.0}
    )

    def add(self, batch: Batch) -> None:
        """Count a batch that is durable."""
        self.batches += 1
        self.events += batch.consumed
        self.posts += len(batch.post_ids)
        self.toggles += len(batch.facts.toggles)
        self.inbox_keys += len(batch.facts.inbox)
        self.quarantined += len(batch.facts.quarantined)


class Worker:
    """Applies records to one cell. Owned by one thread."""

    def __init__(
        self,
        store: Store,
        graph: Graph,
        home: HomeRange,
        intervals: AuthorIntervals,
        *,
        cache: PostCache | None = None,
        forget_relations: Callable[[int], None] = lambda owner: None,
        crash: Callable[[str], None] = no_crash,
        heads: OutboxHeads | None = None,
    ) -> None:
        """`heads`: of the worker that writes the same outboxes, where there is one."""
        self._store = store
        self.heads = self._heads = heads or OutboxHeads(store)
        self._graph = graph
        self._home = home
        self.intervals = intervals
        self._cache = cache
        self._forget_relations = forget_relations
        self.crash = crash
        self.next_offsets, self.times_ms = store.positions()
        self._planned = list(self.next_offsets)
        # (reader, author) -> offset -> (follows, floor): toggles of this batch that the graph
        # holds already and the store does not, as it is planned again
        self._again: dict[tuple[int, int], dict[int, tuple[bool, int]]] = {}
        self._partitions = len(self._planned)
        self.counts = WorkerCounts()

    def apply(self, records: Sequence[Record]) -> int:
        """Apply a prefix of `records` (per partition in order of offset) and make it durable.

        Returns how many were consumed: all, unless the batch grew past the store's keys_aim. Raises
        Precondition on a hole in the offsets (I8).
        """
        batch = self.plan(records)
        self.crash("planned")
        self.finish(batch)
        return batch.consumed

    def plan(self, records: Sequence[Record]) -> Batch:
        """Steps 1-4. After Unavailable call it again with the same records."""
        try:
            return self._plan(records)
        except Unavailable:
            self._planned = list(self.next_offsets)
            raise

    def _plan(self, records: Sequence[Record]) -> Batch:
        started = time.perf_counter()
        batch = Batch(self._store, self._heads)
        self._again = {}
        if self._store.remote:
            self._heads.expect(self._followed(records))
        for index, record in enumerate(records):
            if not self._is_next(record):
                continue
            try:
                self._take(batch, record, decode(record.frame))
            except (BadInput, Unprocessable) as error:
                batch.facts.quarantined.append((record, error.message))
            batch.facts.positions[record.partition] = (record.offset + 1, record.time_ms)
            if batch.keys_expected >= self._keys_aim():
                batch.consumed = index + 1
                break
        else:
            batch.consumed = len(records)
        batch.decided = self.intervals.take_decided()
        planned = time.perf_counter()
        batch.facts.inbox = self._expand(batch)
        self.counts.seconds["plan"] += planned - started
        self.counts.seconds["expand"] += time.perf_counter() - planned
        return batch

    def _keys_aim(self) -> int:
        """How many keys close a batch."""
        return self._store.keys_aim

    def finish(self, batch: Batch) -> None:
        """Steps 5 and 6. After Unavailable call it again with the same batch."""
        facts = batch.facts
        self.intervals.make_durable(batch.decided)
        if batch.decided:
            self.crash("decided")
        make_durable(self._store, facts, self.crash, self.counts.seconds)
        if self._cache is not None:
            posts, edits = (fact[0] for fact in facts.posts), (fact[0] for fact in facts.edits)
            self._cache.changed([*posts, *edits, *(fact[0] for fact in facts.deletes)])
        for key in (*(fact[0] for fact in facts.posts), *(fact[0] for fact in facts.deletes)):
            self._heads.forget(parse_post_key(key)[1])
        self.intervals.note_posts(batch.authors)
        for owner, _, _, _, _ in facts.relations:
            self._forget_relations(owner)
        for partition, (offset, time_ms) in facts.positions.items():
            self.next_offsets[partition] = offset
            self.times_ms[partition] = time_ms
        self.counts.add(batch)

    def explain_author(self, author: int) -> dict[str, Any]:
        """Whether an author is pushed or pulled here, and why; JSON-ready. Any thread."""
        return self.intervals.explain(author, self._graph.follower_count(author))

    def follow_other(self, records: Sequence[Record]) -> None:
        """What another worker of this cell has made durable, for what is kept in memory here: the
        graph, decisions, the caches, the position. Writes nothing. Between two batches only."""
        changed: list[bytes] = []
        self.intervals.refresh()
        for record in records:
            if not self._is_next(record):
                continue
            toggle = toggle_of(record, self._home, self._partitions)
            if toggle is not None:
                change = self._graph.follow if toggle.kind == FOLLOW else self._graph.unfollow
                if record.offset >= self._graph.end[record.partition]:
                    change(record.partition, toggle.author, toggle.reader, record.offset)
            else:
                changed += self._changed_by(record)
            self.next_offsets[record.partition] = record.offset + 1
            self.times_ms[record.partition] = record.time_ms
        if self._cache is not None and changed:
            self._cache.changed(changed)
        self.intervals.note_posts([parse_post_key(key)[1] for key in changed])
        self.counts.others += len(records)  # pages are not what they were

    def _followed(self, records: Sequence[Record]) -> Iterator[int]:
        """Whose followers the records add to, in their order; as far as it is asked for."""
        for record in records:
            toggle = toggle_of(record, self._home, self._partitions)
            if toggle is not None and toggle.kind == FOLLOW:
                yield toggle.author

    def _changed_by(self, record: Record) -> list[bytes]:
        """Post keys that a record changes; relations that it changes are forgotten here."""
        try:
            event = decode(record.frame)
        except BadInput:
            return []
        if type(event) is Post or type(event) is Delete:
            self._heads.forget(event.author)
        if type(event) is Post:
            return [post_key(event.id, event.author)]
        if type(event) is Edit or type(event) is Delete:
            return [post_key(event.post, event.author)]
        if type(event) is Relation:
            self._forget_relations(event.reader)
            self._forget_relations(event.author)
        return []

    def _is_next(self, record: Record) -> bool:
        """I8: root offsets continue. Lower was seen before and is dropped; higher is a hole."""
        expected = self._planned[record.partition]
        if record.offset == expected:
            self._planned[record.partition] = expected + 1
            return True
        if record.offset < expected:
            self.counts.dropped += 1
            return False
        raise Precondition(
            f"a hole in partition {record.partition}: offset {record.offset} came where {expected}"
            " was due; the cell stops rather than lose events: check the firehose's retention,"
            " then `firecell cell NAME --accept-gap` records the gap and goes on"
        )

    # --- step 1: judge; then each kind of event says what it adds ---

    def _take(self, batch: Batch, record: Record, event: Event) -> None:
        mixed = mix64(event.account)
        if mixed % self._partitions != record.partition:
            raise BadInput("the event lies in another partition than its account's")
        if type(event) is Post:
            at_home = self._home.first <= mixed <= self._home.last
            self._take_post(batch, record, event, at_home)
        elif type(event) is Relation:
            if event.reader == event.author:
                return  # everybody follows themselves, and nobody hides from themselves
            if event.kind <= UNFOLLOW:
                self._take_toggle(batch, record, event)
            else:
                self._take_relation(batch, record, event)
        elif type(event) is Edit:
            key = post_key(event.post, event.author)
            batch.facts.edits.append((key, record.offset, record.time_ms, record.frame))
        elif type(event) is Delete:
            key = post_key(event.post, event.author)
            batch.facts.deletes.append((key, record.offset))
            batch.outbox.delete(key, record.offset)

    def _take_post(self, batch: Batch, record: Record, post: Post, at_home: bool) -> None:
        """Step 3 for one post; an id of the future would stand on top of every page."""
        if id_ms(post.id) > record.time_ms + limits.ID_AHEAD_MS_MAX:
            raise Unprocessable(f"post id {post.id} is more than 60 s ahead of its append time")
        key = post_key(post.id, post.author)
        batch.facts.posts.append((key, record.offset, record.time_ms, record.frame))
        batch.outbox.post(post.author, post.id, record.offset)
        recipients = self._recipients(record, post)
        batch.post_ids.append(post.id)
        batch.authors.append(post.author)
        batch.recipients.append(recipients)
        batch.keys_expected += len(recipients)
        if at_home:
            batch.extra.append(inbox_key(post.author, post.id, post.author))

    def _recipients(self, record: Record, post: Post) -> Any:
        """The followers to push a post to: u32 reader indexes; nobody, where it is left out."""
        intervals, author = self.intervals, post.author
        if author not in intervals:
            everybody = self._graph.recipients(record.partition, author)
            if len(everybody) <= intervals.push_followers_max:
                return everybody
        followers = self._graph.follower_count(author)
        place = (post.id, record.offset, record.time_ms)
        if intervals.leaves_out(author, place, followers, self._decides(record)):
            return _NOBODY
        return self._graph.recipients(record.partition, author)

    def _decides(self, record: Record) -> bool:
        """Whether the graph is as it was at the record, so that its numbers may decide. Where it
        holds later toggles (a crash, a replay), all that was decided below them is recorded:
        decisions are durable before the toggles of their batch."""
        return record.offset >= self._graph.end[record.partition]

    def _take_toggle(self, batch: Batch, record: Record, toggle: Relation) -> None:
        """Step 2 for one follow or unfollow of a reader at home here."""
        reader, author = toggle.reader, toggle.author
        if reader not in self._home:
            return
        partition, offset = record.partition, record.offset
        follows, floor = toggle.kind == FOLLOW, FLOOR_NONE
        if self._opens(partition, author, reader, offset, follows):
            entries = batch.outbox.entries(author)
            copied, floor = backfill(entries, offset, record.time_ms)
            batch.extra.extend(inbox_key(reader, post, author) for post in copied)
            batch.keys_expected += len(copied)
            self.counts.backfilled += len(copied)
        batch.facts.toggles.append((partition, author, reader, offset, follows, floor))

    def _opens(self, partition: int, author: int, reader: int, offset: int, follows: bool) -> bool:
        """Whether this toggle opens an interval. Where the graph already holds what comes after
        the toggle (a crash, a replay), the fold of the stored toggles below it decides."""
        if offset >= self._graph.end[partition]:
            if follows:
                return self._graph.follow(partition, author, reader, offset)
            self._graph.unfollow(partition, author, reader, offset)
            return False
        mine = self._again.setdefault((reader, author), {})
        opens = False
        if follows:
            stored = self._store.toggles_between(reader, author)
            facts = {t.offset: (t.follows, t.floor) for t in stored} | mine
            before = ((at, *facts[at]) for at in sorted(facts))
            opens = fold_toggles(before, below=offset) is None
        mine[offset] = (follows, FLOOR_NONE)
        return opens

    def _take_relation(self, batch: Batch, record: Record, relation: Relation) -> None:
        """A block or mute is kept by the reader; a block also by the one who is blocked."""
        reader, author, kind = relation.reader, relation.author, relation.kind
        on = kind in (BLOCK, MUTE)
        is_block = kind in (BLOCK, UNBLOCK)
        if reader in self._home:
            of_reader = BLOCKS if is_block else MUTES
            batch.facts.relations.append((reader, of_reader, author, record.offset, on))
        if is_block and author in self._home:
            batch.facts.relations.append((author, BLOCKED_BY, reader, record.offset, on))

    # --- step 4 ---

    def _expand(self, batch: Batch) -> Keys:
        if not batch.post_ids and not batch.extra:
            return no_keys()
        indptr, readers = self._graph.gather(batch.recipients)
        extra = np.frombuffer(b"".join(batch.extra), dtype=np.uint8).reshape(-1, INBOX_KEY_BYTES)
        return fanout.expand(
            np.array(batch.post_ids, dtype=np.uint64),
            np.array(batch.authors, dtype=np.uint64),
            indptr,
            readers,
            self._graph.reader_ids,
            extra,
        )


def toggle_of(record: Record, home: HomeRange, partitions: int) -> Relation | None:
    """The follow or unfollow of a record that changes this cell's graph, else None."""
    try:
        event = decode(record.frame)
    except BadInput:
        return None
    if type(event) is not Relation or event.kind > UNFOLLOW or event.reader == event.author:
        return None
    mine = mix64(event.author) % partitions == record.partition and event.reader in home
    return event if mine else None
