"""Keeps processes running: starts, watches, restarts with backoff, and drains them in order.

`firecell up` and the demo use it. One event loop in the main thread, and it must be the main
thread that starts children: they die with the *thread* that made them (ops/children.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from engine.errors import Misconfigured, Precondition
from engine.limits import (
    DRAIN_GRACE_S,
    DRAIN_S,
    LOG_FILE_BYTES_MAX,
    LOG_TAIL_BYTES,
    READY_S,
    RESTART_FIRST_MS,
    RESTART_HEALTHY_S,
    RESTART_MS_MAX,
    RESTARTS_REFUSED_MAX,
    SUPERVISOR_LOOK_S,
)
from ops.children import child_environment
from topics import runfiles
from topics.lifecycle import Lifecycle

_REFUSALS = (Misconfigured.exit_code, Precondition.exit_code)


@dataclass(frozen=True)
class ChildSpec:
    """A process to keep running; `role` and `name` are those of its run file. `command` is the
    whole of it: `ops.children.child_command` makes the ones of Firecell."""

    role: str
    name: str
    command: tuple[str, ...]

    @property
    def title(self) -> str:
        """As people are told of it."""
        return self.role if self.role == "gateway" else f"{self.role} {self.name}"


@dataclass
class _Child:
    spec: ChildSpec
    log: Path
    process: asyncio.subprocess.Process | None = None
    refusals: int = 0
    backoff_ms: int = RESTART_FIRST_MS
    given_up: int = 0  # its exit code, once it is left alone
    restarts: int = 0
    watch: asyncio.Task[None] | None = field(default=None, repr=False)


class Supervisor:
    """Runs `specs` until the lifecycle drains. `say` gets one line per event.

    The order of `specs` is the order of the stop: the first is gone before the others are told.
    """

    def __init__(
        self,
        specs: Sequence[ChildSpec],
        *,
        data_folder: Path,
        lifecycle: Lifecycle,
        say: Callable[[str], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data_folder
        self._lifecycle = lifecycle
        self._say = say
        self._environment = child_environment(os.environ if environment is None else environment)
        self._logs = data_folder / "logs"
        self._children = [
            _Child(spec, self._logs / f"{spec.role}-{spec.name}.log") for spec in specs
        ]

    async def run(self, on_ready: Callable[[dict[str, str]], None]) -> int:
        """Start everything, call `on_ready` with title -> URL once all of it serves, and return
        the exit code after the drain: 0, or 1 when a child had to be killed."""
        self._logs.mkdir(parents=True, exist_ok=True)
        for child in self._children:
            child.watch = asyncio.create_task(self._keep(child))
        draining = asyncio.create_task(self._lifecycle.wait_draining())
        announcing = asyncio.create_task(self._announce(on_ready))
        alone = asyncio.create_task(self._all_given_up())
        looking = asyncio.create_task(self._look_after_logs())
        await asyncio.wait({draining, alone}, return_when=asyncio.FIRST_COMPLETED)
        self._lifecycle.drain("no process is left that could be restarted")
        for task in (announcing, looking, alone):
            task.cancel()
        killed = await self._stop()
        refused = [child.given_up for child in self._children if child.given_up]
        if len(refused) == len(self._children):
            return refused[0]
        return 1 if killed else self._lifecycle.exit_code

    def urls(self) -> dict[str, str]:
        """Title -> URL of the children that listen now."""
        found = {}
        for child in self._children:
            running = runfiles.find(self._data, child.spec.role, child.spec.name)
            process = child.process
            if running is not None and process is not None and running.pid == process.pid:
                found[child.spec.title] = running.url
        return found

    async def _keep(self, child: _Child) -> None:
        """Start, wait for the end, start again; until the drain or until it refuses for good."""
        while not self._lifecycle.draining.is_set():
            started = time.monotonic()
            code = await self._run_once(child)
            if self._lifecycle.draining.is_set():
                return
            if time.monotonic() - started > RESTART_HEALTHY_S:
                child.backoff_ms, child.refusals = RESTART_FIRST_MS, 0
            child.refusals = child.refusals + 1 if code in _REFUSALS else 0
            reason = _last_words(child.log)
            if child.refusals >= RESTARTS_REFUSED_MAX:
                child.given_up = code
                self._say(
                    f"{child.spec.title}: refused to run {child.refusals} times, left alone;"
                    f" mend it and start again. {reason}"
                )
                return
            child.restarts += 1
            self._say(
                f"{child.spec.title}: ended with {_meaning(code)}, again in"
                f" {child.backoff_ms} ms. {reason}"
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(child.backoff_ms / 1_000):
                    await self._lifecycle.wait_draining()
            child.backoff_ms = min(child.backoff_ms * 2, RESTART_MS_MAX)

    async def _run_once(self, child: _Child) -> int:
        _rotate(child.log)
        with child.log.open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *child.spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,  # a terminal's Ctrl-C is for us; they get one TERM of ours
            )
        if self._lifecycle.draining.is_set():
            _signal(child, signal.SIGTERM)  # the drain began while it was being made
        self._say(f"{child.spec.title}: started as process {child.process.pid}")
        return await child.process.wait()

    async def _announce(self, on_ready: Callable[[dict[str, str]], None]) -> None:
        """Ask each child's /readyz until all are ready, those left alone not counted."""
        deadline = time.monotonic() + READY_S
        late = False
        async with httpx.AsyncClient(trust_env=False) as http:
            while True:
                waiting = [child for child in self._children if not child.given_up]
                urls = self.urls()
                ready = [await _is_ready(http, urls.get(child.spec.title)) for child in waiting]
                if waiting and all(ready):
                    on_ready(urls)
                    self._lifecycle.ready()
                    return
                if time.monotonic() > deadline and not late:
                    late = True
                    names = [
                        child.spec.title for child, done in zip(waiting, ready, strict=True)
                        if not done
                    ]  # fmt: skip
                    self._say(f"not ready after {READY_S} s: {', '.join(names)}; still waiting")
                await asyncio.sleep(SUPERVISOR_LOOK_S)

    async def _all_given_up(self) -> None:
        watches = [child.watch for child in self._children if child.watch is not None]
        await asyncio.wait(watches)  # not gather: cancelling that would cancel them

    async def _look_after_logs(self) -> None:
        while True:
            await asyncio.sleep(RESTART_HEALTHY_S)
            for child in self._children:
                _rotate(child.log)

    async def _stop(self) -> list[str]:
        """One TERM each: the first child, and when it has gone all others. Titles of those that
        had to be killed."""
        deadline = time.monotonic() + DRAIN_S + DRAIN_GRACE_S
        for group in (self._children[:1], self._children[1:]):
            for child in group:
                _signal(child, signal.SIGTERM)
            watches = [child.watch for child in group if child.watch is not None]
            if watches:
                await asyncio.wait(watches, timeout=max(0.0, deadline - time.monotonic()))
        killed = []
        for child in self._children:
            if child.process is not None and child.process.returncode is None:
                self._say(f"{child.spec.title}: did not drain, killed")
                _signal(child, signal.SIGKILL)
                await child.process.wait()
                killed.append(child.spec.title)
        return killed


async def _is_ready(http: httpx.AsyncClient, url: str | None) -> bool:
    if url is None:
        return False
    try:
        return (await http.get(f"{url}/readyz")).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _signal(child: _Child, number: int) -> None:
    if child.process is not None and child.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)


def _meaning(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _last_words(log: Path) -> str:
    """The last line that a child wrote: why it ended, most likely."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return f"See {log}"
    return f"Its last words: {lines[-1]} (more in {log})" if lines else f"See {log}"


def _rotate(log: Path) -> None:
    """Keep a log within its bound: children append, so copying and cutting loses a line at most."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_FILE_BYTES_MAX:
            log.with_suffix(".log.1").write_bytes(log.read_bytes())
            os.truncate(log, 0)
