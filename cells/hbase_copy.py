"""A copy of a running cell on HBase, at one position of the firehose: what verify reads.

1. sweep     tables of copies that a kill left behind go, and no other cell's
2. clone     the checkpoint's snapshots become tables of their own, which share the files
3. catch up  the tables were taken one after the other, beside writers: what they have beyond the
             copy's position may be parts of batches. So the firehose since is applied to the copy,
             as a restored cell does, up to where any of those batches can have been; what was
             wrong before the position stays wrong
4. drop      the copy and the checkpoint go when it was read

The cell goes on meanwhile, all workers of it. The caller sees to it that there is one copy of a
cell at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cells import hbase_meta, hbase_snapshots
from cells.cell import load_graph
from cells.decisions import EmbeddedDecisions
from cells.hbase_client import Address, HBaseClient
from cells.hbase_loader import Helper
from cells.hbase_reads import HBaseReads
from cells.hbase_schema import TABLES
from cells.intervals import AuthorIntervals
from cells.runner import gather
from cells.snapshot_files import DECISIONS, STORE
from cells.store_hbase import HBaseStore
from cells.worker import Worker
from engine import limits
from engine.errors import Precondition
from engine.homing import HomeRange
from engine.materialize import PushPolicy
from engine.ports import AuthorInterval, Log
from topics.urls import HBASE_COPY, HBasePlace


@contextmanager
def copied(
    checkpoint: Path,
    place: HBasePlace,
    cell: str,
    home: HomeRange,
    log: Log,
    policy: PushPolicy,
    helper: Sequence[str],
) -> Iterator[tuple[HBaseStore, list[AuthorInterval]]]:
    """(the copy's store, the decisions recorded by then), as long as they are read. `checkpoint` is
    a folder of `cells.snapshot.capture`. Corruption, Misconfigured, Unavailable;
    Precondition when another cell's tables lie there."""
    copy = place.name + HBASE_COPY
    url = HBasePlace(place.host, place.port, copy, place.zookeeper, place.transport).url
    with ExitStack() as used:
        java = Helper(helper)
        used.callback(java.close)
        used.callback(hbase_snapshots.forget, java, checkpoint / STORE)
        _refuse_another(url, (log.identity, cell))
        _drop(java, copy)
        used.callback(_drop, java, copy)
        hbase_snapshots.clone(java, hbase_snapshots.read(checkpoint / STORE), copy)
        java.create(copy, ("meta", "marker"))
        store = HBaseStore.open(
            url,
            identity=log.identity,
            partitions=log.partitions,
            cell=cell,
            home=home,
            helper=helper,
        )
        used.callback(store.close)
        decisions = EmbeddedDecisions.open(checkpoint / DECISIONS)
        used.callback(decisions.close)
        intervals = AuthorIntervals(decisions, policy)
        _catch_up(store, home, log, intervals, _end(place, log))
        yield store, decisions.intervals()


def _refuse_another(url: str, whose: tuple[str, str]) -> None:
    """Precondition when the tables that `url` names are no copy of the cell `whose` (its firehose's
    identity, its name): older software let a cell have such a name."""
    client = HBaseClient(Address.parse(url))
    try:
        there = {name for name in client.probe() if name in _tables(client.address.cell)}
        if there <= {(meta := client.table("meta").decode())} or meta not in there:
            return  # no cell: what a kill left of a copy, of which `meta` is made and dropped last
        found = hbase_meta.owner(client)
    finally:
        client.close()
    if found is not None and (found.identity, found.cell) != whose:
        raise Precondition(
            f"the tables {client.address.cell}.* at {client.address.place} are cell {found.cell}'s:"
            f" they lie where a copy of cell {whose[1]} would, and are not dropped; give one of"
            " both another name in its URL"
        )


def _drop(java: Helper, copy: str) -> None:
    """A copy's tables, `meta` last, and none that only begins like them."""
    own = _tables(copy)
    there = [name for name in java.command("tables", f"{copy}.").split(",") if name in own]
    meta = f"{copy}.meta"
    java.commands([["drop", name] for name in there if name != meta])
    java.commands([["drop", name] for name in there if name == meta])


def _tables(cell: str) -> set[str]:
    return {f"{cell}.{table}" for table in TABLES}


def _end(place: HBasePlace, log: Log) -> list[int]:
    """Behind every event of a batch that was being written when the tables were taken: a batch
    begins where the cell is durable."""
    client = HBaseClient(Address.parse(place.url))
    try:
        durable, _ = HBaseReads(client, log.partitions).positions()
    finally:
        client.close()
    longest = limits.HBASE_RUN_KEYS_AIM // limits.WORKER_KEYS_AIM * limits.WORKER_EVENTS_MAX
    return [
        min(at + longest, end) for at, end in zip(durable, log.end_offsets(), strict=True)
    ]


def _catch_up(
    store: HBaseStore, home: HomeRange, log: Log, intervals: AuthorIntervals, ends: Sequence[int]
) -> None:
    graph = load_graph(store, log, home, Path("/nonexistent"), "")
    worker = Worker(store, graph, home, intervals)
    events, size = limits.WORKER_EVENTS_MAX, limits.WORKER_BYTES_MAX
    while records := gather(log, worker.next_offsets, ends, events, size):
        while records:
            batch = worker.plan(records)
            worker.finish(batch)
            records = records[batch.consumed :]
