"""Applying records again, beside the live worker: the same numbered steps, other positions.

What differs from `cells.worker`, and why:

- the live position is neither read nor written: a replay has positions of its own (cells/replay.py)
- a toggle lies below what the graph holds, so the fold of the pair's toggles below it decides
  whether it opened an interval: those that are stored and those of this batch, as damage may have
  taken some of the stored ones
- what seems to be there is written again (`Facts.again`), and an edge of the graph that differs
  from the fold is mended: that heals rows, outboxes and keys that were damaged
- bad records that were dropped by hand stay dropped
- the toggles of all pairs of a batch are asked for at once: a store behind a network would take
  longer for them than for everything else
- `bulk`: the store takes its bulk path, where that is another one (HBase: adopted files)

Posts go to those who follow now. Of those, the rule shows a post to whoever followed at its offset
or was given it by a backfill, which is replayed as well; the others' keys never show (docs/
decisions: current followers are enough). So extra keys are invisible, missing ones there are none.

Lives on the thread of the live worker, between its batches: nothing here needs a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

from cells.backfill import OutboxHeads
from cells.durable import no_crash
from cells.graph import Graph
from cells.intervals import AuthorIntervals
from cells.worker import Batch, Worker, toggle_of
from engine import limits
from engine.errors import invariant
from engine.events import Event
from engine.homing import HomeRange
from engine.ports import PostCache, Record, Store
from engine.timeline import fold_toggles


class ReplayWorker(Worker):
    """A worker for one span, starting at `positions`.

    intervals  the live worker's: here the record decides, never today's number of followers
    accounts   only events about these; None: all
    dropped    places of bad records that were given up by hand
    distrust   called before each mending of the graph: what is kept of it elsewhere is wrong, too
    """

    def __init__(
        self,
        store: Store,
        graph: Graph,
        home: HomeRange,
        intervals: AuthorIntervals,
        positions: Sequence[int],
        *,
        cache: PostCache | None = None,
        forget_relations: Callable[[int], None] = lambda owner: None,
        accounts: Set[int] | None = None,
        dropped: Set[tuple[int, int]] = frozenset(),
        distrust: Callable[[], None] = lambda: None,
        crash: Callable[[str], None] = no_crash,
        heads: OutboxHeads | None = None,
    ) -> None:
        super().__init__(
            store,
            graph,
            home,
            intervals,
            cache=cache,
            forget_relations=forget_relations,
            crash=crash,
            heads=heads,
        )
        invariant(len(positions) == self._partitions, "a replay names all partitions")
        self.next_offsets = list(positions)
        self._planned = list(positions)
        self._accounts = accounts
        self._dropped = dropped
        self._distrust = distrust
        self._pairs: dict[tuple[int, int], dict[int, tuple[bool, int]]] = {}
        self._positions: dict[int, tuple[int, int]] = {}
        self.keys_aim = limits.WORKER_KEYS_AIM
        self.bulk = False
        self.mended = 0

    def plan(self, records: Sequence[Record]) -> Batch:
        """Steps 1-4. The positions stay here, so that no store takes them for the live ones."""
        self._pairs = self._stored_pairs(records)
        batch = super().plan(records)
        facts = batch.facts
        facts.again = True
        self._positions, facts.positions = facts.positions, {}
        if self._dropped and facts.quarantined:
            facts.quarantined = [
                (record, cause)
                for record, cause in facts.quarantined
                if (record.partition, record.offset) not in self._dropped
            ]
        return batch

    def pace(self, alone: bool) -> None:
        """How much the next batch takes, and by which path: throughput, or little at a time."""
        self.bulk = alone
        self.keys_aim = limits.WORKER_KEYS_AIM if alone else limits.REPLAY_KEYS_BESIDE

    def _stored_pairs(
        self, records: Sequence[Record]
    ) -> dict[tuple[int, int], dict[int, tuple[bool, int]]]:
        """What the store has of the pairs of all toggles: offset -> (follows, floor)."""
        toggles = (toggle_of(record, self._home, self._partitions) for record in records)
        pairs = list(
            {
                (toggle.reader, toggle.author): None
                for toggle in toggles
                if toggle and (self._accounts is None or toggle.account in self._accounts)
            }
        )
        found = self._store.toggles_of_pairs(pairs)
        return {
            pair: {t.offset: (t.follows, t.floor) for t in stored}
            for pair, stored in zip(pairs, found, strict=True)
        }

    def finish(self, batch: Batch) -> None:
        """Steps 5 and 6. After Unavailable call it again with the same batch."""
        was, self._store.bulk = self._store.bulk, self._store.bulk or self.bulk
        try:
            super().finish(batch)
        finally:
            self._store.bulk = was  # what is live decides for itself
        for partition, (offset, time_ms) in self._positions.items():
            self.next_offsets[partition] = offset
            self.times_ms[partition] = time_ms

    def _decides(self, record: Record) -> bool:
        return False

    def _keys_aim(self) -> int:
        return self.keys_aim

    def _take(self, batch: Batch, record: Record, event: Event) -> None:
        if self._accounts is None or event.account in self._accounts:
            super()._take(batch, record, event)

    def _opens(self, partition: int, author: int, reader: int, offset: int, follows: bool) -> bool:
        """Whether this toggle opens an interval: the fold of all others below it says."""
        pair = self._pairs[reader, author]
        if pair.get(offset, (not follows, 0))[0] != follows:
            pair[offset] = (follows, limits.FLOOR_NONE)
        facts = [(at, *pair[at]) for at in sorted(pair)]
        now = fold_toggles(facts)
        start = -1 if now is None else now.start
        if int(self._graph.interval_from(reader, [author])[0]) != start:
            self._distrust()
            self._graph.mend(partition, author, reader, start)
            self.mended += 1
        return follows and fold_toggles(facts, below=offset) is None
