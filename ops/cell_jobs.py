"""How commands have a cell do something beside its live work: the running one, or one opened here.

A running cell is asked over HTTP (its run file, or `--url` of the cell itself); where none runs on
this machine the command opens the store itself, and works as long as it takes. Either way the work
is the same code (cells/maintenance.py). Main thread only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote

import typer

from engine.errors import NotFound, Unavailable
from engine.limits import JOB_POLL_S, VERIFY_PROGRESS_S
from ops.options import on_terminal, say, settings_of

if TYPE_CHECKING:
    from cells.settings import Settings

_JOBS = "/v1/admin/jobs"
CellName = Annotated[
    str | None, typer.Option("--cell", metavar="C", help="Which cell; needed where there are more.")
]
CellUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="A running cell; else its run file says where."),
]
Execute = Annotated[
    bool, typer.Option("--execute", help="Do it; without, only what would be done is shown.")
]


class Jobs(Protocol):
    """A cell that can be asked; documents are `topics.http_jobs.JobOut`."""

    def ask(self, **asked: object) -> dict[str, Any]:
        """Plan or begin a job."""

    def jobs(self) -> list[dict[str, Any]]:
        """Those that it knows."""

    def job(self, name: str) -> dict[str, Any]:
        """One."""

    def stop(self, name: str) -> dict[str, Any]:
        """End one."""


class _Running:
    """A cell in another process."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def ask(self, **asked: object) -> dict[str, Any]:
        """Plan or begin a job."""
        given = {name: value for name, value in asked.items() if value is not None}
        answer: dict[str, Any] = self._client.post(_JOBS, given)
        return answer

    def jobs(self) -> list[dict[str, Any]]:
        """Those that it knows."""
        answer: list[dict[str, Any]] = self._client.get(_JOBS)["jobs"]
        return answer

    def job(self, name: str) -> dict[str, Any]:
        """One."""
        answer: dict[str, Any] = self._client.get(f"{_JOBS}/{quote(name, safe='')}")
        return answer

    def stop(self, name: str) -> dict[str, Any]:
        """End one."""
        answer: dict[str, Any] = self._client.delete(f"{_JOBS}/{quote(name, safe='')}")
        return answer


class _Opened:
    """A cell that this process has opened."""

    def __init__(self, maintenance: Any) -> None:
        self._maintenance = maintenance

    def ask(self, **asked: object) -> dict[str, Any]:
        """Plan or begin a job."""
        from topics.http_jobs import JobIn

        given: dict[str, Any] = {name: v for name, v in asked.items() if v is not None}
        return _plain(self._maintenance.ask(JobIn(**given)))

    def jobs(self) -> list[dict[str, Any]]:
        """Those that it knows."""
        return [_plain(job) for job in self._maintenance.jobs()]

    def job(self, name: str) -> dict[str, Any]:
        """One."""
        return _plain(self._maintenance.job(name))

    def stop(self, name: str) -> dict[str, Any]:
        """End one."""
        return _plain(self._maintenance.stop(name))


def _plain(job: Any) -> dict[str, Any]:
    import msgspec

    document: dict[str, Any] = msgspec.to_builtins(job)
    return document


def cell_named(settings: Settings, cell: str | None) -> str:
    """The cell meant; NotFound when there are several and none is named."""
    if cell is None and len(settings.cells) == 1:
        return next(iter(settings.cells))
    if cell is None or cell not in settings.cells:
        what = "no --cell is given" if cell is None else f"no cell {cell!r} is configured"
        raise NotFound(f"{what}; there are {', '.join(sorted(settings.cells))}")
    return cell


@contextmanager
def reach(config: Path | None, url: str | None, cell: str | None) -> Iterator[Jobs]:
    """The cell, as long as it is needed."""
    from ops.client import Client
    from topics.runfiles import find

    token = os.environ.get("FIRECELL_TOKEN", "")
    if url:
        with Client(url, token) as client:
            yield _Running(client)
        return
    settings = settings_of(config)
    name = cell_named(settings, cell)
    running = find(settings.data.folder, "cell", name)
    if running is not None:
        with Client(running.url, token) as client:
            yield _Running(client)
        return
    say(f"cell {name} does not run here: opening its store for this command")
    from cells.cell import open_cell
    from cells.maintenance import Maintenance

    opened = open_cell(settings, name)
    maintenance = Maintenance(opened, settings)
    try:
        opened.runner.start()
        yield _Opened(maintenance)
    finally:
        maintenance.close()
        opened.close()


def follow(jobs: Jobs, job: dict[str, Any], show: Callable[[Mapping[str, Any]], str]) -> Any:
    """Wait for a job to end, telling how far it is; the job. Unavailable when it failed."""
    told = 0.0
    every_s = JOB_POLL_S if on_terminal() else VERIFY_PROGRESS_S
    while job["state"] == "running":
        time.sleep(JOB_POLL_S)
        job = jobs.job(job["id"])
        if time.monotonic() - told >= every_s and job["progress"]:
            told = time.monotonic()
            say(show(job["progress"]))
    if job["state"] == "failed":
        raise Unavailable(f"{job['kind']} {job['id']} failed: {job['error']}")
    return job


def show_plan(plan: Mapping[str, Any], hint: str) -> None:
    """A plan for people: one member a line."""
    for name, value in plan.items():
        if isinstance(value, dict):
            continue
        typer.echo(f"{name.replace('_', ' '):<20} {value}")
    say(hint)
