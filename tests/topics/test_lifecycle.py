"""Start, ready, drain, stop: with real signals on real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engine.errors import Precondition
from engine.limits import HTTP_HEADER_BYTES_MAX
from tests.conftest import ROOT
from topics import runfiles
from topics.lifecycle import Lifecycle, State, bind, url_of

SERVER = """
import asyncio, logging, sys, threading, time
from contextlib import asynccontextmanager
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from topics.jsonlog import setup_logging
from topics.lifecycle import Lifecycle, bind, serve
from engine.errors import Misconfigured, Corruption

setup_logging("cell", "t1")
mode = sys.argv[2]
life = Lifecycle("cell", "t1", drain_s=1.0 if mode == "hang" else 20)

async def ready(request):
    return PlainTextResponse(life.reason or "ready", 503 if life.reason else 200)

async def slow(request):
    await asyncio.sleep(0.5)
    return PlainTextResponse("slow but whole")

async def stream(request):
    async def lines():
        yield b"first\\n"
        await life.wait_draining()
        yield b"bye\\n"
    return StreamingResponse(lines())

async def forever(request):
    async def lines():
        yield b"first\\n"
        await asyncio.sleep(3600)
    return StreamingResponse(lines())

def start():
    if mode == "refuse":
        raise Misconfigured("no such thing")
    time.sleep(0.2)
    life.ready()
    if mode == "fail":
        threading.Timer(0.3, lambda: life.fail(Corruption("bits are wrong"))).start()

def stop():
    if mode == "hang":
        time.sleep(60)
    Path(sys.argv[1], "stopped").write_text("yes")

life.on_stop("flush", stop)
@asynccontextmanager
async def life_of_app(app):
    if mode == "no-app":
        raise RuntimeError("the app is broken")
    yield

pages = {"/readyz": ready, "/slow": slow, "/stream": stream, "/forever": forever}
app = Starlette(lifespan=life_of_app, routes=[Route(*page) for page in pages.items()])
sys.exit(serve(app, life, listener=bind("127.0.0.1", 0), data_folder=Path(sys.argv[1]),
               version="t", start=start))
"""


class Server:
    """One process under test."""

    def __init__(self, data: Path, mode: str = "plain") -> None:
        self.data = data
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(data), mode],
            env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def url(self) -> str:
        return wait_for(lambda: runfiles.find(self.data, "cell", "t1")).url

    def ready_url(self) -> str:
        url = self.url()
        wait_for(lambda: get(url + "/readyz").status_code == 200)
        return url

    def end(self) -> tuple[int, str]:
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=20)


def wait_for(look, timeout_s: float = 15.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


@pytest.fixture
def server(data_folder: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(mode: str = "plain") -> Server:
        started.append(Server(data_folder, mode))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(server, data_folder: Path, number: int) -> None:
    running = server()
    url = running.url()
    assert get(url + "/readyz").status_code in (503, 200)
    running.ready_url()
    running.process.send_signal(number)
    code, log = running.end()
    assert code == 0, log
    assert (data_folder / "stopped").read_text() == "yes"
    assert runfiles.running(data_folder) == []
    assert not list((data_folder / "run").glob("*.json"))
    assert [json.loads(line)["message"] for line in log.splitlines()][-1].startswith("draining")


def test_a_running_request_is_finished_and_streams_end_themselves(server) -> None:
    running = server()
    url = running.ready_url()
    answers: dict[str, str] = {}

    def ask(path: str) -> None:
        answers[path] = get(url + path).text

    threads = [threading.Thread(target=ask, args=(path,)) for path in ("/slow", "/stream")]
    for thread in threads:
        thread.start()
    time.sleep(0.25)
    running.process.terminate()
    assert running.end()[0] == 0
    for thread in threads:
        thread.join()
    assert answers == {"/slow": "slow but whole", "/stream": "first\nbye\n"}


def test_a_second_term_ends_at_once(server) -> None:
    running = server()
    url = running.ready_url()
    with httpx.stream("GET", url + "/forever", trust_env=False) as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"first\n"
        running.process.terminate()
        time.sleep(0.4)
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGINT)  # another kind is not impatience
        time.sleep(0.2)
        assert running.process.poll() is None
        running.process.terminate()
        code, _ = running.end()
    assert code == 128 + signal.SIGTERM


def test_a_stop_step_that_hangs_is_cut_off_and_named(server, data_folder: Path) -> None:
    running = server("hang")
    running.ready_url()
    running.process.terminate()
    code, log = running.end()
    assert code == 1
    assert "flush still runs" in log
    assert runfiles.running(data_folder) == []  # the file is there, its process is not


def test_a_failed_start_exits_with_its_code(server) -> None:
    code, log = server("refuse").end()
    assert code == 2
    assert "no such thing" in log


def test_an_app_that_does_not_start_is_a_failure_not_a_refusal(server) -> None:
    code, log = server("no-app").end()
    assert code == 1
    assert "did not start" in log


def test_a_corrupt_worker_drains_and_exits_3(server, data_folder: Path) -> None:
    code, log = server("fail").end()
    assert code == 3
    assert "bits are wrong" in log
    assert (data_folder / "stopped").exists()


def _answer(url: str, sent: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(sent)
            while piece := connection.recv(65536):
                received += piece
        except ConnectionError:
            pass
        return received


def test_headers_are_bounded_fuzz(server) -> None:
    url = server().ready_url()
    endless = b"GET /readyz HTTP/1.1\r\nx: " + b"a" * (2 * HTTP_HEADER_BYTES_MAX)
    assert _answer(url, endless).startswith(b"HTTP/1.1 431")
    many = b"".join(b"x%d: y\r\n" % n for n in range(10_000))
    assert _answer(url, b"GET /readyz HTTP/1.1\r\n" + many + b"\r\n")[9:12] in (b"431", b"400")
    long_path = b"GET /" + b"a" * (2 * HTTP_HEADER_BYTES_MAX) + b" HTTP/1.1\r\nhost: a\r\n\r\n"
    assert _answer(url, long_path).startswith(b"HTTP/1.1 431")
    assert b"400" in _answer(url, b"\x00\x01 nonsense\r\n\r\n")
    assert get(url + "/readyz").status_code == 200


def test_many_requests_on_one_connection(server) -> None:
    url = server().ready_url()
    with httpx.Client(trust_env=False) as client:
        codes = {
            client.get(url + "/readyz", headers={"x": "y" * 900}).status_code for _ in range(100)
        }  # more header bytes together than one head may have
    assert codes == {200}


def test_a_taken_port_suggests_another() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(Precondition, match="--port"):
            bind("127.0.0.1", port)


def test_a_successor_waits_for_the_port() -> None:
    taken = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    threading.Timer(0.3, taken.close).start()
    started = time.monotonic()
    with bind("127.0.0.1", port, wait_s=5):
        assert time.monotonic() - started > 0.2


def test_states() -> None:
    life = Lifecycle("cell", "x", drain_s=60)
    assert (life.state, life.reason) == (State.STARTING, "starting")
    life.ready()
    assert (life.state, life.reason) == (State.READY, "")
    life.not_ready("the disk is full")
    assert (life.state, life.reason) == (State.STARTING, "the disk is full")
    life.ready()
    order: list[str] = []
    life.on_stop("one", lambda: order.append("one"))
    life.on_stop("bad", lambda: order.append(str(1 // 0)))
    life.on_stop("two", lambda: order.append("two"))
    life.drain("enough")
    life.drain("again")
    life.ready()
    assert (life.state, life.reason) == (State.DRAINING, "enough")
    life.run_stop_steps()
    assert order == ["one", "two"]
    assert (life.state, life.exit_code) == (State.STOPPED, 1)
