"""What the HTTP tests ask instead of a firehose and a cell, and how they ask."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from cells.server import CellServer
from engine.errors import DiskFull, FirecellError, NotFound, Unprocessable, WrongCell
from engine.events import NO_ID, Event, Post
from tests.topics.memory_log import MemoryLog
from topics.histogram import Histogram
from topics.http_bounds import BoundedProtocol
from topics.http_client import Answer, Request
from topics.http_jobs import JobIn, JobOut
from topics.http_proxy import CellProxy
from topics.http_stream import Streams
from topics.log_embedded import system_clock_ms
from topics.publish import Published
from topics.security import Guard
from topics.server import Gateway

PARTITIONS = 4
NDJSON = {"content-type": "application/x-ndjson"}


class FakePages:
    """A reader that says what it was asked; `users` are at home here."""

    remote = False

    def __init__(self, name: str, users: Callable[[int], bool] = lambda user: True) -> None:
        self.name = name
        self.users = users
        self.asked: list[tuple[str, Any]] = []
        self.fans: list[int] = []
        self.markers: dict[int, int] = {}
        self.known: dict[int, int] = {}
        self.boom = False

    def _home(self, user: int) -> None:
        if self.boom:
            raise RuntimeError("-".join(("secret", "in", "a", "message")))
        if not self.users(user):
            raise WrongCell(f"user {user} is not at home in cell {self.name}")

    def dashboard(
        self, reader: int, *, limit: int, cursor: str | None = None, newer: str | None = None
    ) -> bytes:
        """A page that shows its parameters."""
        self._home(reader)
        self.asked.append(("dashboard", (reader, limit, cursor, newer)))
        page = {
            "reader": str(reader), "cell": self.name, "posts": [], "next": None,
            "settled": "v1-0-0", "marker": None, "unread": 0, "unread_capped": False, "gaps": [],
        }  # fmt: skip
        return json.dumps(page).encode()

    def posts(self, author: int, *, limit: int, cursor: str | None = None) -> bytes:
        """No posts."""
        self.asked.append(("posts", (author, limit, cursor)))
        return b'{"posts":[],"next":null}'

    def following(self, user: int, *, limit: int, cursor: str | None = None) -> bytes:
        """Nobody."""
        self._home(user)
        return b'{"users":[],"next":null,"gaps":[]}'

    def followers(self, user: int, *, limit: int, cursor: str | None = None) -> bytes:
        """`fans`, paged as the real reader pages."""
        after = -1 if cursor is None else int(cursor[1:])
        found = [fan for fan in sorted(self.fans) if fan > after]
        more = f"u{found[limit - 1]}" if len(found) > limit else None
        page = {"users": [str(fan) for fan in found[:limit]], "next": more, "gaps": []}
        return json.dumps(page).encode()

    def post(self, post: int, author: int | None = None) -> bytes:
        """Posts of `known`: id -> author."""
        if self.known.get(post) not in ((author,) if author is not None else self.known.values()):
            raise NotFound(f"there is no post {post}")
        return json.dumps({"id": str(post), "author": str(self.known[post])}).encode()

    def set_marker(self, reader: int, post: int) -> bytes:
        """Forward only."""
        self._home(reader)
        self.markers[reader] = max(post, self.markers.get(reader, 0))
        return b'{"reader":"%d","marker":"%d"}' % (reader, self.markers[reader])

    def inbox_page(self, reader: int, cursor: str | None, limit: int) -> bytes:
        """One key."""
        return b'{"keys":[["5","7"]],"next":null}'


class FakeRunner:
    """A runner at positions that the test moves."""

    def __init__(self) -> None:
        self.ready = True
        self.applied = [0] * PARTITIONS

    def not_ready_reason(self) -> str:
        """Why."""
        return "" if self.ready else "catching up: 9 events behind"

    def applied_past(self, partition: int, offset: int) -> bool:
        """As the real one."""
        return self.applied[partition] > offset

    def version(self) -> int:
        """Moves with what is applied."""
        return sum(self.applied)

    def status(self) -> dict[str, Any]:
        """One member is enough."""
        return {"name": "fake", "lag_events": 0}

    latency = Histogram()

    def explain_author(self, author: int) -> dict[str, Any]:
        """One member is enough."""
        return {"cell": "fake", "author": str(author), "now": "pushed"}

    def stats(self) -> dict[str, float]:
        """A counter and a gauge."""
        return {"inbox_keys_total": 12.0, "lag_seconds": 0.5}


class FakeJobs:
    """One replay, and whatever is asked."""

    def ask(self, asked: JobIn) -> JobOut:
        """Planned, or running."""
        return JobOut("2", asked.kind, "running" if asked.execute else "planned")

    def jobs(self) -> list[JobOut]:
        """The one."""
        return [JobOut("2", "replay", "running")]

    def job(self, name: str) -> JobOut:
        """Only "2" is there."""
        if name != "2":
            raise NotFound(f"there is no job {name!r}")
        return JobOut(name, "replay", "running")

    def stop(self, name: str) -> JobOut:
        """Stopped."""
        return JobOut(name, "replay", "stopped")


class FakePublisher:
    """Keeps events in a list; ids count from 100. An id above 2^62 is impossible."""

    def __init__(self) -> None:
        self.kept: list[Event] = []
        self.stuck = False
        self.full = False
        self.failure: Exception | None = None

    def submit(self, events: Sequence[Event]) -> Future[list[Published | FirecellError]]:
        """Done at once, unless `stuck`."""
        future: Future[list[Published | FirecellError]] = Future()
        if self.failure is not None:
            raise self.failure
        if not self.stuck:
            future.set_result([self._keep(event) for event in events])
        return future

    def _keep(self, event: Event) -> Published | FirecellError:
        if self.full:
            return DiskFull("no space left: free some")
        number = None
        if isinstance(event, Post):
            number = 100 + len(self.kept) if event.id == NO_ID else event.id
            if number > 2**62:
                return Unprocessable(f"id {number} is from the future")
        self.kept.append(event)
        offset = len(self.kept) - 1
        return Published(
            id=number,
            partition=event.account % PARTITIONS,
            offset=offset,
            time_ms=1_700_000_000_000 + offset,
            at_ms=getattr(event, "at_ms", 0) or 1_700_000_000_000 + offset,
        )


class FakeIds:
    """Ids from 1 on."""

    def __init__(self) -> None:
        self.last = 0

    def take(self, count: int) -> list[int]:
        """The next ones."""
        self.last += count
        return list(range(self.last - count + 1, self.last + 1))


class FakeHomes:
    """Even users live in c0, odd ones in c1."""

    version = 3
    ranges = {"c0": None, "c1": None}  # noqa: RUF012

    def home(self, user: int) -> str:
        """By parity."""
        return f"c{user % 2}"


def make_cell(
    name: str = "c0", guard: Guard | None = None, **options: Any
) -> tuple[CellServer, FakePages, FakeRunner]:
    """A cell's app on fakes."""
    server = CellServer(name, guard or Guard("127.0.0.1"), **options)
    pages, runner = FakePages(name), FakeRunner()
    server.attach(pages, runner, PARTITIONS, FakeJobs())
    return server, pages, runner


class FakePool:
    """A pool without sockets: an ASGI app answers."""

    def __init__(self, app: Any, url: str) -> None:
        self.app = app
        self.url = url

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """One request."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=self.url) as client:
            found = await client.request(
                request.method, request.target, content=request.body, headers=request.headers
            )
        return Answer(found.status_code, found.headers, found.content)

    def close(self) -> None:
        """Nothing is kept."""


class Deployment:
    """A gateway before two cells, all fakes, wired without sockets."""

    def __init__(
        self, guard: Guard | None = None, log: Any = None, streams: Streams | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.cells = {name: make_cell(name, guard) for name in ("c0", "c1")}
        for index, (_, pages, _) in enumerate(self.cells.values()):
            pages.users = lambda user, index=index: user % 2 == index
        self.down: set[str] = set()
        self.homes_loaded = 0
        self.publisher, self.ids = FakePublisher(), FakeIds()
        self.log = log or MemoryLog(PARTITIONS)
        self.streams = streams or Streams(self.log, getattr(self.log, "clock", system_clock_ms))
        self.gateway = Gateway(
            guard or Guard("127.0.0.1"),
            self.publisher,
            self.ids,
            self._load_homes,
            CellProxy(self._locate, lambda url: FakePool(self._route, url)),
            self.streams,
            **options,
        )
        self.app = self.gateway.app

    def _load_homes(self) -> FakeHomes:
        self.homes_loaded += 1
        return FakeHomes()

    def _locate(self, cell: str) -> str | None:
        return None if cell in self.down else f"http://127.0.0.1:{9000 + int(cell[1:])}"

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        name = f"c{scope['server'][1] - 9000}"
        if name in self.down:
            raise ConnectionRefusedError(name)
        await self.cells[name][0].app(scope, receive, send)


def ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """One request to an ASGI app, without a socket."""
    return asyncio.run(ask_within(app, method, path, **options))


async def ask_within(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """The same within a running loop."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
        return await client.request(method, path, **options)


def status_of(app: Any, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of an answer that may be endless: who asked goes away when it is there."""
    statuses: list[int] = []

    async def ask_and_leave() -> None:
        asked, started = False, asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await started.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                started.set()

        named = {"host": "127.0.0.1:8080", **headers}
        pairs = [(name.encode(), value.encode()) for name, value in named.items()]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": pairs, "http_version": "1.1", "scheme": "http",
            "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1), "extensions": {},
        }  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 10)

    asyncio.run(ask_and_leave())
    return statuses[0]


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer, checked for its shape."""
    assert response.status_code == status, (response.status_code, response.text)
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert {"type", "title", "detail"} <= document.keys()
    return document


@contextmanager
def live(app: Any, keep_alive_s: int = 5) -> Iterator[int]:
    """Serve `app` on a free loopback port as processes do; yields the port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(
        app, http=BoundedProtocol, ws="none", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
        timeout_keep_alive=keep_alive_s,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server._serve([listener])), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def raw_exchange(port: int, request: bytes, timeout_s: float = 5.0) -> bytes:
    """Send bytes as they are; everything that comes back until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(request)
        connection.settimeout(timeout_s)
        received = b""
        while True:
            try:
                chunk = connection.recv(65_536)
            except (TimeoutError, ConnectionResetError):
                return received
            if not chunk:
                return received
            received += chunk


def together(*requests: Awaitable[Any]) -> list[Any]:
    """Run awaitables of one loop at once."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*requests))

    return asyncio.run(gather())
