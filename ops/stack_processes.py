"""The stack's processes: started in sessions of their own, known by files, ended by their ids.

`<folder>/run/<server>.json` names the process and when the kernel started it, because ids are used
again: nothing is ever signalled that this stack did not start. One process works on a stack's
files at a time (its lock is held); looking is allowed to all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import Unavailable
from engine.limits import LOG_TAIL_BYTES, RUN_FILE_BYTES_MAX, WAIT_STEP_S
from engine.limits_stack import STACK_KILLED_S, STACK_STOP_S
from ops.stack_plan import SERVERS
from topics.locks import write_durably
from topics.runfiles import start_ticks

# The shell goes at once, so that the server is nobody's child: neither a test nor a command line
# that ends takes it along, and init collects it.
_FRAME = re.compile(r"\s+at [\w.$/<>]+\(|\s+\.\.\. \d+ more")
_DETACH = '"$@" >>"$0" 2>&1 </dev/null & echo $!'


@dataclass(frozen=True)
class Server:
    """A living process that this stack started."""

    name: str
    pid: int
    ticks: int
    since_ms: int

    @property
    def paused(self) -> bool:
        """Whether it was stopped by SIGSTOP."""
        return _state(self.pid) in ("T", "t")


def server_file(folder: Path, name: str) -> Path:
    """The file that knows one server's process."""
    return folder / "run" / f"{name}.json"


def living(folder: Path, name: str) -> Server | None:
    """The process of one server, or None: never started, stopped, killed, or the id is
    another process's by now."""
    try:
        with server_file(folder, name).open("rb") as file:
            document = json.loads(file.read(RUN_FILE_BYTES_MAX))
        found = Server(
            name=name,
            pid=int(document["pid"]),
            ticks=int(document["start_ticks"]),
            since_ms=int(document["since_ms"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if start_ticks(found.pid) == found.ticks else None


def all_living(folder: Path) -> list[Server]:
    """Every living server of a stack, in the order of starting."""
    found = (living(folder, name) for name in SERVERS)
    return [server for server in found if server is not None]


def start(
    folder: Path,
    name: str,
    command: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start one server, detached; what it prints is appended to `output`; `environment` is added
    to ours. Unavailable when it ended at once."""
    done = subprocess.run(
        ["/bin/sh", "-c", _DETACH, str(output), *command],
        cwd=folder,
        env={**_environment(), **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=False,
    )
    if not done.stdout.strip().isdigit():
        raise Unavailable(f"{name} could not be started; see {output}")
    pid = int(done.stdout)
    ticks = start_ticks(pid)
    if ticks is None:
        raise Unavailable(f"{name} ended at once: {last_words(output)}")
    since_ms = time.time_ns() // 1_000_000
    document = {"pid": pid, "start_ticks": ticks, "since_ms": since_ms, "command": list(command)}
    write_durably(server_file(folder, name), json.dumps(document).encode() + b"\n")
    return Server(name, pid, ticks, since_ms)


def _environment() -> dict[str, str]:
    """Ours without what would steer a JVM, Hadoop or HBase behind our back."""
    foreign = ("HADOOP_", "HBASE_", "KAFKA_", "CLASSPATH", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS",
               "JDK_JAVA_OPTIONS")  # fmt: skip
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def run_once(folder: Path, command: Sequence[str], output: Path, wait_s: float) -> None:
    """Run a short program to its end. Unavailable with its last words when it failed."""
    with output.open("ab") as file:
        try:
            done = subprocess.run(
                command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, timeout=wait_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not done after {wait_s:g} s: {command[-1]}; see {output}") from None
    if done.returncode != 0:
        raise Unavailable(f"exit code {done.returncode}: {last_words(output)}; see {output}")


def send(server: Server, number: int) -> bool:
    """Send a signal, if that very process still lives; whether it was sent."""
    if start_ticks(server.pid) != server.ticks:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, number)
        return True
    return False


def stop(
    folder: Path, servers: Iterable[Server], wait_s: float = STACK_STOP_S
) -> tuple[Collection[str], Collection[str]]:
    """TERM (and CONT, or a paused one would not hear it), then KILL after `wait_s`; their files go.

    Returns (those that went by themselves, those that had to be killed). Unavailable when one
    survives KILL."""
    asked = list(servers)
    for server in asked:
        send(server, signal.SIGTERM)
        send(server, signal.SIGCONT)
    left = _wait_gone(asked, wait_s)
    for server in left:
        send(server, signal.SIGKILL)
    stuck = _wait_gone(left, STACK_KILLED_S)
    if stuck:
        names = ", ".join(f"{server.name} ({server.pid})" for server in stuck)
        raise Unavailable(f"still there after KILL: {names}; the kernel holds them, look at dmesg")
    for server in asked:
        server_file(folder, server.name).unlink(missing_ok=True)
    killed = {server.name for server in left}
    return [server.name for server in asked if server.name not in killed], sorted(killed)


def kill(server: Server) -> None:
    """KILL and wait until it is gone. Its file stays, as after any crash."""
    send(server, signal.SIGKILL)
    if _wait_gone([server], STACK_KILLED_S):
        raise Unavailable(f"{server.name} ({server.pid}) is still there after KILL")


def _wait_gone(servers: Iterable[Server], wait_s: float) -> list[Server]:
    deadline = time.monotonic() + wait_s
    left = list(servers)
    while True:
        left = [server for server in left if _lingers(server)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(WAIT_STEP_S)


def _lingers(server: Server) -> bool:
    """Whether it lives, or its first thread has ended and others still hold its ports."""
    if start_ticks(server.pid) == server.ticks:
        return True
    try:
        threads = len(list(Path(f"/proc/{server.pid}/task").iterdir()))
    except OSError:
        return False
    return _state(server.pid) == "Z" and threads > 1


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def resident_mb(pid: int) -> int:
    """Memory that a process holds, MB; 0 when it is gone or this is no Linux."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def last_words(output: Path) -> str:
    """The last line of a log that says something."""
    try:
        with output.open("rb") as file:
            file.seek(max(0, output.stat().st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "it said nothing"
    # Not the lines of a Java stack: what was thrown stands above them.
    telling = [line.strip() for line in lines if line.strip() and not _FRAME.match(line)]
    loud = [line for line in telling if "ERROR" in line or "Exception" in line or "FATAL" in line]
    return (loud or telling or ["it said nothing"])[-1]
