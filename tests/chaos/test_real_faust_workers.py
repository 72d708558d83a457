"""`FIRECELL_CELL=c1 faust -A cells.app worker`: two cells with two workers each, on HBase.

A graph and posts go through them, one worker of each cell leaves and comes back meanwhile, so that
partitions change hands in mid-batch. Then the cells serve, and the oracle looks at every reader.
FIRECELL_TEST_GRAPH names a file of real follows instead (all of them take minutes).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench import check
from bench.feeder import Feeder
from bench.oracle import Oracle
from bench.workload import Workload
from cells.cell import open_cell
from cells.directory import load_directory
from cells.settings import Settings, load_settings
from tests import real_parts
from tests.chaos.up import ROOT, running
from topics.logs import open_log

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(bool(real_parts.missing()), reason=real_parts.missing()),
]
GRAPH = os.environ.get("FIRECELL_TEST_GRAPH", "")  # conftest clears the environment of tests
SAMPLE = 2_000 if GRAPH else 400
POSTS = 2_000 if GRAPH else 1_000
CELLS, PARTITIONS, WORKERS = ("faust-1", "faust-2"), 16, 2
APPLIED_S = 1_500.0 if GRAPH else 240.0


class Worker:
    """A plain Faust worker of a cell."""

    def __init__(self, config: Path, cell: str, number: int) -> None:
        self.cell = cell
        self.log = config.parent / f"{cell}-{number}.log"
        self._environment = {
            **os.environ,
            "FIRECELL_CELL": cell,
            "FIRECELL_CONFIG": str(config),
            "PYTHONPATH": str(ROOT),
        }
        self.start()

    def start(self) -> None:
        faust = str(Path(sys.executable).parent / "faust")
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [faust, "-A", "cells.app", "worker", "-l", "warn"],
                cwd=self.log.parent, env=self._environment, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def stop(self) -> int:
        """One TERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def words(self) -> str:
        return f"{self.log.name}: {self.log.read_text(errors='replace')[-1_500:]}"


@contextmanager
def workers_of(config: Path) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        for cell in CELLS:
            for number in range(WORKERS):
                started.append(Worker(config, cell, number))
        yield started
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()


def wait_applied(settings: Settings, workers: list[Worker], share: float) -> None:
    """Until the groups of both cells have committed this share of the firehose."""
    log = open_log(settings.firehose, create=False)
    deadline = time.monotonic() + APPLIED_S
    try:
        goal = sum(log.end_offsets()) * share
        while True:
            done = [sum(log.committed(f"cell.{cell}").values()) for cell in CELLS]
            if min(done) >= goal:
                return
            for worker in workers:
                assert worker.process.poll() is None, worker.words()
            assert time.monotonic() < deadline, (done, goal, [w.words() for w in workers])
            time.sleep(0.2)
    finally:
        log.close()


def test_two_workers_of_two_cells_and_a_rebalance_miss_nothing(tmp_path: Path) -> None:
    workload = Workload.from_file(GRAPH, 1) if GRAPH else Workload.power_law(
        1, readers=3_000, edges=20_000, authors=300, largest=900
    )  # fmt: skip
    config = tmp_path / "firecell.toml"
    cells = {name: name for name in CELLS}
    text = real_parts.configuration(real_parts.shared(), "faust-workers", cells, PARTITIONS)
    config.write_text(text)
    settings = load_settings(config, environment={})
    with ThreadPoolExecutor() as pool:  # makes topic and tables: plain Faust only names them
        for cell in pool.map(partial(open_cell, settings), CELLS):
            cell.close()
    started = time.monotonic()
    with workers_of(config) as workers:
        feeder = Feeder(settings.firehose.place, PARTITIONS, workload)
        feeder.follow_all()
        wait_applied(settings, workers, 1)
        follows_s, events = time.monotonic() - started, sum(feeder.log.end_offsets())
        posting = time.monotonic()
        feeder.post(POSTS)
        feeder.close()
        wait_applied(settings, workers, (events + POSTS / 4) / (events + POSTS))
        for leaving in (workers[0], workers[WORKERS]):
            assert leaving.stop() == 0, leaving.words()
            leaving.start()
        wait_applied(settings, workers, 1)
        posts_s = time.monotonic() - posting
        print(f"{events:,} follows in {follows_s:.0f} s, {POSTS:,} posts in {posts_s:.0f} s")
        for number, worker in enumerate(workers):
            # One that came back a moment ago may have nothing in hand that would hear a TERM.
            young = number % WORKERS == 0
            assert worker.stop() in (0, -signal.SIGTERM if young else 0), worker.words()
    judge(tmp_path, config, settings, workload)


def judge(folder: Path, config: Path, settings: Settings, workload: Workload) -> None:
    """The cells serve what the workers left; whole dashboards and stored keys are compared."""
    sample = workload.sample_readers(SAMPLE, 1)
    oracle = Oracle(sample)
    directory = load_directory(settings.data.folder, dict.fromkeys(CELLS, 1.0))
    log = open_log(settings.firehose, create=False)
    check.feed(oracle, log, log.begin_offsets())
    log.close()
    with running(folder, config, len(CELLS)) as up:
        for name in CELLS:
            own = sorted(reader for reader in sample if directory.home(reader) == name)
            url = up.run_file("cell", name).url
            found = check.compare(url, oracle, own, raw_keys=True)
            print(f"{name}: {found.verdict()}")
            assert found.ok and found.pages.posts > len(own), found.document()
            numbers = up.client.get(f"{url}/v1/admin/stats").json()
            assert numbers["quarantined_total"] == 0 and numbers["gaps"] == 0
