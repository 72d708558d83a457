"""The real stack's processes: started, known, ended; a whole stack of Redis alone; the command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import NotFound, Precondition, Unavailable
from ops import stack_processes
from ops.stack_plan import read_plan
from ops.stack_run import Stack
from tests.conftest import ROOT

needs_redis = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs Redis: redis-server"),
]


COMMAND = (sys.executable, "-P", "-m", "ops.main", "stack")

# --- processes ---


@pytest.fixture
def stack_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose servers are all stopped afterwards."""
    (tmp_path / "run").mkdir()
    yield tmp_path
    stack_processes.stop(tmp_path, stack_processes.all_living(tmp_path), 0)


def start(folder: Path, name: str, code: str) -> stack_processes.Server:
    command = [sys.executable, "-u", "-c", code]
    server = stack_processes.start(folder, name, command, folder / f"{name}.out")
    deadline = time.monotonic() + 10
    while "here" not in (folder / f"{name}.out").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    return server


def test_a_server_is_nobodys_child_and_hears_term_also_when_paused(stack_folder: Path) -> None:
    server = start(stack_folder, "redis", "import time; print('here'); time.sleep(60)")
    stat = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[1]) != os.getpid()
    assert int(stat[3]) != os.getsid(0)
    stack_processes.send(server, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while not server.paused and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.paused
    assert stack_processes.stop(stack_folder, [server]) == (["redis"], [])
    assert stack_processes.living(stack_folder, "redis") is None
    assert not stack_processes.server_file(stack_folder, "redis").exists()


def test_who_does_not_hear_term_is_killed(stack_folder: Path) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here'); time.sleep(60)"
    server = start(stack_folder, "kafka", deaf)
    assert stack_processes.stop(stack_folder, [server], 0.2) == ([], ["kafka"])
    assert stack_processes.living(stack_folder, "kafka") is None


def test_an_id_that_is_another_process_by_now_is_never_signalled(stack_folder: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        document = {"pid": stranger.pid, "start_ticks": 1, "since_ms": 1}
        stack_processes.server_file(stack_folder, "hbase").write_text(json.dumps(document))
        assert stack_processes.living(stack_folder, "hbase") is None
        forged = stack_processes.Server("hbase", stranger.pid, 1, 1)
        assert not stack_processes.send(forged, signal.SIGKILL)
        assert stack_processes.stop(stack_folder, [forged]) == (["hbase"], [])
        Stack(stack_folder, ports="free").down()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_short_program_that_fails_tells_its_last_words(stack_folder: Path) -> None:
    output = stack_folder / "out"
    for code, words in (("raise SystemExit('ERROR: no room')", "no room"), ("", "")):
        command = [sys.executable, "-c", code]
        if words:
            with pytest.raises(Unavailable, match=words):
                stack_processes.run_once(stack_folder, command, output, 10)
        else:
            stack_processes.run_once(stack_folder, command, output, 10)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(Unavailable, match="not done"):
        stack_processes.run_once(stack_folder, sleeper, output, 0.2)


# --- a whole stack, of the one server that needs no Java ---


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "stack", servers=("redis",), ports="free")
    yield stack
    stack.down()


def ask(stack: Stack, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", stack.ports["redis"]), 5) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(1024)


class TestRedisAlone:
    """`up`, faults, `down`: the same code for every server."""

    pytestmark = needs_redis

    def test_up_down_up_keeps_ports_and_data(self, redis: Stack) -> None:
        redis.up()
        assert ask(redis, b"SET a 5") == b"+OK\r\n"
        with pytest.raises(Precondition, match="runs already"):
            redis.up()
        with pytest.raises(Precondition, match="runs already"):
            Stack.existing(redis.folder).up()
        assert ask(redis, b"GET a") == b"$1\r\n5\r\n"
        assert redis.down() == []
        assert redis.down() == []
        again = Stack.existing(redis.folder).up()
        assert again.ports == redis.ports
        assert ask(again, b"GET a") == b"$1\r\n5\r\n"

    def test_a_taken_port_is_an_error_and_its_owner_is_left_alone(self, redis: Stack) -> None:
        redis.up()
        other = Stack(redis.folder.parent / "other", servers=("redis",), ports=redis.ports)
        with pytest.raises(Precondition, match=f"{redis.ports['redis']} \\(redis\\)"):
            other.up()
        assert other.down() == []
        assert ask(redis, b"PING") == b"+PONG\r\n"

    def test_kill_start_pause_resume(self, redis: Stack) -> None:
        redis.up()
        assert redis.status()[0].state == "ready"
        with pytest.raises(Precondition, match="lives"):
            redis.start("redis")
        redis.kill("redis")
        assert redis.status()[0].state == "dead"
        with pytest.raises(NotFound):
            redis.kill("redis")
        redis.start("redis")
        redis.pause("redis")
        time.sleep(0.05)
        assert redis.status()[0].state == "paused"
        redis.resume("redis")
        redis.wait_ready()
        redis.stop("redis")
        assert redis.status()[0].state == "stopped"

    def test_a_server_that_cannot_start_takes_the_others_down(self, redis: Stack) -> None:
        redis.folder.mkdir()
        (redis.folder / "data").write_text("in the way")
        with pytest.raises(OSError, match="data"):
            redis.up()
        assert stack_processes.all_living(redis.folder) == []

    def test_revive_starts_what_crashed_and_not_what_was_stopped(self, redis: Stack) -> None:
        redis.up()
        assert redis.revive() == []
        redis.kill("redis")
        assert redis.revive() == ["redis"]
        redis.wait_ready()
        redis.stop("redis")
        assert redis.revive() == []

    def test_up_starts_what_is_missing_of_a_running_stack(self, stack_folder: Path) -> None:
        both = Stack(stack_folder, servers=("redis", "kafka"), ports="free")
        both.plan.keep()
        start(stack_folder, "kafka", "print('here'); import time; time.sleep(60)")
        assert Stack.existing(stack_folder)._missing() == ("redis",)
        with pytest.raises(Precondition, match="runs already"):
            Stack(stack_folder, servers=("redis",))._missing()  # others than were started

    def test_two_at_once(self, redis: Stack) -> None:
        redis.folder.mkdir()
        with redis._lock(), pytest.raises(Precondition, match="another process"):
            Stack(redis.folder, servers=("redis",)).up()

    def test_a_tied_stack_goes_with_its_owner_killed(self, tmp_path: Path) -> None:
        code = (
            "import sys, time; from pathlib import Path; from ops.stack_run import Stack\n"
            f"s = Stack(Path({str(tmp_path / 's')!r}), servers=('redis',), ports='free')\n"
            "s.up(tied=True); print('here', flush=True); time.sleep(60)"
        )
        owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"here\n"
        assert len(stack_processes.all_living(tmp_path / "s")) == 1
        owner.kill()
        owner.wait()
        owner.stdout.close()
        deadline = time.monotonic() + 20
        while stack_processes.all_living(tmp_path / "s") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stack_processes.all_living(tmp_path / "s") == []


class TestCommand:
    """`firecell stack` as a person types it."""

    pytestmark = needs_redis

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
        )

    def test_up_status_down(self, tmp_path: Path) -> None:
        folder = ("--folder", str(tmp_path / "stack"))
        assert self.run("status", *folder).returncode == 4
        assert self.run("up", *folder, "--port", "redis").returncode == 2
        assert self.run("up", *folder, "--free-ports", "--port-base", "20000").returncode == 2
        try:
            done = self.run("up", *folder, "--only", "redis", "--free-ports", "--json")
            assert done.returncode == 0, done.stderr
            port = json.loads(done.stdout)["ports"]["redis"]
            kept = read_plan(tmp_path / "stack")
            assert kept is not None
            assert kept.ports["redis"] == port
            assert self.run("up", *folder).returncode == 3
            done = self.run("status", *folder, "--json")
            (server,) = json.loads(done.stdout)["servers"]
            assert (done.returncode, server["state"]) == (0, "ready")
            assert f"redis {port}" in self.run("status", *folder).stdout
        finally:
            assert self.run("down", *folder).returncode == 0
        assert self.run("status", *folder).returncode == 1

    def test_foreground_ends_everything_on_term(self, foreground: Foreground) -> None:
        foreground.process.send_signal(signal.SIGTERM)
        assert foreground.process.wait(20) == 0
        assert stack_processes.all_living(foreground.folder) == []

    def test_foreground_starts_again_what_was_killed_restart(self, foreground: Foreground) -> None:
        (server,) = stack_processes.all_living(foreground.folder)
        os.kill(server.pid, signal.SIGKILL)
        assert wait_for(lambda: foreground.pids() not in ([], [server.pid]))
        assert wait_for(lambda: Stack.existing(foreground.folder).status()[0].state == "ready")

    def test_foreground_killed_leaves_nothing(self, foreground: Foreground) -> None:
        foreground.process.kill()
        foreground.process.wait()
        assert wait_for(lambda: foreground.pids() == [])

    def test_down_elsewhere_ends_the_foreground(self, foreground: Foreground) -> None:
        assert self.run("down", "--folder", str(foreground.folder)).returncode == 0
        assert foreground.process.wait(20) == 0
        assert foreground.pids() == []


class Foreground:
    """`firecell stack up --foreground` with Redis alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--folder", str(folder), "--only", "redis", "--free-ports",
             "--foreground"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def pids(self) -> list[int]:
        return [server.pid for server in stack_processes.all_living(self.folder)]


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[Foreground]:
    running = Foreground(tmp_path / "stack")
    assert running.process.stdout is not None
    assert running.process.stdout.readline().startswith(b"redis")
    assert len(running.pids()) == 1
    yield running
    if running.process.poll() is None:
        running.process.terminate()
    running.process.wait(20)
    running.process.stdout.close()


def wait_for(happens: Callable[[], bool], within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
