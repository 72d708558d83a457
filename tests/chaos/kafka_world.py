"""A cell on a real Kafka with an embedded store, as the fault tests use it: published to all the
time, compared with the oracle in the end. The cell is a process; its broker is the test's own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bench import check
from bench.oracle import Oracle
from bench.processes import CONFIG_FILE, CellProcess, Urls, settings_of, write_config
from engine import events
from engine.codec import decode, encode
from engine.errors import BadInput, FirecellError
from engine.homing import partition_of
from engine.ids import IdGenerator
from engine.ports import Record
from ops.children import child_command
from topics.log_embedded import system_clock_ms
from topics.log_kafka import KafkaLog
from topics.logs import open_log

READERS, AUTHORS = range(1, 41), range(1, 13)
PARTITIONS = 4
PAUSE_S = 0.02  # between two appends


class Kafka:
    """A topic of its own, a cell's folder, and what was acknowledged to the one who published. The
    cell has a name of its own too: its group is `cell.NAME`, whatever the topic, and a killed one
    keeps its place in it for a while."""

    def __init__(self, folder: Path, servers: str) -> None:
        """On the Kafka at `servers`; the store is embedded."""
        self.cell = topic = f"t{uuid.uuid4().hex[:12]}"
        self.group = f"cell.{self.cell}"
        self.folder = folder
        self.config = folder / CONFIG_FILE
        write_config(folder, PARTITIONS, Urls(f"kafka://{servers}/{topic}"), self.cell)
        self.settings = settings_of(folder)
        log = open_log(self.settings.firehose)
        assert isinstance(log, KafkaLog)
        self.log = log
        self.acknowledged: set[tuple[int, int]] = set()
        self._ids = IdGenerator(1)
        self._publishing = threading.Lock()

    def follow_all(self) -> None:
        """Everybody follows three of four authors."""
        self.append(
            events.Relation(events.FOLLOW, reader, author)
            for reader in READERS
            for author in AUTHORS
            if reader != author and (reader + author) % 4
        )

    def append(self, made: Iterator[events.Event]) -> None:
        """Append once."""
        self.log.append([(partition_of(one.account, PARTITIONS), encode(one)) for one in made])

    def post(self, count: int, give_up_s: float = 60) -> None:
        """Append posts, the same ones again until they are acknowledged, as a client would."""
        with self._publishing:
            ids = []
            while len(ids) < count:
                ids += self._ids.take(count - len(ids), system_clock_ms())
            posts = [
                events.Post(AUTHORS[post % len(AUTHORS)], post, 0, f"text {post}") for post in ids
            ]
            deadline = time.monotonic() + give_up_s
            while True:
                try:
                    self.append(iter(posts))
                    break
                except FirecellError:
                    if time.monotonic() > deadline:
                        raise
            self.acknowledged |= {(post.id, post.author) for post in posts}

    @contextmanager
    def publishing(self, posts: int = 20) -> Iterator[None]:
        """Posts all the time, from a thread of its own."""
        ended = threading.Event()
        failures: list[BaseException] = []

        def publish() -> None:
            try:
                while not ended.wait(PAUSE_S):
                    self.post(posts)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert not failures, failures

    def records(self) -> Iterator[Record]:
        """Everything in the topic."""
        for partition, offset in enumerate(self.log.begin_offsets()):
            while records := self.log.read(partition, offset, 1_000, 1 << 20):
                yield from records
                offset = records[-1].offset + 1

    def wait_applied(self, cell: CellProcess, within_s: float) -> float:
        """Until the cell has nothing before it; the seconds that took."""
        started = time.monotonic()
        ends: list[int] = []
        while time.monotonic() - started < within_s:
            with suppress(FirecellError):  # of a broker or a cell that is on its way back
                ends = ends or self.log.end_offsets()
                if all(at >= end for at, end in zip(positions(cell), ends, strict=True)):
                    return time.monotonic() - started
            assert cell.pid
            time.sleep(0.05)
        raise AssertionError(f"not applied in {within_s} s: {positions(cell)} of {ends}")

    def check(self, cell: CellProcess, gaps_allowed: bool = False) -> check.Report:
        """Nothing acknowledged is lost, and every page and stored key is as the oracle says."""
        oracle = Oracle()
        found: set[tuple[int, int]] = set()
        for record in self.records():
            try:
                event = decode(record.frame)
            except BadInput:
                continue
            if isinstance(event, events.Post):
                found.add((event.id, event.author))
            oracle.apply(record.partition, record.offset, record.time_ms, event)
        assert self.acknowledged <= found, "Kafka lost what it had acknowledged"
        report = check.compare(cell.url, oracle, READERS, raw_keys=True)
        if gaps_allowed:
            report.gaps = 0
        assert report.ok, report
        assert report.pages.posts > len(self.acknowledged)
        return report

    def process(self, *options: str) -> CellProcess:
        """The cell by `firecell cell`, not started yet."""
        command = child_command("cell", self.cell, "--config", str(self.config), *options)
        return CellProcess(self.folder, command, cell=self.cell)

    def close(self) -> None:
        """Give the topic back."""
        self.log.close()


def positions(cell: CellProcess) -> list[int]:
    """The applied vector, as the cell's status has it."""
    return vector(cell, "applied")


def vector(cell: CellProcess, name: str) -> list[int]:
    """`applied`, `durable` or `end`."""
    return [int(at) for _, at in sorted(cell.status()[name].items(), key=lambda one: int(one[0]))]


def plain_faust(world: Kafka) -> CellProcess:
    """The worker as Faust's own command line runs it."""
    folder = world.folder
    command = (sys.executable, "-P", "-m", "faust", "-A", "cells.app", "worker", "--without-web")
    config = {"FIRECELL_CELL": world.cell, "FIRECELL_CONFIG": str(folder / CONFIG_FILE)}
    path = {"PATH": os.environ["PATH"]}
    return CellProcess(folder, command, {**config, **path}, cell=world.cell)
