"""`Stack`: a real Kafka, HBase (on HDFS) and Redis on this machine, for development and tests.

    with Stack(folder, ports="free") as stack:      # up, and down at the end
        stack.urls                                  # {"kafka": ..., "hbase": ..., "redis": ...}
        stack.kill("hbase"); stack.start("hbase")   # as after a crash, and back
        stack.pause("kafka"); stack.resume("kafka") # SIGSTOP, SIGCONT

The servers outlive the process that started them, until `down`; their data outlive `down`. A
`Stack` never adopts, flushes or stops a server that it did not start. Everything that changes
something holds the folder's lock, so several processes may use one folder; one thread per object.
"""

from __future__ import annotations

import base64
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from engine.errors import NotFound, Precondition, Unavailable
from engine.limits_stack import STACK_FORMAT_S, STACK_POLL_S, STACK_STOP_S, STACK_UP_S
from ops import stack_commands, stack_processes
from ops.stack_config import write_configuration
from ops.stack_jars import HBASE_PART, KAFKA_PART, fetch
from ops.stack_plan import HDFS, STOP_ORDER, Plan, Ports, make_plan, read_plan
from ops.stack_plan import taken_ports as _taken_ports
from ops.stack_probe import probe
from ops.stack_processes import Server, living
from ops.stack_status import Condition, condition, diary
from topics.locks import FileLock
from topics.runfiles import start_ticks

_HELPER_FILE = "helper.args"
GUARD = "guard"


def _quiet(_text: str) -> None:
    """Say nothing."""


class Stack:
    """One stack in one folder; see the module's text."""

    def __init__(
        self,
        folder: Path,
        *,
        cache: Path | None = None,
        ports: Ports | None = None,
        heaps_mb: Mapping[str, int] | None = None,
        light: bool | None = None,
        servers: Collection[str] | None = None,
        say: Callable[[str], None] = _quiet,
        throwaway: bool = False,
    ) -> None:
        """Parameters as `ops.stack_plan.make_plan`; `say` is told of progress; `throwaway`: nobody
        needs the data after `with`, so its end does not wait for HBase to write them out. Starts
        nothing."""
        self._throwaway = throwaway
        self.plan: Plan = make_plan(
            folder, cache=cache, ports=ports, heaps_mb=heaps_mb, light=light, servers=servers
        )
        self._say = say

    @classmethod
    def existing(cls, folder: Path, say: Callable[[str], None] = _quiet) -> Stack:
        """The stack of a folder as `up` left it. NotFound when there was none."""
        if read_plan(folder) is None:
            raise NotFound(f"no stack in {folder}: start one with `firecell stack up`")
        return cls(folder, say=say)

    # --- what clients need ---

    @property
    def folder(self) -> Path:
        """Where everything lies."""
        return self.plan.folder

    @property
    def urls(self) -> dict[str, str]:
        """kafka, hbase, redis -> URL; `hbase_url` names a cell too."""
        return self.plan.urls

    @property
    def ports(self) -> dict[str, int]:
        """Port by name, such as kafka, thrift, redis, zookeeper."""
        return dict(self.plan.ports)

    def hbase_url(self, cell: str) -> str:
        """`hbase://host:port/CELL?zookeeper=host:port`: the store of one cell."""
        return self.urls["hbase"].replace("?", f"/{cell}?", 1)

    def firehose_url(self, topic: str = "firehose") -> str:
        """`kafka://host:port/TOPIC`: the firehose."""
        return f"{self.urls['kafka']}/{topic}"

    @property
    def helper(self) -> Path:
        """The @argument file of the Java helper: `java @FILE` runs it against this HBase."""
        return self.folder / _HELPER_FILE

    def hbase_command(self, main: str, *arguments: str, heap_mb: int) -> tuple[str, ...]:
        """The command line of a program of HBase's jars with this stack's configuration."""
        return stack_commands.hbase_command(self.plan, main, *arguments, heap_mb=heap_mb)

    # --- all of it ---

    def up(self, *, tied: bool = False) -> Stack:
        """Start everything and return when all of it answers; seconds, on first use minutes.

        Of a stack that runs in part (a server crashed), what is missing is started.

        tied   when this process ends, however it ends, a guard takes the stack down

        Precondition: it runs already, a port is taken, or a program is missing. Unavailable: a
        server ended or did not answer in time; then all that was started is stopped again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            missing = self._missing()
            self._refuse_taken(missing)
            self._prepare()
            self.plan.keep()
            started = time.monotonic()
            try:
                if tied:  # first of all: this process may be killed while the servers start
                    self._start_guard()
                self._format()
                self._start_all(missing)
            except BaseException:
                self._say("it did not come up: stopping what was started")
                self._down(STACK_STOP_S, missing)
                raise
            self._say(f"all up in {time.monotonic() - started:.1f} s")
        return self

    def revive(self) -> list[str]:
        """Start each server that ended although nobody stopped it, and do not wait for it. Their
        names. Precondition: another process works on this stack, or a port is taken."""
        with self._lock():
            crashed = [
                name for name in self.plan.servers
                if living(self.folder, name) is None
                and stack_processes.server_file(self.folder, name).exists()
            ]  # fmt: skip
            self._refuse_taken(crashed)
            for name in crashed:
                self._start(name)
        return crashed

    def down(self, wait_s: float = STACK_STOP_S) -> list[str]:
        """Stop what lives, in the right order: TERM, after `wait_s` KILL. Names those that had to
        be killed. Nothing happens when nothing lives."""
        if not (self.folder / "run").is_dir():
            return []
        with self._lock():
            return self._down(wait_s)

    def status(self) -> list[Condition]:
        """Every server, asked now."""
        with ThreadPoolExecutor(len(self.plan.servers)) as pool:
            return list(pool.map(partial(condition, self.plan), self.plan.servers))

    def __enter__(self) -> Stack:
        return self.up(tied=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down(0 if self._throwaway else STACK_STOP_S)

    # --- one server: what faults are made of ---

    def kill(self, name: str) -> None:
        """KILL one server and wait until it is gone. NotFound when it does not live."""
        stack_processes.kill(self._living(name))

    def pause(self, name: str) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        stack_processes.send(self._living(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        stack_processes.send(self._living(name), signal.SIGCONT)

    def stop(self, name: str, wait_s: float = STACK_STOP_S) -> None:
        """TERM one server, KILL after `wait_s`."""
        stack_processes.stop(self.folder, [self._living(name)], wait_s)

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start one server that was killed or stopped, with the ports and data that it had; wait
        until it answers unless told otherwise. Precondition: it lives, or its port is taken."""
        self._known(name)
        with self._lock():
            server = living(self.folder, name)
            if server is not None:
                raise Precondition(f"{name} lives (process {server.pid}): stop or kill it first")
            self._refuse_taken([name])
            self._start(name)
        if wait:
            # HBase's ZooKeeper remembers a master that was killed; Thrift gets through to it.
            others = ("hbase", "thrift") if name in (*HDFS, "hbase") else ()
            alive = [other for other in others if living(self.folder, other) is not None]
            self.wait_ready(dict.fromkeys([name, *alive]))

    def wait_ready(self, names: Iterable[str] | None = None, wait_s: float = STACK_UP_S) -> None:
        """Wait until the servers named (default: all) answer. Unavailable: one ended, or the time
        is over."""
        deadline = time.monotonic() + wait_s
        problems = dict.fromkeys(self.plan.servers if names is None else names, "")
        while True:
            for name in list(problems):
                problems[name] = self._problem(name)
                if not problems[name]:
                    del problems[name]
            if not problems:
                return
            if time.monotonic() >= deadline:
                told = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
                raise Unavailable(f"not ready after {wait_s:g} s: {told}; see {self.plan.logs()}")
            time.sleep(STACK_POLL_S)

    # --- how ---

    def _known(self, name: str) -> None:
        if name not in self.plan.servers:
            raise NotFound(f"no server {name!r} in this stack: {', '.join(self.plan.servers)}")

    def _living(self, name: str) -> Server:
        self._known(name)
        server = living(self.folder, name)
        if server is None:
            raise NotFound(f"{name} of the stack in {self.folder} does not live")
        return server

    def _lock(self) -> FileLock:
        refusal = f"another process starts or stops the stack in {self.folder}: wait for it"
        return FileLock.acquire(self.folder / "stack.lock", 0, refusal)

    def _missing(self) -> tuple[str, ...]:
        """What `up` has to start. Precondition when all of it lives, or what lives was started
        with other servers, ports or heaps."""
        alive = {server.name: server for server in stack_processes.all_living(self.folder)}
        missing = tuple(name for name in self.plan.servers if name not in alive)
        if alive and (not missing or read_plan(self.folder) != self.plan):
            names = ", ".join(f"{server.name} ({server.pid})" for server in alive.values())
            raise Precondition(
                f"the stack in {self.folder} runs already: {names}; `firecell stack down` stops it"
            )
        if alive:
            self._say(f"running: {', '.join(alive)}; starting {', '.join(missing)}")
        return missing

    def _refuse_taken(self, servers: Collection[str]) -> None:
        taken = _taken_ports(self.plan, servers)
        if taken:
            names = ", ".join(f"{number} ({name})" for name, number in taken)
            raise Precondition(
                f"ports are taken on this machine: {names}; stop what listens there, or choose"
                " others with --port-base or --free-ports",
                ports={name: number for name, number in taken},
            )

    def _prepare(self) -> None:
        """Programs, jars and configuration; nothing runs yet."""
        names = self.plan.servers
        for name in names:
            stack_commands.server_command(self.plan, name)  # a program that is missing says so
        if "kafka" in names:
            fetch(self.plan.cache, KAFKA_PART, self._say)
        if HDFS & set(names) or "hbase" in names:
            fetch(self.plan.cache, HBASE_PART, self._say)
        write_configuration(self.plan)
        if "hbase" in names:
            self.helper.write_text(stack_commands.helper_arguments(self.plan))

    def _format(self) -> None:
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        with ThreadPoolExecutor(len(self.plan.servers)) as pool:
            jobs = []
            for name in self.plan.servers:
                # A name that begins with "-" would be taken for an option.
                command = stack_commands.format_command(self.plan, name, f"f{identity[1:]}")
                if command is not None:
                    self._say(f"{name}: preparing its folder")
                    output = self._output(name)
                    jobs.append(
                        pool.submit(
                            stack_processes.run_once, self.folder, command, output, STACK_FORMAT_S
                        )
                    )
            for job in jobs:
                job.result()

    def _start_all(self, names: Collection[str]) -> None:
        """What needs nobody at once; HBase when its file system serves; then Thrift."""
        later = [name for name in names if name in ("hbase", "thrift")]
        first = [name for name in names if name not in later]
        for name in first:
            self._start(name)
        self.wait_ready(first)
        for name in later:  # both at once: Thrift waits for HBase by itself
            self._start(name)
        self.wait_ready(later)

    def _start(self, name: str) -> Server:
        command = stack_commands.server_command(self.plan, name)
        return stack_processes.start(self.folder, name, command, self._output(name))

    def _start_guard(self) -> None:
        """The root of our packages comes first for it: its working folder is the stack's."""
        root = Path(__file__).resolve().parent.parent
        owner = (str(os.getpid()), str(start_ticks(os.getpid())))
        command = (sys.executable, "-P", "-m", "ops.stack_guard", str(self.folder), *owner)
        environment = {"PYTHONPATH": str(root)}
        output = self._output(GUARD)
        stack_processes.start(self.folder, GUARD, command, output, environment)

    def _stop_guard(self) -> None:
        guard = living(self.folder, GUARD)
        if guard is not None and guard.pid != os.getpid():
            stack_processes.stop(self.folder, [guard])
        stack_processes.server_file(self.folder, GUARD).unlink(missing_ok=True)

    def _output(self, name: str) -> Path:
        return self.plan.logs() / f"{name}.out"

    def _problem(self, name: str) -> str:
        """ "" when a server that was started answers. Unavailable when it ended."""
        server = living(self.folder, name)
        if server is None:
            words = stack_processes.last_words(diary(self.plan, name))
            raise Unavailable(f"{name} ended: {words}; see {self.plan.logs()}")
        problem = probe(self.plan, name)
        if not problem:
            took = time.time_ns() // 1_000_000 - server.since_ms
            self._say(f"{name}: ready after {took / 1000:.1f} s, process {server.pid}")
        return problem

    def _down(self, wait_s: float, only: Collection[str] | None = None) -> list[str]:
        self._stop_guard()
        killed: list[str] = []
        for names in STOP_ORDER:
            alive = []
            for name in names:
                if only is not None and name not in only:
                    continue
                server = living(self.folder, name)
                if server is None:  # of a crash only the file is left
                    stack_processes.server_file(self.folder, name).unlink(missing_ok=True)
                else:
                    alive.append(server)
            if alive:
                gone, late = stack_processes.stop(self.folder, alive, wait_s)
                killed += late
                told = [*gone, *(f"{name} (killed)" for name in late)]
                self._say(f"stopped: {', '.join(told)}")
        return killed
