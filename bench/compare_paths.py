"""The paths that `bench compare` holds against each other: peers as their users would write them,
and Firecell's worker on its stores. Each is a generator for `bench.compare_measure`.

Whatever a path opens it closes when the generator is closed: connections, stores, a JVM. Tables and
files are the caller's, who drops them with the stack. One thread each.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.compare_input import PARTITIONS, Input, Pairs
from bench.compare_measure import Path_
from bench.processes import CELL, Urls, settings_of, write_config
from cells.backends import open_store
from cells.graph import Graph
from cells.intervals import AuthorIntervals
from cells.worker import Worker
from engine import limits
from engine.errors import Corruption, Misconfigured, Unavailable, invariant
from engine.homing import HomeRange
from engine.keys import INBOX_KEY_BYTES, inbox_keys, parse_inbox_key
from engine.limits import U64_MAX
from engine.materialize import PushPolicy
from engine.ports import AuthorInterval, Store
from ops.stack_run import Stack

BATCH = 1_000  # rows of a happybase batch, pairs of a Redis pipeline
FEED_ENTRIES = 1_000  # that each feed on Redis keeps
PE_TABLE = "compare_pe"
PE_CLIENTS = 2  # threads in PerformanceEvaluation's one JVM: as many as Firecell's writing sockets
PE_ROWS = 20_000_000  # of each of them: more than it can write in the time
PE_REPORT_ROWS = 20_000
PE_REGIONS = 8  # as many of the inbox table's regions take writes of ids that use all 64 bits
PE_HEAP_MB = 1_024
PE_SILENCE_S = 60.0
PUT_POSTS = 2_048  # a batch of a cell that keeps up: some 400,000 keys, two to three seconds
_TIMEOUT_MS = 30_000
_PE = "org.apache.hadoop.hbase.PerformanceEvaluation"
_PE_REPORT = re.compile(r"row \[start=(\d+), current=(\d+), last=")
_FRAME = re.compile(r"\s+at ")  # of a stack trace: the line before it says what happened
_PE_LOG = """\
log4j.rootLogger=WARN, console
log4j.logger.org.apache.hadoop.hbase.PerformanceEvaluation=INFO
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.out
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%m%n
"""


# --- peers ----------------------------------------------------------------------------------------


def happybase_batches(stack: Stack, table: str, source: Input) -> Path_:
    """Batches of BATCH puts over one connection, write-ahead log on, keys as they are made."""
    happybase = library("happybase")
    host, port = "127.0.0.1", stack.ports["thrift"]
    connection = happybase.Connection(host, port, timeout=_TIMEOUT_MS)
    try:
        rows = connection.table(table)
        cell = {b"f:": b""}
        done = 0
        yield done
        for keys in _batches(source):
            with rows.batch() as batch:
                for key in keys:
                    batch.put(key, cell)
            done += len(keys)
            yield done
    finally:
        connection.close()


def _batches(source: Input) -> Iterator[list[bytes]]:
    size = INBOX_KEY_BYTES
    for pairs in source.pairs():
        raw = inbox_keys(pairs.readers, pairs.posts, pairs.authors).tobytes()
        keys = [raw[at : at + size] for at in range(0, len(raw), size)]
        for at in range(0, len(keys), BATCH):
            yield keys[at : at + BATCH]


def redis_pipelines(stack: Stack, source: Input) -> Path_:
    """One zadd and one zremrangebyrank for each (reader, post), BATCH pairs a pipeline, as feeds in
    sorted sets are kept. In memory only. Raises Unavailable when Redis dropped feeds for room."""
    client = library("redis").Redis.from_url(stack.urls["redis"])
    try:
        done = 0
        yield done
        for pairs in source.pairs():
            for readers, posts in _slices(pairs):
                pipe = client.pipeline(transaction=False)
                for reader, post in zip(readers, posts, strict=True):
                    name = f"feed:{reader}"
                    pipe.zadd(name, {post: post})
                    pipe.zremrangebyrank(name, 0, -FEED_ENTRIES - 1)
                pipe.execute()
                done += len(readers)
                yield done
    finally:
        evicted = int(client.info("stats")["evicted_keys"])
        client.close()
        if evicted:
            raise Unavailable(f"Redis dropped {evicted} feeds for room: measure fewer seconds")


def _slices(pairs: Pairs) -> Iterator[tuple[list[int], list[int]]]:
    for at in range(0, len(pairs.readers), BATCH):
        part = slice(at, at + BATCH)
        yield pairs.readers[part].tolist(), pairs.posts[part].tolist()


def library(name: str) -> Any:
    """A client that only the real parts need. Misconfigured when it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise Misconfigured(
            f"{name} is not installed: type FIRECELL_EXTRAS=1 in front of ./run once"
        ) from None


# --- HBase's own ----------------------------------------------------------------------------------


def pe_arguments(test: str) -> tuple[str, ...]:
    """As near to the inbox table as its options come: its rows have 26 bytes, and it divides by
    the size of a value."""
    return (
        "--nomapred", f"--table={PE_TABLE}", f"--rows={PE_ROWS}", "--valueSize=1",
        "--writeToWAL=true", "--autoFlush=false", f"--presplit={PE_REGIONS}",
        "--blockEncoding=FAST_DIFF", "--bloomFilter=NONE", "--inmemoryCompaction=BASIC",
        f"--period={PE_REPORT_ROWS}", test, str(PE_CLIENTS),
    )  # fmt: skip


def performance_evaluation(stack: Stack, test: str) -> Path_:
    """HBase's benchmark, its client buffering 2 MB (its default) in each of PE_CLIENTS threads.
    What is reported is put, though up to that buffer not yet sent: in its favour.

    Raises Unavailable when it ends by itself, or says nothing for PE_SILENCE_S."""
    diary = stack.folder / "conf" / "performance-evaluation.properties"
    diary.write_text(_PE_LOG)
    java, *rest = stack.hbase_command(_PE, *pe_arguments(test), heap_mb=PE_HEAP_MB)
    process = subprocess.Popen(
        [java, f"-Dlog4j.configuration=file:{diary}", *rest],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        yield from _reported(process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _reported(process: subprocess.Popen[str]) -> Path_:
    done: dict[str, int] = {}  # by the first row of each thread
    last = "it said nothing"
    while line := _line(process):
        match = _PE_REPORT.search(line)
        if match is not None:
            done[match[1]] = int(match[2]) - int(match[1])
            yield sum(done.values())
        elif line.strip() and not _FRAME.match(line):
            last = line.strip()
    raise Unavailable(f"PerformanceEvaluation ended with exit code {process.wait()}: {last}")


def _line(process: subprocess.Popen[str]) -> str:
    """The next line; empty at the end. A process that is silent for too long is killed."""
    timer = threading.Timer(PE_SILENCE_S, process.kill)
    timer.start()
    try:
        return process.stdout.readline() if process.stdout is not None else ""
    finally:
        timer.cancel()


# --- Firecell -------------------------------------------------------------------------------------


def store_of(folder: Path, store: str, helper: str = "") -> Store:
    """A new store by its URL, through the door that a cell takes; its configuration goes to
    `folder`."""
    write_config(folder, PARTITIONS, Urls(store=store, helper=helper))
    settings = settings_of(folder)
    return open_store(
        settings.cells[CELL],
        identity="compare",
        partitions=PARTITIONS,
        home=HomeRange(),
        helper=settings.hbase.helper,
    )


class _Undecided:
    """The port `Decisions` of a cell in which nothing is ever decided."""

    def owner(self) -> bytes | None:
        """Nobody's: no cell ever opens them."""
        return None

    def begin(self, owner: bytes) -> None:
        """There is nothing to note it in."""

    def intervals(self) -> list[AuthorInterval]:
        """None."""
        return []

    def record(self, intervals: Sequence[AuthorInterval]) -> None:
        """A worker that pushes everything has nothing to record."""
        invariant(not intervals, "nothing is decided here")

    def copy_to(self, folder: str) -> None:
        """There is nothing to copy."""

    def close(self) -> None:
        """Nothing is open."""


def pushing_worker(store: Store, graph: Graph) -> Worker:
    """A worker that pushes every post to all followers, as the other paths do."""
    return Worker(store, graph, HomeRange(), AuthorIntervals(_Undecided(), PushPolicy(U64_MAX)))


def firecell(store: Store, graph: Graph, source: Input, *, bulk: bool, sample: set[int]) -> Path_:
    """A cell's worker on the posts themselves: decoded, judged, fanned out, and written in the
    order of I1 with their rows, outboxes and positions. Records are made here instead of read.

    `bulk`: as a cell that lags, in the batches it would gather then. At the end the inboxes of
    `sample` are compared with what the workload says. Raises Corruption when they differ."""
    worker = pushing_worker(store, graph)
    store.bulk = bulk
    batches = max(store.keys_aim // limits.WORKER_KEYS_AIM, 1)
    posts = limits.WORKER_EVENTS_MAX * batches if bulk or not store.remote else PUT_POSTS
    try:
        yield 0
        waiting = source.records(posts)
        while True:
            records = next(waiting)
            while records:
                records = records[worker.apply(records) :]
                yield worker.counts.inbox_keys
    except GeneratorExit:
        check(store, source, worker.counts.posts, sample)
        raise
    finally:
        store.close()


def check(store: Store, source: Input, posts: int, sample: set[int]) -> None:
    """The inboxes of `sample` hold exactly the first `posts` posts that are theirs. Corruption."""
    for reader, wanted in source.expected(sample, posts).items():
        raw = store.inbox_older(reader, b"", len(wanted) + 1)
        keys = [(reader, post, author) for post, author in wanted]
        found = [
            parse_inbox_key(raw[at : at + INBOX_KEY_BYTES])
            for at in range(0, len(raw), INBOX_KEY_BYTES)
        ]
        if found != keys:
            raise Corruption(
                f"the inbox of reader {reader} has {len(found)} keys where {len(keys)} are due, or"
                " others than these: the path lost or invented some"
            )
