"""How every process of Firecell starts, becomes ready, drains and stops: the same for all of them.

`Lifecycle` is the state (starting -> ready -> draining -> stopped) and may be used from any thread;
`serve` runs one ASGI application under it, in one event loop, in the main thread.

The first TERM or INT drains: not ready, no new connections, streams end, requests finish, then the
`on_stop` steps run in order (flush, close), and the process exits 0 within `DRAIN_S`. The second
TERM, or the second INT, ends the process at once; what was acknowledged is durable already (I1).
A worker that can't go on calls `fail`: the process drains and exits with that error's code.

Streams must end by themselves: they watch `draining` (threads) or `wait_draining()` (coroutines).
uvicorn re-raises the signals that it caught and waits for open streams for ever; both are switched
off here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from engine.errors import FirecellError, Precondition, Unavailable
from engine.limits import (
    DRAIN_REQUESTS_S,
    DRAIN_S,
    HTTP_BACKLOG,
    HTTP_CONNECTIONS_MAX,
    HTTP_KEEPALIVE_S,
    PORT_MAX,
    PROCESS_THREADS,
    SUCCESSOR_WAIT_S,
    WAIT_STEP_S,
)
from topics.http_bounds import BoundedProtocol
from topics.locks import FileLock
from topics.runfiles import RUN_FOLDER, RunFile, find

log = logging.getLogger("firecell.lifecycle")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class State(StrEnum):
    """Where a process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Lifecycle:
    """The state of one process. Thread-safe; one instance per process.

    `role` and `name` are what run files, logs and `status` call it (`gateway`/`main`, `cell`/`c1`).
    """

    def __init__(self, role: str, name: str, *, drain_s: float = DRAIN_S) -> None:
        self.role = role
        self.name = name
        self.drain_s = drain_s
        self.draining = threading.Event()
        self.error: BaseException | None = None
        self.reason = "starting"  # why it is not ready; empty when it is
        self._state = State.STARTING
        self._lock = threading.RLock()  # a signal may come while its own thread holds it
        self._steps: list[tuple[str, Callable[[], None]]] = []
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._seen: set[int] = set()
        self._step = "the event loop"

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def exit_code(self) -> int:
        """0 after a clean drain, else the code of the error that ended it."""
        if self.error is None:
            return 0
        return self.error.exit_code if isinstance(self.error, FirecellError) else 1

    def ready(self) -> None:
        """Starting, or not ready for a while, -> ready. Does nothing once draining."""
        with self._lock:
            if self._state in (State.STARTING, State.READY):
                if self._state is State.STARTING:
                    log.info("ready")
                self._state, self.reason = State.READY, ""

    def not_ready(self, reason: str) -> None:
        """Ready -> starting, with the reason that /readyz shows: a dependency is away."""
        with self._lock:
            if self._state in (State.STARTING, State.READY):
                self._state, self.reason = State.STARTING, reason

    def on_stop(self, name: str, step: Callable[[], None]) -> None:
        """Add a step of the stop: run in the order added, in a thread, once requests are done.
        `name` is what the log says when it hangs or fails."""
        with self._lock:
            self._steps.append((name, step))

    def drain(self, cause: str) -> None:
        """Begin the end; harmless when repeated. Starts the clock of `drain_s`."""
        with self._lock:
            if self._state in (State.DRAINING, State.STOPPED):
                return
            self._state, self.reason = State.DRAINING, cause
            waiters, self._waiters = self._waiters, []
        log.info("draining: %s", cause)
        deadline = threading.Timer(self.drain_s, self._too_late)
        deadline.daemon = True
        deadline.start()
        self.draining.set()
        for loop, event in waiters:
            with contextlib.suppress(RuntimeError):  # that loop has closed
                loop.call_soon_threadsafe(event.set)

    def fail(self, error: BaseException) -> None:
        """A part of this process can't go on: keep the first such error, and drain."""
        with self._lock:
            if self.error is None:
                self.error = error
        named = isinstance(error, FirecellError)  # its message says all that a person needs
        log.error("%s can't go on: %s", self.role, error, exc_info=None if named else error)
        self.drain(f"failed: {error}")

    async def wait_draining(self) -> None:
        """Return once draining has begun."""
        event = asyncio.Event()
        with self._lock:
            if self._state in (State.DRAINING, State.STOPPED):
                return
            entry = (asyncio.get_running_loop(), event)
            self._waiters.append(entry)
        try:
            await event.wait()
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._waiters.remove(entry)

    def handle_signal(self, number: int, _frame: FrameType | None = None) -> None:
        """First of a kind drains; the same again ends the process now, without a word of Python
        finalization that could hang."""
        if number in self._seen:
            os._exit(128 + number)  # what a shell reports of a process that a signal ended
        self._seen.add(number)
        self.drain(signal.Signals(number).name)

    def run_stop_steps(self) -> None:
        """Run the steps of `on_stop`; a failing one is logged and kept, and the next one runs."""
        for name, step in self._steps:
            self._step = name
            try:
                step()
            except Exception as error:
                log.exception("stop step %r failed", name)
                self.error = self.error or error
        with self._lock:
            self._state, self.reason = State.STOPPED, "stopped"

    def _too_late(self) -> None:
        if self._state is State.STOPPED:
            return
        log.error("not drained after %s s: %s still runs; ending now", self.drain_s, self._step)
        os._exit(1)


def bind(host: str, port: int, *, wait_s: float = 0.0) -> socket.socket:
    """A bound TCP socket; port 0 takes a free one. A taken port is a Precondition at once, or
    after `wait_s` when the caller knows that a predecessor is about to leave it."""
    if not 0 <= port <= PORT_MAX:
        raise Precondition(f"port {port} is outside 0..{PORT_MAX}; choose another with --port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + wait_s
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(HTTP_BACKLOG)
        except OSError as error:
            listener.close()
            if time.monotonic() < deadline:
                time.sleep(WAIT_STEP_S)
                continue
            raise Precondition(
                f"can't listen on {host}:{port}: {error.strerror}; stop what uses it, or choose "
                f"another port with --port (0 takes a free one)"
            ) from None
        listener.setblocking(False)
        return listener


def url_of(listener: socket.socket) -> str:
    """`http://host:port` of a bound socket, as a client on this machine would write it."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: ours decides."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's word for it; its code would read as "precondition" here
            raise Unavailable("the application did not start; the log says why") from None


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="auto",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=HTTP_BACKLOG,
        limit_concurrency=HTTP_CONNECTIONS_MAX,
        timeout_keep_alive=HTTP_KEEPALIVE_S,
        timeout_graceful_shutdown=DRAIN_REQUESTS_S,
    )


def serve(
    app: Any,
    lifecycle: Lifecycle,
    *,
    listener: socket.socket,
    data_folder: Path | None = None,
    version: str = "",
    start: Callable[[], None] | None = None,
    details: dict[str, object] | None = None,
) -> int:
    """Serve an ASGI application until it is told to stop; the process's exit code.

    listener      from `bind`; closed on return
    data_folder   where the run file goes (`<data>/run/<role>-<name>.json`); None: no run file
    start         slow work of the start (opening stores, catching up), run in a thread while
                  /healthz and /readyz answer already; it calls `lifecycle.ready()` itself.
                  What it raises ends the process with that error's exit code.
    details       more members of the run file

    Call it in the main thread: it takes over TERM and INT.
    """
    url = url_of(listener)
    run_file = None
    claim = None
    if data_folder is not None:
        claim = _claim(data_folder, lifecycle)
        run_file = RunFile(data_folder, lifecycle.role, lifecycle.name)
    before = {number: signal.signal(number, lifecycle.handle_signal) for number in _SIGNALS}
    try:
        if run_file is not None:
            run_file.write(url=url, version=version, **(details or {}))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(app, lifecycle, listener, start))
    finally:
        listener.close()
        if run_file is not None:
            run_file.remove()
        if claim is not None:
            claim.release()
        for number, handler in before.items():
            signal.signal(number, handler)
    return lifecycle.exit_code


def _claim(data_folder: Path, lifecycle: Lifecycle) -> FileLock:
    """The right to be this role and name on the data folder. A second process is refused before it
    touches the first one's run file."""
    title = f"{lifecycle.role}-{lifecycle.name}"
    folder = data_folder / RUN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    other = find(data_folder, lifecycle.role, lifecycle.name)
    who = f"process {other.pid}" if other is not None else "another process"
    refusal = f"{who} already runs as {lifecycle.role} {lifecycle.name} on {data_folder}: stop it"
    return FileLock.acquire(folder / f"{title}.lock", SUCCESSOR_WAIT_S, refusal)


async def _serve(
    app: Any, lifecycle: Lifecycle, listener: socket.socket, start: Callable[[], None] | None
) -> None:
    """The order of a life: listen, start, wait for the end, end requests, stop steps."""
    server = _Server(_config(app))
    # By default so many as cores and 4: a broker that is away would hold them all.
    threads = ThreadPoolExecutor(PROCESS_THREADS, thread_name_prefix="process")
    asyncio.get_running_loop().set_default_executor(threads)
    _install_loop_signals(lifecycle)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    starting = None
    if start is not None:
        starting = asyncio.create_task(asyncio.to_thread(_guarded(lifecycle, start)))
    draining = asyncio.create_task(lifecycle.wait_draining())
    await asyncio.wait({serving, draining}, return_when=asyncio.FIRST_COMPLETED)
    lifecycle.drain("the server ended by itself")
    server.should_exit = True
    try:
        await serving
    except Exception as error:
        lifecycle.fail(error)
    await draining
    if starting is not None:
        await starting
    await asyncio.to_thread(lifecycle.run_stop_steps)


def _guarded(lifecycle: Lifecycle, start: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            start()
        except Exception as error:
            lifecycle.fail(error)

    return run


def _install_loop_signals(lifecycle: Lifecycle) -> None:
    """asyncio.Runner puts its own INT handler in; the loop's own handlers run between callbacks,
    even while the interpreter waits in C."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, lifecycle.handle_signal, number)


@contextlib.asynccontextmanager
async def served(app: Any, listener: socket.socket) -> AsyncIterator[str]:
    """Serve an ASGI application in the running loop for as long as the block lasts; its URL. For
    processes whose life another library rules; signals are left alone."""
    server = _Server(_config(app))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        await serving
        listener.close()
