"""A cell's HTTP: pages straight from the reader, on the event loop, beside the fan-out thread.

The dashboard is the hot route: it is answered without ASGI (`Quick` in topics/http.py), and takes
the long way only to wait or to say what is wrong. Pages are served from the moment when the cell
has applied what the log held at its start, so none ever goes back; they are served on while the
fan-out is in trouble. The app lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

import msgspec
from starlette.responses import Response

from cells.dashboard_stream import Ticker, stream_response
from cells.page_threads import PageThreads
from engine import wire
from engine.errors import BadInput, Unavailable, invariant
from engine.limits import (
    AFTER_WAIT_MS_DEFAULT,
    AFTER_WAIT_MS_MAX,
    AFTER_WAITERS_MAX,
    FOLLOWERS_PAGE_DEFAULT,
    FOLLOWERS_PAGE_MAX,
    HTTP_QUERIES_CACHED_MAX,
    JOB_BODY_BYTES_MAX,
    MARKER_BODY_BYTES_MAX,
    PAGE_POSTS_DEFAULT,
    PAGE_POSTS_MAX,
    PAGE_SCAN_KEYS_MAX,
    WORKER_POLL_MS,
)
from engine.version import VERSION
from topics.histogram import Histogram
from topics.http import Call, HttpApp, Quick, json_response, read_json
from topics.http_jobs import JobIn, JobOut, JobsOut
from topics.http_query import cursor, integer, parse_query, position, wants_all
from topics.http_routes import CELL, routes_of
from topics.metrics import HttpMetrics
from topics.security import Guard

_job_in = msgspec.json.Decoder(JobIn)
_marker_in = msgspec.json.Decoder(wire.MarkerIn)
_DASHBOARD = next(route.allowed for route in routes_of(CELL) if route.name == "dashboard")


class Pages(Protocol):
    """What is needed of `cells.reader.Reader`: JSON bytes, in microseconds unless `remote`."""

    remote: bool  # a page waits for a network: not on the event loop

    def dashboard(
        self, reader: int, *, limit: int, cursor: str | None = None, newer: str | None = None
    ) -> bytes:
        """A DashboardPage."""

    def posts(self, author: int, *, limit: int, cursor: str | None = None) -> bytes:
        """A PostsPage."""

    def following(self, user: int, *, limit: int, cursor: str | None = None) -> bytes:
        """A FollowPage."""

    def followers(self, user: int, *, limit: int, cursor: str | None = None) -> bytes:
        """A FollowPage."""

    def post(self, post: int, author: int | None = None) -> bytes:
        """A PostOut."""

    def set_marker(self, reader: int, post: int) -> bytes:
        """A MarkerOut; a synced write."""

    def inbox_page(self, reader: int, cursor: str | None, limit: int) -> bytes:
        """An InboxPage."""


class Applying(Protocol):
    """What is needed of `cells.runner.Runner`."""

    @property
    def ready(self) -> bool:
        """Applied up to the log's end as it was at start, and not failed."""

    def not_ready_reason(self) -> str:
        """Why not; empty when ready."""

    def applied_past(self, partition: int, offset: int) -> bool:
        """Whether the event at this position shows in pages."""

    def version(self) -> int:
        """Changes with every batch."""

    def status(self) -> dict[str, Any]:
        """JSON-ready."""

    def stats(self) -> dict[str, float]:
        """For metrics."""

    def explain_author(self, author: int) -> dict[str, Any]:
        """JSON-ready."""

    @property
    def latency(self) -> Histogram:
        """From append to durable here, ms."""


class Asked(Protocol):
    """What is needed of `cells.maintenance.Maintenance`; it may take a while."""

    def ask(self, asked: JobIn) -> JobOut:
        """Plan or begin a job."""

    def jobs(self) -> list[JobOut]:
        """Those that are known."""

    def job(self, name: str) -> JobOut:
        """One."""

    def stop(self, name: str) -> JobOut:
        """End one."""


class PositionWaiters:
    """Requests that wait until a position is applied: one ticker looks for all of them."""

    def __init__(self, applied_past: Callable[[int, int], bool]) -> None:
        self._applied_past = applied_past
        self._waiting: dict[asyncio.Future[None], tuple[int, int]] = {}
        self._ticker: asyncio.Task[None] | None = None

    async def wait(self, place: tuple[int, int], timeout_s: float) -> bool:
        """Whether `place` is applied, now or before the time is over. Unavailable when too many
        wait already."""
        if self._applied_past(*place):
            return True
        if len(self._waiting) >= AFTER_WAITERS_MAX:
            raise Unavailable(f"{AFTER_WAITERS_MAX} requests wait for positions already")
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = place
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        try:
            async with asyncio.timeout(timeout_s):
                await future
            return True
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(future, None)

    async def _tick(self) -> None:
        while self._waiting:
            await asyncio.sleep(WORKER_POLL_MS / 1_000)
            for future, place in list(self._waiting.items()):
                if not future.done() and self._applied_past(*place):
                    future.set_result(None)


class CellServer:
    """One cell process's handlers and its ASGI `app`, which answers before the cell is open.

    `reason` says why the process is not ready, such as draining; empty leaves it to the runner.
    """

    def __init__(self, name: str, guard: Guard, *, reason: Callable[[], str] = str) -> None:
        self._name = name
        self._reason = reason
        self._pages: Pages | None = None
        self._runner: Applying | None = None
        self._waiters: PositionWaiters | None = None
        self._jobs: Asked | None = None
        self._partitions = 0
        self._serving: Pages | None = None
        self._threads: PageThreads | None = None
        self._ticker: Ticker | None = None
        metrics = HttpMetrics(CELL, name, VERSION, self._numbers, self._latency)
        handlers = {
            "dashboard": self._dashboard,
            "dashboard_stream": self._dashboard_stream,
            "posts": self._posts,
            "following": self._following,
            "followers": self._followers,
            "marker": self._marker,
            "post": self._post,
            "status": self._status,
            "stats": self._stats,
            "explain_author": self._explain_author,
            "inbox": self._inbox,
            "readyz": self._readyz,
            "job_start": self._job_start,
            "jobs": self._list_jobs,
            "job": self._job,
            "job_stop": self._job_stop,
        }
        quick = Quick("dashboard", b"/v1/users/", b"/dashboard", self._dashboard_quickly)
        self.app = HttpApp(CELL, handlers, guard, metrics, quick=quick)

    def attach(
        self, pages: Pages, runner: Applying, partitions: int, jobs: Asked | None = None
    ) -> None:
        """The cell is open: serve from it once `runner.ready`. Callable from any thread."""
        self._jobs = jobs
        self._partitions = partitions
        self._waiters = PositionWaiters(runner.applied_past)
        self._pages = pages
        self._threads = PageThreads() if pages.remote else None
        self._runner = runner

    def _reader(self) -> Pages:
        """Unavailable until the cell was ready once."""
        if self._serving is not None:
            return self._serving
        runner = self._opened()
        if not runner.ready:
            reason = runner.not_ready_reason()
            raise Unavailable(f"cell {self._name} is not ready: {reason}", cell=self._name)
        invariant(self._pages is not None, "a runner without its reader")
        self._serving = self._pages
        return self._reader()

    def _opened(self) -> Applying:
        if self._runner is None:
            raise Unavailable(f"cell {self._name} is starting: try again", cell=self._name)
        return self._runner

    # --- pages ---

    def _dashboard_quickly(self, user: str, query: bytes) -> bytes | None:
        """The page for GET /v1/users/{user}/dashboard, unless the request has to wait."""
        if self._threads is not None:
            return None
        asked = _quick_asked(query)
        if asked is None:
            return None
        limit, older, newer = asked
        reader = wire.parse_user(user, "id")
        return self._reader().dashboard(reader, limit=limit, cursor=older, newer=newer)

    async def _dashboard(self, call: Call) -> Response:
        limit, older, newer = _dashboard_asked(call.query)
        reader = wire.parse_user(call.parts["id"], "id")
        if "after" in call.query:
            await self._wait(call)
        pages = self._reader()
        return await self._answer(
            partial(pages.dashboard, reader, limit=limit, cursor=older, newer=newer)
        )

    async def _answer(self, page: Callable[[], bytes]) -> Response:
        return json_response(await self._page(page))

    async def _page(self, page: Callable[[], bytes]) -> bytes:
        """A page, in a thread where it waits for a network."""
        threads = self._threads
        return page() if threads is None else await threads.run(page)

    async def _wait(self, call: Call) -> None:
        """Read one's own write: until the position is applied here."""
        wait_ms = integer(
            call.query, "wait_ms", default=AFTER_WAIT_MS_DEFAULT, low=0, high=AFTER_WAIT_MS_MAX
        )
        self._reader()
        after = call.query["after"]
        place = position(after, "after", self._partitions)
        if self._waiters is not None and not await self._waiters.wait(place, wait_ms / 1_000):
            raise Unavailable(
                f"position {after} is not applied after {wait_ms} ms: ask again", position=after
            )

    async def _dashboard_stream(self, call: Call) -> Response:
        reader = wire.parse_user(call.parts["id"], "id")
        pages, runner = self._reader(), self._opened()
        if self._ticker is None:
            self._ticker = Ticker(runner.version, lambda: bool(self._reason()), self._page)
        return await stream_response(pages, reader, call.query, call.headers, self._ticker)

    async def _posts(self, call: Call) -> Response:
        author = wire.parse_user(call.parts["id"], "id")
        limit, place = _limit(call.query), cursor(call.query, "cursor")
        return await self._answer(partial(self._reader().posts, author, limit=limit, cursor=place))

    async def _following(self, call: Call) -> Response:
        user = wire.parse_user(call.parts["id"], "id")
        limit, place = _users_limit(call.query), cursor(call.query, "cursor")
        return await self._answer(
            partial(self._reader().following, user, limit=limit, cursor=place)
        )

    async def _followers(self, call: Call) -> Response:
        user = wire.parse_user(call.parts["id"], "id")
        limit, place = _users_limit(call.query), cursor(call.query, "cursor")
        return await self._answer(
            partial(self._reader().followers, user, limit=limit, cursor=place)
        )

    async def _post(self, call: Call) -> Response:
        post = wire.parse_post_id(call.parts["id"], "id")
        named = call.query.get("author")
        author = None if named is None else wire.parse_user(named, "author")
        return await self._answer(partial(self._reader().post, post, author))

    async def _marker(self, call: Call) -> Response:
        user = wire.parse_user(call.parts["id"], "id")
        marker = wire.decode_json(await read_json(call, MARKER_BODY_BYTES_MAX), _marker_in)
        post = wire.parse_post_id(marker.post, "post")
        mark, threads = partial(self._reader().set_marker, user, post), self._threads
        waits = asyncio.to_thread(mark) if threads is None else threads.run(mark)
        return json_response(await waits)

    # --- the process ---

    async def _readyz(self, call: Call) -> Response:
        wants_all(call.query)
        runner = self._runner
        reason = self._reason() or ("starting" if runner is None else runner.not_ready_reason())
        if reason:
            raise Unavailable(f"not ready: {reason}", ready=False, cell=self._name)
        return json_response({"ready": True, "cell": self._name})

    async def _status(self, call: Call) -> Response:
        status = await asyncio.to_thread(self._opened().status)
        about = {"role": CELL, "version": VERSION}
        return json_response({**about, "cells": [status], "missing": []})

    async def _stats(self, call: Call) -> Response:
        runner = self._opened()
        numbers = await asyncio.to_thread(runner.stats)
        return json_response({**numbers, "latency_counts": runner.latency.snapshot()})

    async def _explain_author(self, call: Call) -> Response:
        author = wire.parse_user(call.parts["id"], "id")
        found = self._opened().explain_author(author)
        return json_response({"author": str(author), "cells": [found], "missing": []})

    async def _inbox(self, call: Call) -> Response:
        user = wire.parse_user(call.parts["user"], "user")
        most = PAGE_SCAN_KEYS_MAX
        limit = integer(call.query, "limit", default=most, low=1, high=most)
        place = cursor(call.query, "cursor")
        return await self._answer(partial(self._reader().inbox_page, user, place, limit))

    # --- jobs ---

    def _asked(self) -> Asked:
        if self._jobs is None:
            raise Unavailable(f"cell {self._name} is starting: try again", cell=self._name)
        return self._jobs

    async def _job_start(self, call: Call) -> Response:
        asked = wire.decode_json(await read_json(call, JOB_BODY_BYTES_MAX), _job_in)
        return json_response(await asyncio.to_thread(self._asked().ask, asked))

    async def _list_jobs(self, call: Call) -> Response:
        return json_response(JobsOut(await asyncio.to_thread(self._asked().jobs)))

    async def _job(self, call: Call) -> Response:
        return json_response(await asyncio.to_thread(self._asked().job, call.parts["job"]))

    async def _job_stop(self, call: Call) -> Response:
        return json_response(await asyncio.to_thread(self._asked().stop, call.parts["job"]))

    def _numbers(self) -> Mapping[str, float]:
        return {} if self._runner is None else self._runner.stats()

    def _latency(self) -> Histogram | None:
        return None if self._runner is None else self._runner.latency


@lru_cache(HTTP_QUERIES_CACHED_MAX)
def _quick_asked(query: bytes) -> tuple[int, str | None, str | None] | None:
    """What the quick route needs of a query, as sent; None when it has to wait."""
    asked = parse_query(query, _DASHBOARD)
    return None if "after" in asked else _dashboard_asked(asked)


def _dashboard_asked(query: Mapping[str, str]) -> tuple[int, str | None, str | None]:
    """(limit, cursor, newer), checked."""
    older, newer = cursor(query, "cursor"), cursor(query, "newer")
    if older is not None and newer is not None:
        raise BadInput("newer: give cursor or newer, not both", "newer")
    if "wait_ms" in query and "after" not in query:
        raise BadInput("wait_ms: nothing to wait for without after", "wait_ms")
    return _limit(query), older, newer


def _limit(query: Mapping[str, str]) -> int:
    return integer(query, "limit", default=PAGE_POSTS_DEFAULT, low=1, high=PAGE_POSTS_MAX)


def _users_limit(query: Mapping[str, str]) -> int:
    default, most = FOLLOWERS_PAGE_DEFAULT, FOLLOWERS_PAGE_MAX
    return integer(query, "limit", default=default, low=1, high=most)
