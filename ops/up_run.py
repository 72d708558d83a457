"""What `firecell up` does: one lock, one port, the gateway and a process per cell, supervised.

Main thread; the event loop runs here. Children die with this thread (ops/children.py).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from engine.limits import DRAIN_GRACE_S, DRAIN_S, SUCCESSOR_WAIT_S
from engine.version import VERSION
from ops import options
from ops.children import child_command
from ops.supervisor import ChildSpec, Supervisor
from topics.lifecycle import Lifecycle, bind
from topics.locks import FileLock
from topics.runfiles import RUN_FOLDER, RunFile, find
from topics.security import Guard
from topics.tokens import load_tokens


def run_up(config: Path | None, port: int | None, json_wanted: bool) -> int:
    """Do it; the exit code. Precondition when another `up` has the folder, or the port is taken."""
    settings = options.settings_of(config, http__port=port)
    data = settings.data.folder
    Guard(settings.http.host, load_tokens(settings.tokens.file))  # an open door is refused here
    with _hold(data):
        free = _free_port(settings.http.host, settings.http.port, data)
        lifecycle = Lifecycle("up", "main", drain_s=DRAIN_S + 2 * DRAIN_GRACE_S)
        run_file = RunFile(data, "up", "main")
        run_file.write(url="", version=VERSION)
        shared = ("--config", str(settings.file)) if settings.file else ()
        gateway = child_command("gateway", *shared, "--port", str(free))
        specs = [ChildSpec("gateway", "main", gateway)]
        for name in settings.cells:
            specs.append(ChildSpec("cell", name, child_command("cell", name, *shared)))

        def on_ready(urls: dict[str, str]) -> None:
            run_file.write(url=urls.get("gateway", ""), version=VERSION)
            _say_ready(urls, json_wanted)

        def on_drain() -> None:
            run_file.write(url="", version=VERSION, draining=True)  # a successor may wait for us

        supervisor = Supervisor(specs, data_folder=data, lifecycle=lifecycle, say=options.say)
        try:
            return asyncio.run(_run(supervisor, lifecycle, on_ready, on_drain))
        finally:
            run_file.remove()


async def _run(
    supervisor: Supervisor,
    lifecycle: Lifecycle,
    on_ready: Callable[[dict[str, str]], None],
    on_drain: Callable[[], None],
) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifecycle.handle_signal, number)
    running = asyncio.create_task(supervisor.run(on_ready))
    draining = asyncio.create_task(lifecycle.wait_draining())
    await asyncio.wait({running, draining}, return_when=asyncio.FIRST_COMPLETED)
    if draining.done():
        on_drain()
        options.say(f"draining: {lifecycle.reason}")
    draining.cancel()
    return await running


def _hold(data: Path) -> FileLock:
    """The lock of one `up` per data folder. A predecessor that is about to go is waited for."""
    (data / RUN_FOLDER).mkdir(parents=True, exist_ok=True)
    path = data / RUN_FOLDER / "up.lock"
    other = find(data, "up", "main")
    patience = SUCCESSOR_WAIT_S if other is None or other.extra.get("draining") else 0
    who = f"process {other.pid}" if other is not None else "another process"
    refusal = (
        f"`firecell up` ({who}) already runs on {data}: stop it first, or use another data folder"
    )
    return FileLock.acquire(path, patience, refusal)


def _free_port(host: str, port: int, data: Path) -> int:
    """The gateway's port, seen to be free; 0 becomes a number here, so that a gateway that is
    restarted keeps its address. Waits only for a predecessor's gateway on the same folder."""
    patience = SUCCESSOR_WAIT_S if find(data, "gateway", "main") is not None else 0
    with bind(host, port, wait_s=patience) as listener:
        number: int = listener.getsockname()[1]
    return number


def _say_ready(urls: dict[str, str], json_wanted: bool) -> None:
    cells = {t.removeprefix("cell "): url for t, url in urls.items() if t.startswith("cell ")}
    url = urls.get("gateway", "")
    if json_wanted:
        options.emit({"url": url, "cells": cells})
        sys.stdout.flush()
    missing = "" if url else " (without the gateway)"
    options.say(f"ready: {url or 'cells only'}{missing}, cells {', '.join(cells) or 'none'}")
    options.say("Ctrl-C drains and ends.")
