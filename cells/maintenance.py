"""What people and the schedule ask of a running cell beside its live work: jobs.

| kind | where it is done |
| --- | --- |
| replay, quarantine retry | by the thread that applies, between two batches (cells/replay.py) |
| snapshot, checkpoint | here, in a thread of their own, one at a time (cells/snapshot.py) |
| quarantine list, show, drop | at once |

A checkpoint is a snapshot for reading now: verify opens it in its own process, so that recomputing
every inbox costs the cell nothing but the hard links. One more thread takes snapshots by schedule
and audits one reader after the other. `ask`, `jobs`, `job`, `stop` may be called by any thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cells import quarantine, snapshot
from cells.audit import Audit
from cells.cell import Cell, now_ms
from cells.replay_state import STOPPED
from cells.settings import Settings
from cells.verify_pushed import pushed_by
from engine.errors import BadInput, Conflict, FirecellError, Unavailable
from engine.limits import AUDIT_EVERY_S, DRAIN_S, JOBS_DONE_KEPT, SNAPSHOT_LOOK_S
from topics.http_jobs import JobIn, JobOut
from topics.http_query import position

_log = logging.getLogger("firecell.maintenance")
CHECKPOINT = ".checkpoint-"  # what these begin with: no snapshot has a dot in front


class Maintenance:
    """The jobs of one cell. `close` before the cell is closed."""

    def __init__(self, cell: Cell, settings: Settings) -> None:
        self._cell = cell
        self._replays = cell.begin_beside()
        self._folder = settings.snapshots.folder / cell.name
        self._every_ms = settings.snapshots.every_ms
        if cell.whose.store == "hbase" and not settings.hbase.helper.exists():
            _log.warning("no snapshots by schedule: hbase.helper is not there (docs/deploy.md)")
            self._every_ms = 0
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._jobs: dict[str, JobOut] = {}
        self._numbers = itertools.count(1)
        self._started_ms = now_ms()
        self.audit = Audit(
            cell.store,
            pushed_by(cell.decisions.intervals, cell.store),
            self._stopping.wait,
        )
        self._thread = threading.Thread(target=self._keep_house, name="audit", daemon=True)
        cell.runner.more_stats.append(self.audit.stats)
        for left in self._folder.glob(f"{CHECKPOINT}*"):
            with contextlib.suppress(FirecellError, OSError):  # again at the next start
                snapshot.discard(cell.store, left)

    def start(self) -> None:
        """Begin with schedule and audit."""
        self._thread.start()

    def close(self) -> None:
        """End them; a snapshot in the making is left unfinished. The cell begins to stop: one that
        waits for its store would keep a snapshot, which waits for it, beyond the drain."""
        self._stopping.set()
        self._cell.runner.begin_stop()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._thread.is_alive():
            self._thread.join(DRAIN_S)

    # --- what is asked ---

    def ask(self, asked: JobIn) -> JobOut:
        """Plan a job; with `execute` begin it. BadInput, NotFound, Conflict, Precondition."""
        if asked.kind == "replay":
            return self._replay(asked)
        if asked.kind == "quarantine":
            return self._quarantine(asked)
        if asked.kind == "snapshot":
            if asked.name:
                snapshot.check_name(asked.name)
            plan = {
                "cell": self._cell.name,
                "into": str(self._folder),
                "name": asked.name,
                "kept": [found.document() for found in snapshot.found_in(self._folder)],
            }
            if not asked.execute:
                return JobOut("", "snapshot", "planned", plan=plan)
            return self._begin("snapshot", plan, lambda job: self._snapshot(job, asked.name))
        return self._begin("checkpoint", {}, self._checkpoint)

    def jobs(self) -> list[JobOut]:
        """All that are known: replays, then the others."""
        return [_of_replay(document) for document in self._replays.documents()] + list(
            self._jobs.values()
        )

    def job(self, name: str) -> JobOut:
        """One. NotFound."""
        job = self._jobs.get(name)
        return job if job is not None else _of_replay(self._replays.get(name))

    def stop(self, name: str) -> JobOut:
        """End a replay. NotFound, Conflict."""
        if name in self._jobs:
            raise Conflict(f"job {name} ends by itself: only replays can be stopped")
        return _of_replay(self._replays.stop(name))

    def _replay(self, asked: JobIn) -> JobOut:
        if not asked.since:
            raise BadInput("since: say from where: a time, 2h, earliest, or 0:12,1:7", "since")
        span = self._replays.span(asked.since, asked.until)
        plan = self._replays.describe(span)
        if not asked.execute:
            return JobOut("", "replay", "planned", plan=plan)
        job = _of_replay(self._replays.document(self._replays.start(span)))
        job.plan = plan
        return job

    def _quarantine(self, asked: JobIn) -> JobOut:
        store = self._cell.store
        places = [
            position(text, "positions", self._cell.log.partitions) for text in asked.positions
        ]
        if asked.action == "list":
            return JobOut("", "quarantine", "done", result={"records": quarantine.listed(store)})
        if not places:
            raise BadInput("positions: name records, as `quarantine list` shows them", "positions")
        records = [quarantine.document(*quarantine.kept(store, place)) for place in places]
        if asked.action == "show":
            return JobOut("", "quarantine", "done", result={"records": records})
        if not asked.execute:
            return JobOut("", "quarantine", "planned", plan={"records": records})
        if asked.action == "drop":
            dropped = self._cell.between(lambda: quarantine.drop(store, places))
            self._cell.runner.look_at_gaps()
            return JobOut("", "quarantine", "done", result={"records": dropped})
        states = [quarantine.retry(self._cell, place) for place in places]
        replays = [self._replays.document(state) for state in states]
        return JobOut("", "quarantine", "running", result={"replays": replays})

    # --- snapshots ---

    def _begin(self, kind: str, plan: dict[str, Any], work: Callable[[JobOut], Any]) -> JobOut:
        if self._stopping.is_set():
            raise Unavailable(f"cell {self._cell.name} is draining: try again")
        job = JobOut(f"{kind}-{now_ms()}-{next(self._numbers)}", kind, "running", plan=plan)
        self._jobs[job.id] = job
        for old in list(self._jobs)[:-JOBS_DONE_KEPT]:
            self._jobs.pop(old, None)
        self._pool.submit(self._work, job, work)
        return job

    def _work(self, job: JobOut, work: Callable[[JobOut], Any]) -> None:
        try:
            job.result = work(job)
            job.state = "done"
        except FirecellError as error:
            job.error, job.state = error.message, "failed"
        except Exception as error:
            _log.exception("job %s failed", job.id)
            job.error, job.state = f"{type(error).__name__}: {error}", "failed"

    def _snapshot(self, job: JobOut, name: str, scheduled: bool = False) -> dict[str, Any]:
        return snapshot.create(
            self._cell,
            self._folder,
            now_ms(),
            name=name,
            scheduled=scheduled,
            tell=lambda done, total: self._tell(job, done, total),
            crash=self._cell.worker.crash,
        ).document()

    def _tell(self, job: JobOut, done: int, total: int) -> None:
        job.progress = {"bytes_done": done, "bytes": total}
        if self._stopping.is_set():
            raise Unavailable(f"cell {self._cell.name} is draining: the snapshot was given up")

    def _checkpoint(self, job: JobOut) -> dict[str, Any]:
        """Whoever asked reads it and removes it."""
        place = self._folder / f"{CHECKPOINT}{job.id}"
        try:
            manifest = snapshot.capture(
                self._cell, place, now_ms(), False, lambda done, total: None, _no_crash, sums=False
            )
        except Exception:
            with contextlib.suppress(Exception):  # what it holds would stay until the next start
                snapshot.discard(self._cell.store, place)
            raise
        positions = {str(p): at for p, at in enumerate(manifest.positions)}
        return {"folder": str(place), "positions": positions}

    # --- the schedule, the audit ---

    def _keep_house(self) -> None:
        looked = 0.0
        told = ""
        while not self._stopping.wait(AUDIT_EVERY_S):
            try:
                self.audit.step()
                looked += AUDIT_EVERY_S
                if looked >= SNAPSHOT_LOOK_S:
                    looked = 0.0
                    self._take_if_due()
                told = ""
            except FirecellError as error:  # a store that is away: the cell says so, too
                if error.message != told:
                    told = error.message
                    _log.warning("audit or schedule of cell %s: %s", self._cell.name, told)
            except Exception:  # the next round tries again: a disk that was full once is no end
                _log.exception("audit or schedule of cell %s", self._cell.name)

    def _take_if_due(self) -> None:
        """By schedule: when the newest good one is old enough, or the cell is and there is none."""
        if not self._every_ms:
            return
        if not self._cell.runner.ready or self._cell.runner.status()["rebuilding"]:
            return
        made = [f.manifest.created_ms for f in snapshot.found_in(self._folder) if f.manifest]
        if now_ms() - max(made, default=self._started_ms) < self._every_ms:
            return
        job = JobOut("scheduled", "snapshot", "running")
        found = self._snapshot(job, "", scheduled=True)
        _log.info("snapshot %s of cell %s is taken", found["name"], self._cell.name)


def _no_crash(point: str) -> None:
    """Checkpoints have no crash points of their own."""


def _of_replay(document: dict[str, Any]) -> JobOut:
    """A replay as a job."""
    return JobOut(
        document["id"],
        "replay",
        document["state"],
        progress={key: document[key] for key in ("events_done", "events", "seconds_left")},
        result=document,
        error=document["error"] if document["state"] != STOPPED else "",
    )
