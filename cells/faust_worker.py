"""A worker under Faust's own command line: `FIRECELL_CELL=c1 faust -A cells.app worker`.

Faust owns the process: its loop, its signals. Before its app joins the group, the cell is opened in
a thread, or the process ends with the error's exit code (a second worker on an embedded store: 3).
On an embedded store this process is the only one that can read it, so it serves the cell's HTTP,
too. What cannot go on ends the process at once: what was acknowledged is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from cells.app import FaustRunner
from cells.cell import Cell, open_cell
from cells.faust_app import build_app
from cells.server import CellServer
from cells.settings import Settings, load_settings
from engine.errors import FirecellError, Misconfigured, invariant
from engine.limits import DRAIN_S, PROCESS_WATCH_S, SWITCH_INTERVAL_S
from engine.version import VERSION
from topics.lifecycle import bind, served
from topics.runfiles import RunFile
from topics.security import Guard
from topics.tokens import load_tokens
from topics.urls import EmbeddedPlace, KafkaPlace

_log = logging.getLogger("firecell.faust")


def plain_app(environment: Mapping[str, str]) -> Any:
    """The app of the cell that FIRECELL_CELL names, of the configuration that FIRECELL_CONFIG
    names. Misconfigured when there is no such cell, or its firehose is not Kafka."""
    settings = load_settings(environment=environment)
    name = environment.get("FIRECELL_CELL", "")
    if not name:
        cells = ", ".join(settings.cells)
        raise Misconfigured(f"FIRECELL_CELL must name the worker's cell; there are: {cells}")
    worker = PlainWorker(settings, name)
    app = build_app(worker, before=worker.open, after=worker.close)
    worker.app = app
    return app


class PlainWorker:
    """One cell in a process that Faust owns; everything on Faust's loop."""

    def __init__(self, settings: Settings, name: str) -> None:
        own, place = settings.cell(name), settings.firehose.place
        if not isinstance(place, KafkaPlace):
            raise Misconfigured(
                f"[firehose] url = {settings.firehose.url!r}: Faust works on kafka:// only;"
                f" `firecell cell {name}` runs this cell"
            )
        self.group = f"cell.{name}"
        self.place = place
        self.folder = own.folder
        self.shared = not isinstance(own.place, EmbeddedPlace)
        self.app: Any = None
        self._settings = settings
        self._name = name
        self._cell: Cell | None = None
        self._serving = contextlib.AsyncExitStack()
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the cell and give the group its positions; whatever is wrong ends the process."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            # What is missing is only named: whoever types `faust` means what is there.
            self._cell = await asyncio.to_thread(
                open_cell, self._settings, self._name, create=False
            )
            runner = self._runner()
            await asyncio.to_thread(runner.prepare)
            if isinstance(self._settings.cell(self._name).place, EmbeddedPlace):
                await self._serve(self._cell)
        except FirecellError as error:
            _end(self._name, error)
        runner.look()
        self._watching = asyncio.create_task(self._watch())

    async def take(self, stream: Any) -> None:
        """The agent's life."""
        await self._runner().take(stream)

    async def close(self) -> None:
        """Before the app stops: finish what is in hand, commit it, give the cell back."""
        if self._cell is None:
            return
        runner = self._runner()
        runner.begin_stop()
        await runner.finish_in_hand()
        with contextlib.suppress(Exception):  # a dead broker: the store's own vector is the truth
            await self.app.consumer.commit()
        if self._watching is not None:
            self._watching.cancel()
        await self._serving.aclose()
        await asyncio.to_thread(self._cell.close, DRAIN_S)

    def _runner(self) -> FaustRunner:
        invariant(self._cell is not None, "the app runs before its cell was opened")
        runner = self._cell.runner if self._cell is not None else None
        if not isinstance(runner, FaustRunner):
            raise Misconfigured("this cell's firehose is not Kafka")
        return runner

    async def _serve(self, cell: Cell) -> None:
        own = self._settings.cell(self._name)
        guard = Guard(own.host, load_tokens(self._settings.tokens.file))
        server = CellServer(self._name, guard)
        server.attach(cell.reader, cell.runner, self._settings.firehose.partitions)
        url = await self._serving.enter_async_context(served(server.app, bind(own.host, own.port)))
        run_file = RunFile(self._settings.data.folder, "cell", self._name)
        run_file.write(url=url, version=VERSION)
        self._serving.callback(run_file.remove)

    async def _watch(self) -> None:
        while self._runner().failure is None:
            await asyncio.sleep(PROCESS_WATCH_S)
        failure = self._runner().failure
        if failure is not None:
            _end(self._name, failure)


def _end(name: str, error: BaseException) -> NoReturn:
    """Step 5: at once, so that nothing of what is in hand is acknowledged."""
    _log.error("cell %s ends: %s", name, error)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(error.exit_code if isinstance(error, FirecellError) else 1)
