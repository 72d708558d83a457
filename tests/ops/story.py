"""The story of a cell whose firehose can be rewound, played with the commands that people type:
replayed beside live work, wiped and rebuilt with a part of the history gone, damaged and healed.

On any firehose and store (`bench.processes.Urls`), with any history. Beside the cell stands a
reference: an embedded cell of the same firehose that never replays, whose digest is the one to
have. `told` gathers a line about each step.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx

from bench.churn import Timed
from bench.processes import CONFIG_FILE, CellProcess, Urls, settings_of, write_config
from cells.cell import open_cell
from cells.hbase_snapshots import TAKEN
from cells.verify import Verify
from engine.codec import encode
from engine.homing import partition_of
from tests.conftest import ROOT
from tests.ops.damage import Damage
from tests.worlds import Clock, read_all
from topics.log_embedded import EmbeddedLog
from topics.log_kafka import KafkaLog
from topics.logs import open_log

PARTITIONS = 4
APPENDED = 2_000  # events at once
LATER_MS = 8 * 24 * 3_600_000  # the second third's distance from the first: above the retention
APPLIED_S = 1_200.0


class Story:
    """One cell, its reference, and the history in three thirds."""

    def __init__(self, folder: Path, urls: Urls, thirds: Sequence[Sequence[Timed]]) -> None:
        self.folder, self.thirds = folder, thirds
        write_config(folder, PARTITIONS, urls)
        self.settings = settings_of(folder)
        self.clock = Clock(thirds[0][0].time_ms)
        place = self.settings.firehose
        self.log: EmbeddedLog | KafkaLog
        if urls.firehose.startswith("kafka"):
            log = open_log(place)
            assert isinstance(log, KafkaLog)
            self.log = log
        else:
            self.log = EmbeddedLog.open(
                place.folder,
                partitions=PARTITIONS,
                retention_ms=place.retention_ms,
                clock=self.clock,
            )
        self.told: list[str] = []
        self._reference = folder / "reference"
        firehose = urls.firehose if isinstance(self.log, KafkaLog) else f"embedded:{place.folder}"
        write_config(self._reference, PARTITIONS, Urls(firehose=firehose))
        text = (self._reference / CONFIG_FILE).read_text().replace("cells.c1", "cells.reference")
        (self._reference / CONFIG_FILE).write_text(text)

    def tell(self, text: str, started: float) -> None:
        """A line, with the seconds since `started`."""
        self.told.append(f"{time.monotonic() - started:7.1f} s  {text}")
        print(self.told[-1], flush=True)

    # --- the firehose ---

    def append(self, third: int) -> Iterator[None]:
        """Append a third, a tenth of it after the other. On the embedded log at the history's own
        times, the later thirds so much later that the retention may take the first."""
        events = self.thirds[third]
        tenth = len(events) // 10 + 1
        for start in range(0, len(events), tenth):
            some = events[start : start + tenth]
            if isinstance(self.log, EmbeddedLog):
                for time_ms, group in groupby(some, key=lambda each: each.time_ms):
                    self.clock.now_ms = time_ms + (LATER_MS if third else 0)
                    self._append(list(group))
            else:
                self._append(some)
            yield

    def _append(self, events: Sequence[Timed]) -> None:
        for start in range(0, len(events), APPENDED):
            some = events[start : start + APPENDED]
            self.log.append([(partition_of(e.account, PARTITIONS), encode(e)) for _, e in some])

    def drop_below(self, floors: Sequence[int]) -> None:
        """The retention takes everything below."""
        if isinstance(self.log, EmbeddedLog):
            self.log.apply_retention(self.clock.now_ms + 3_600_000)
        else:
            from tests.kafka_broker import delete_below

            place = self.settings.firehose.place
            delete_below(place, floors)  # type: ignore[arg-type]
            deadline = time.monotonic() + 30
            while self.log.begin_offsets() != list(floors) and time.monotonic() < deadline:
                time.sleep(0.1)
        assert self.log.begin_offsets() == list(floors)

    # --- commands ---

    def type(self, *words: str, code: int = 0) -> Any:
        """The JSON that a command prints."""
        config = str(self.folder / CONFIG_FILE)
        command = [sys.executable, "-P", "-m", "ops.main", *words, "--config", config, "--json"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, timeout=3_000, check=False, env=environment
        )
        assert done.returncode == code, (done.stderr + done.stdout).decode()[-4_000:]
        return json.loads(done.stdout)

    def verify(self, code: int = 0) -> dict[str, Any]:
        """Everything, against the firehose too."""
        started = time.monotonic()
        found: dict[str, Any] = self.type("verify", "--digest", "--from-firehose", code=code)
        about = f"{found['readers']:,} readers, {found['keys']:,} keys, {found['posts']:,} posts"
        self.tell(f"verify: {about}, found {found['found'] or 'nothing'}", started)
        return found

    def wait_applied(self, cell: CellProcess) -> None:
        """Until the cell has applied everything."""
        deadline = time.monotonic() + APPLIED_S
        ends = {str(p): end for p, end in enumerate(self.log.end_offsets())}
        while cell.status()["applied"] != ends:
            assert time.monotonic() < deadline, cell.status()
            time.sleep(0.1)

    @contextmanager
    def cell(self) -> Iterator[CellProcess]:
        """`firecell cell c1`, ready."""
        with CellProcess(self.folder) as cell:
            yield cell

    # --- the story ---

    def play(self) -> None:
        """All of it."""
        floors = self.live_and_replayed()
        wanted = self.digest_of_the_reference()
        found = self.verify_beside_live()
        assert found["ok"], found
        assert found["digest"] == wanted
        self.drop_below(floors)
        self.wipe()
        self.rebuilt(wanted)
        self.damaged_and_healed(floors, wanted)

    def live_and_replayed(self) -> list[int]:
        """Three thirds; a snapshot behind the second; half of the history replayed beside the last.
        The ends of the first third."""
        started = time.monotonic()
        with self.cell() as cell:
            for _ in self.append(0):
                pass
            self.wait_applied(cell)
            floors = self.log.end_offsets()
            for _ in self.append(1):
                pass
            self.wait_applied(cell)
            self.tell(f"two thirds are applied: {sum(self.log.end_offsets()):,} events", started)
            started = time.monotonic()
            made = self.type("snapshot", "create", "--name", "kept", "--execute")
            self.tell(f"snapshot: {made['result']['bytes']:,} bytes", started)
            started = time.monotonic()
            half = [end // 2 for end in self.log.end_offsets()]
            jobs: list[str] = []
            for _ in self.append(2):
                if not jobs or self._job(cell, jobs[-1])["state"] != "running":
                    jobs.append(self._replay(cell, half))
            self.wait_applied(cell)
            events = sum(self._end_of(cell, job) for job in jobs)
            about = f"{len(jobs)} replays of its newer half, {events:,} events"
            self.tell(f"the last third is applied, beside {about}", started)
        return floors

    def _end_of(self, cell: CellProcess, job: str) -> int:
        """Wait for a replay; the events that it applied again."""
        while (done := self._job(cell, job))["state"] == "running":
            time.sleep(0.1)
        assert done["state"] == "done", done
        result = done["result"]
        assert result["events_done"] == result["events"] > 0
        return int(result["events"])

    def _replay(self, cell: CellProcess, start: Sequence[int]) -> str:
        since = ",".join(f"{partition}:{at}" for partition, at in enumerate(start))
        body = {"kind": "replay", "since": since, "execute": True}
        answer = httpx.post(f"{cell.url}/v1/admin/jobs", json=body, timeout=60, trust_env=False)
        return str(answer.raise_for_status().json()["id"])

    def _job(self, cell: CellProcess, job: str) -> dict[str, Any]:
        answer = httpx.get(f"{cell.url}/v1/admin/jobs/{job}", timeout=60, trust_env=False)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def digest_of_the_reference(self) -> dict[str, str]:
        """What a cell has that read everything once."""
        started = time.monotonic()
        cell = open_cell(settings_of(self._reference), "reference")
        try:
            while records := read_all(cell.log, cell.worker.next_offsets, 4_000):
                while records:
                    records = records[cell.worker.apply(records) :]
            report = Verify(cell.store, cell.whose.home).everything(cell.log, digest=True)
        finally:
            cell.close()
        assert report.ok and report.digest is not None, report.document()
        self.tell(f"the reference never replayed: digest {report.digest['all']}", started)
        return report.digest

    def verify_beside_live(self) -> dict[str, Any]:
        """Of the running cell."""
        with self.cell() as cell:
            self.wait_applied(cell)
            return self.verify()

    def wipe(self) -> None:
        """Store and decisions are gone; markers and snapshots are not."""
        own = self.settings.cells["c1"].folder
        for part in ("store", "decisions"):
            shutil.rmtree(own / part, ignore_errors=True)
        (own / "graph.snapshot").unlink(missing_ok=True)
        with Damage(self.settings, self.log) as damage:
            damage.drop_tables(TAKEN)

    def rebuilt(self, wanted: dict[str, str]) -> None:
        """From the snapshot and what the firehose still has."""
        planned = self.type("rebuild")
        assert planned["snapshot"]["snapshot"] == "kept" and not planned["loss"], planned
        assert planned["events_to_apply"] > 0
        started = time.monotonic()
        self.type("rebuild", "--execute")
        self.tell(f"rebuilt: {planned['events_to_apply']:,} events behind a snapshot", started)
        found = self.verify()
        assert found["ok"], found
        assert found["digest"] == wanted

    def damaged_and_healed(self, floors: Sequence[int], wanted: dict[str, str]) -> None:
        """Rows taken away at random are named; a replay heals what the firehose holds; what it no
        longer holds is told."""
        with Damage(self.settings, self.log) as damage:
            damage.choose(floors)
            damage.take()
        named = self.verify(code=1)
        assert {"missing", "outbox missing", "follow row"} <= set(named["found"]), named
        (self.settings.cells["c1"].folder / "graph.snapshot").unlink(missing_ok=True)
        started = time.monotonic()
        done = self.type("replay", "--from", "earliest", "--execute")
        assert done["state"] == "done", done
        self.tell(f"replayed what is left: {done['result']['events']:,} events", started)
        left = self.verify(code=1)
        with Damage(self.settings, self.log) as after:
            after.chosen = damage.chosen
            old, new = after.lost()
        assert not new, f"the firehose holds these, and they are not healed: {new[:5]}"
        counts = left["found"]
        assert counts.get("outbox missing", 0) == len(old["outbox"])
        assert counts["follow row"] == len(old["toggle"]) + len(old["following"])
        assert counts.get("missing", 0) <= len(old["inbox"])
        assert left["digest"] != wanted
        about = ", ".join(f"{len(rows)} {table}" for table, rows in old.items())
        self.told.append(f"           not healed, for it is below the floor, and told: {about}")
        print(self.told[-1], flush=True)
