"""A cell's process: the whole life of one, from settings to exit code, in the main thread.

It listens at once, so that /healthz and /readyz tell how far it is; then it opens its store, loads
its graph, applies what it has missed, and serves. A fan-out that cannot go on ends the process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from cells.cell import Cell, open_cell
from cells.maintenance import Maintenance
from cells.server import CellServer
from cells.settings import Settings
from engine.errors import Unavailable
from engine.limits import DRAIN_S, PROCESS_WATCH_S, SUCCESSOR_WAIT_S, SWITCH_INTERVAL_S
from engine.version import VERSION
from topics.lifecycle import Lifecycle, bind, serve
from topics.runfiles import find
from topics.security import Guard
from topics.tokens import load_tokens


def run_cell(
    settings: Settings,
    name: str,
    *,
    accept_gap: bool = False,
    on_look: Callable[[Cell], bool] = lambda cell: False,
) -> int:
    """Serve the cell `name` until told to stop, or `on_look`, asked ten times a second, says that
    it is over; the exit code.

    Raises Misconfigured and Precondition for what is wrong before it listens; later failures end
    the process with their exit code.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    own = settings.cell(name)
    lifecycle = Lifecycle("cell", name)
    guard = Guard(own.host, load_tokens(settings.tokens.file))
    server = CellServer(name, guard, reason=lambda: _ending(lifecycle))
    leaving = find(settings.data.folder, "cell", name) is not None
    listener = bind(own.host, own.port, wait_s=SUCCESSOR_WAIT_S if leaving else 0)

    def start() -> None:
        cell = open_cell(settings, name, accept_gap=accept_gap)
        maintenance = Maintenance(cell, settings)
        lifecycle.on_stop("the jobs", maintenance.close)
        lifecycle.on_stop("the cell", lambda: _close_cell(cell))
        cell.runner.start()
        maintenance.start()
        server.attach(cell.reader, cell.runner, settings.firehose.partitions, maintenance)
        _watch(lifecycle, cell, on_look)

    return serve(
        server.app,
        lifecycle,
        listener=listener,
        data_folder=settings.data.folder,
        version=VERSION,
        start=start,
    )


def _ending(lifecycle: Lifecycle) -> str:
    """The lifecycle's own reason once it drains; before, the cell's runner knows better."""
    return lifecycle.reason if lifecycle.draining.is_set() else ""


def _watch(lifecycle: Lifecycle, cell: Cell, on_look: Callable[[Cell], bool]) -> None:
    """Until the end: tell the lifecycle whether the cell is ready, and fail with its fan-out."""
    runner = cell.runner
    while True:
        if runner.failure is not None:
            lifecycle.fail(runner.failure)
        elif runner.ready:
            lifecycle.ready()
        else:
            lifecycle.not_ready(runner.not_ready_reason())
        if on_look(cell):
            lifecycle.drain("what it was started for is done")
        if lifecycle.draining.wait(PROCESS_WATCH_S):
            return


def _close_cell(cell: Cell) -> None:
    started = time.monotonic()
    if not cell.close(DRAIN_S):
        waited = time.monotonic() - started
        raise Unavailable(f"the fan-out of cell {cell.name} did not end within {waited:.0f} s")
