"""An HTTP/1.1 client made for load: keep-alive connections, one request at a time on each.

Two uses: `Client` and `for_each` read many pages for a checker, in one event loop; `python -m
bench.load` is a load generator in a process of its own (`run_load` starts it), so that what it
costs is not on the account of whoever waits for it. It understands answers with a Content-Length
and nothing else, which is what our servers send for pages: over 30,000 requests/s on one core.

Each connection belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

import uvloop

from bench.report import Histogram
from engine.errors import FirecellError, Unavailable
from ops.children import child_environment, die_with_parent

OK = 200
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length: "
_SAMPLE_EVERY = 64  # answers whose posts are counted: looking at each would cost more than reading
_POST_MARK = b'"seen":'  # once in each post of a page
_STOP_S = 10  # a connection may take this long for its last answer


class Connection(asyncio.Protocol):
    """One connection. `on_answer(status, body)` is called for each answer, on the loop."""

    def __init__(self, on_answer: Callable[[int, bytes], None]) -> None:
        self.on_answer = on_answer
        self.on_lost: Callable[[], None] = lambda: None
        self._transport: asyncio.WriteTransport | None = None
        self._buffer = b""
        self._wanted = 0  # bytes of head and body together; 0: the head is not there yet
        self._head = 0
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes) -> None:
        """Write a whole request; the answer before it must have come."""
        if self._transport is None or self._transport.is_closing():
            self.on_lost()
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Of asyncio.Protocol."""
        buffer = self._buffer + data if self._buffer else data
        if not self._wanted:
            end = buffer.find(_END_OF_HEAD)
            if end < 0:
                self._buffer = buffer
                return
            self._read_head(buffer[:end].lower(), end + len(_END_OF_HEAD))
        if len(buffer) < self._wanted:
            self._buffer = buffer
            return
        body = buffer[self._head : self._wanted]
        self._buffer, self._wanted = b"", 0
        self.on_answer(self._status, body)

    def _read_head(self, head: bytes, size: int) -> None:
        self._status = int(head[9:12])
        at = head.find(_LENGTH)
        if at < 0:
            raise FirecellError("an answer without Content-Length: this client reads no other")
        line_end = head.find(b"\r\n", at)
        length = int(head[at + len(_LENGTH) : line_end if line_end >= 0 else len(head)])
        self._head, self._wanted = size, size + length

    def connection_lost(self, error: Exception | None) -> None:
        """Of asyncio.Protocol."""
        self.on_lost()

    def close(self) -> None:
        """Close the connection; `on_lost` is not called."""
        self.on_lost = lambda: None
        if self._transport is not None:
            self._transport.close()


def request_bytes(host: str, path: str) -> bytes:
    """A GET of `path`."""
    return f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()


class Client:
    """Awaitable GETs over one connection of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._netloc = parts.netloc
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._connection: Connection | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """(status, body). Unavailable when the connection is refused or lost."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self._done), self._host, self._port
                )
            except OSError as error:
                raise Unavailable(f"{self._netloc} does not answer: {error}") from None
            connection.on_lost = self._lost
            self._connection = connection
        self._answer = loop.create_future()
        self._connection.send(request_bytes(self._netloc, path))
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _done(self, status: int, body: bytes) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((status, body))

    def _lost(self) -> None:
        self._connection = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Unavailable(f"{self._netloc} closed the connection"))


async def for_each(
    url: str, items: Iterable[int], work: Callable[[Client, int], Awaitable[None]], clients: int
) -> None:
    """`work(client, item)` for every item, `clients` of them at once, each with a connection."""
    waiting: Iterator[int] = iter(items)

    async def drain() -> None:
        client = Client(url)
        try:
            for item in waiting:
                await work(client, item)
        finally:
            client.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(drain())


# --- the load generator ---------------------------------------------------------------------------


@dataclass
class Task:
    """What a load generator shall do: GET `paths` in turn, over and over unless `once`."""

    url: str
    paths: list[str]
    connections: int
    seconds: float
    warm_seconds: float = 1.0  # requests before are sent, but not counted
    once: bool = False  # each path once at most: it ends with the last one, if not before


@dataclass
class LoadResult:
    """What came of it; times in ms from the request's first byte to the answer's last."""

    requests: int = 0
    per_second: float = 0.0
    failures: int = 0  # answers other than 200, and lost connections
    posts_per_page: float = 0.0  # in a sample of the answers
    bytes_per_page: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)


class _Generator:
    """A closed loop per connection: the next request goes out when the answer is there."""

    def __init__(self, task: Task) -> None:
        self.task = task
        parts = urlsplit(task.url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._requests = [request_bytes(parts.netloc, path) for path in task.paths]
        self._next = 0
        self._counting = False
        self._stopping = False
        self._running = 0
        self._idle = asyncio.Event()
        self.failures = 0
        self.latencies: list[float] = []
        self.sampled: list[int] = []
        self.bytes = 0

    async def run(self) -> LoadResult:
        """Do the task."""
        loop = asyncio.get_running_loop()
        self._counting, started = not self.task.warm_seconds, time.perf_counter()
        connections = [await self._connect(loop) for _ in range(self.task.connections)]
        if self.task.warm_seconds:
            await asyncio.sleep(self.task.warm_seconds)
            self._counting, started = True, time.perf_counter()
        with contextlib.suppress(TimeoutError):  # only what asks each path once ends before
            async with asyncio.timeout(self.task.seconds):
                await self._idle.wait()
        self._counting, self._stopping = False, True
        seconds = time.perf_counter() - started
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self._idle.wait()
        for connection in connections:
            connection.close()
        return self._result(seconds)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        sent_at = 0.0

        def go() -> None:
            nonlocal sent_at
            if self._stopping or (self.task.once and self._next >= len(self._requests)):
                self._end()
                return
            request = self._requests[self._next % len(self._requests)]
            self._next += 1
            sent_at = time.perf_counter()
            connection.send(request)

        def on_answer(status: int, body: bytes) -> None:
            if self._counting:
                self.latencies.append(time.perf_counter() - sent_at)
                self.bytes += len(body)
                if status != OK:
                    self.failures += 1
                elif len(self.latencies) % _SAMPLE_EVERY == 0:
                    self.sampled.append(body.count(_POST_MARK))
            go()

        def on_lost() -> None:
            self.failures += 1
            self._end()

        _, connection = await loop.create_connection(
            lambda: Connection(on_answer), self._host, self._port
        )
        connection.on_lost = on_lost
        self._running += 1
        go()
        return connection

    def _end(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._idle.set()

    def _result(self, seconds: float) -> LoadResult:
        histogram = Histogram()
        histogram.record_many([latency * 1_000 for latency in self.latencies])
        count = len(self.latencies)
        return LoadResult(
            requests=count,
            per_second=round(count / seconds, 1),
            failures=self.failures,
            posts_per_page=round(sum(self.sampled) / max(len(self.sampled), 1), 2),
            bytes_per_page=round(self.bytes / max(count, 1), 1),
            latency_ms=histogram.summary((50, 90, 99)),
        )


def start_load(task: Task) -> subprocess.Popen[bytes]:
    """Start a load generator; `end_load` waits for what it found."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(os.environ),
        process_group=0,  # Ctrl-C is for us; the generator dies with us
    )
    if process.stdin is not None:
        process.stdin.write(json.dumps(asdict(task)).encode())
        process.stdin.close()
        process.stdin = None
    return process


def end_load(process: subprocess.Popen[bytes]) -> LoadResult:
    """The result, once the generator is done. FirecellError when it failed."""
    try:
        answer, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise FirecellError(f"the load generator ended with exit code {process.returncode}")
    return LoadResult(**json.loads(answer))


def run_load(
    url: str, paths: Sequence[str], connections: int, seconds: float, warm_seconds: float = 1.0
) -> LoadResult:
    """GET `paths` in turn over `connections` for `seconds`, from a process of its own."""
    return end_load(start_load(Task(url, list(paths), connections, seconds, warm_seconds)))


def _main() -> int:
    die_with_parent()
    task = Task(**json.loads(sys.stdin.buffer.read()))
    result = uvloop.run(_Generator(task).run())
    sys.stdout.write(json.dumps(asdict(result)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
