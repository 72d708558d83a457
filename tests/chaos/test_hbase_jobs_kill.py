"""Snapshots, restores, replays and rebuilds of a cell on HBase, each killed (kill -9) in the middle
and typed again: the commands that people type, and HBase's Java helper under them.

A command is killed by what can be seen of it from outside: the snapshots and tables that HBase has
by then. What the embedded parts do at every step: tests/cells/test_snapshot_rebuild_restart.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.churn import Mix, churn
from bench.processes import CONFIG_FILE, Urls
from cells import hbase_meta, snapshot
from cells.cell import open_cell
from cells.hbase_client import Address, HBaseClient
from cells.hbase_loader import Helper
from cells.hbase_schema import TABLES
from cells.hbase_snapshots import TAKEN
from cells.rebuild_state import Rebuilding
from engine.errors import Precondition
from tests import hbase_backend
from tests.cells.test_snapshot_rebuild_restart import child
from tests.conftest import ROOT
from tests.ops.story import Story
from tests.worlds import read_all

EVENTS = 900
SOME = 3  # of the TAKEN tables: a command that has done so many is in the middle
KILLED_S = 60.0
GONE_S = 2.0  # a helper ends so soon after its caller
READER, MARKED = 7, 50
pytestmark = [pytest.mark.real, pytest.mark.slow]


class Tables:
    """What HBase has of one cell, asked through a helper of its own."""

    def __init__(self, cell: str) -> None:
        self.cell = cell
        self.helper = Helper(hbase_backend.backend().helper)
        self.client = HBaseClient(Address.parse(hbase_backend.backend().url(cell)))

    def make(self) -> None:
        """All of them, without splits: each region is a part of every snapshot."""
        for name, table in TABLES.items():
            words = (f"{self.cell}.{name}", "1", table.encoding, table.bloom, "")
            self.helper.command("begin", *words)
        self.helper.command("await")

    def is_rebuilding(self, folder: Path) -> bool:
        """Whether the cell may start, and has to catch up."""
        return Rebuilding.load(folder) is not None and not hbase_meta.noted(self.client)

    def snapshots(self, kind: str = "") -> set[str]:
        """Of the cell's tables: those that a restore put aside, or (no `kind`) all others."""
        aside = f"firecell-{self.cell}-replaced-"
        there = {pair.partition("=")[0] for pair in self.helper.command("snapshots").split(",")}
        own = {name for name in there if name.startswith(f"firecell-{self.cell}-")}
        return {name for name in own if name.startswith(aside) == bool(kind)}

    def names(self) -> set[str]:
        """Its tables, but those that stay."""
        there = self.helper.command("tables", f"{self.cell}.").split(",")
        return {f"{self.cell}.{table}" for table in TAKEN} & set(there)


class Jobs(Story):
    """The story's cell, its reference, and commands that are killed."""

    @property
    def own(self) -> Path:
        """The cell's folder."""
        return self.settings.cells["c1"].folder

    def killed(self, seen: Callable[[], bool], *words: str) -> int:
        """Kill a command once `seen`; how many processes it had then. They end with it: its Java
        helper went on for ten seconds with what it had been asked, beside the same command typed
        again."""
        command = [sys.executable, "-P", "-m", "ops.main", *words]
        said = self.folder / "said"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--execute", "--config", str(self.folder / CONFIG_FILE)],
                cwd=ROOT,
                stdout=file,
                stderr=file,
                env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            )
        try:
            deadline = time.monotonic() + KILLED_S
            while not seen():
                assert process.poll() is None, f"it was over before: {said.read_text()}"
                assert time.monotonic() < deadline, f"{words}: {said.read_text()}"
                time.sleep(0.01)
            started = children_of(process.pid)
        finally:
            process.kill()
            code = process.wait()
        assert code == -signal.SIGKILL, "it was over before"
        ended = time.monotonic()
        while any(map(alive, started)):
            assert time.monotonic() < ended + GONE_S, "the helper goes on beside what is typed next"
            time.sleep(0.01)
        return len(started)

    def apply(self) -> None:
        """Everything that the firehose has, here."""
        cell = open_cell(self.settings, "c1")
        try:
            while records := read_all(cell.log, cell.worker.next_offsets, 400):
                while records:
                    records = records[cell.worker.apply(records) :]
            cell.markers.advance(READER, MARKED)
        finally:
            cell.close()

    def marker(self) -> int | None:
        """Of the reader."""
        cell = open_cell(self.settings, "c1")
        try:
            return cell.markers.get(READER)
        finally:
            cell.close()

    def is_as(self, wanted: dict[str, str]) -> None:
        """`firecell verify` finds nothing, and the digest of the reference."""
        found = self.verify()
        assert found["ok"] and found["digest"] == wanted, found

    def refuses(self, word: str) -> None:
        """The cell does not start, and says what to type."""
        with pytest.raises(Precondition, match=word):
            open_cell(self.settings, "c1")


def children_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def tables() -> Iterator[Tables]:
    made = Tables(f"kill{uuid.uuid4().hex[:8]}")
    made.make()
    yield made
    left = made.snapshots() | made.snapshots("replaced")
    gone = [["drop", f"{made.cell}.{name}"] for name in TABLES]
    made.helper.commands([*gone, *(["forget", name] for name in left)])
    made.helper.close()
    made.client.close()


@pytest.fixture
def jobs(tables: Tables, tmp_path: Path) -> Iterator[Jobs]:
    backend = hbase_backend.backend()
    made = list(churn(7, count=EVENTS, users=60, mix=Mix(pause=0)))
    urls = Urls(store=backend.url(tables.cell), helper=backend.helper_file)
    found = Jobs(tmp_path, urls, [made[: EVENTS // 2], made[EVENTS // 2 :]])
    yield found
    found.log.close()


def test_jobs_on_hbase_killed_in_the_middle_and_typed_again(jobs: Jobs, tables: Tables) -> None:
    for _ in jobs.append(0):
        pass
    jobs.apply()

    taking = ("snapshot", "create", "--name", "kept")
    assert jobs.killed(lambda: len(tables.snapshots()) >= SOME, *taking)
    place = jobs.settings.snapshots.folder / "c1"
    assert not snapshot.found_in(place), "half of one is none"
    jobs.type("snapshot", "create", "--name", "kept", "--execute")
    assert len(tables.snapshots()) == len(TAKEN), "those of the one that was cut are forgotten"

    for _ in jobs.append(1):
        pass
    jobs.apply()
    wanted = jobs.digest_of_the_reference()
    putting = ("snapshot", "restore", "kept")
    assert jobs.killed(lambda: len(tables.snapshots("replaced")) >= SOME, *putting)
    jobs.refuses("snapshot restore")
    jobs.type("snapshot", "restore", "kept", "--execute")
    jobs.apply()
    jobs.is_as(wanted)

    assert child(jobs.folder, "replay", "rows", 2) == -signal.SIGKILL
    assert child(jobs.folder, "replay") == 0
    jobs.is_as(wanted)

    place.rename(jobs.folder / "none")
    assert jobs.killed(lambda: len(tables.names()) <= len(TAKEN) - SOME, "rebuild")
    jobs.refuses("firecell rebuild")
    jobs.killed(lambda: tables.is_rebuilding(jobs.own), "rebuild")
    with jobs.cell() as cell:
        jobs.wait_applied(cell)
    assert Rebuilding.load(jobs.own) is None, "it went on by itself"
    jobs.is_as(wanted)
    assert jobs.marker() == MARKED, "I7"
