"""The gateway: publishing into the firehose, and every reader's one address for all cells.

A read goes to the home cell of the user that it is about; a post to any cell, since every cell has
every post; followers come from all cells and are merged. The gateway holds no state of its own but
connections, so any number of them may run. Its app lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from itertools import chain
from typing import Any, Protocol

from starlette.responses import Response

from engine import wire
from engine.errors import FirecellError, Unavailable
from engine.limits import (
    FOLLOWERS_PAGE_DEFAULT,
    FOLLOWERS_PAGE_MAX,
    MARKER_BODY_BYTES_MAX,
    READY_PROBE_S,
)
from engine.version import VERSION
from topics.http import Call, HttpApp, json_response, read_json
from topics.http_body import JSON_TYPE, header
from topics.http_proxy import CellProxy, passed_on, refusal
from topics.http_publish import PublishHandlers, Publishing, TakesIds
from topics.http_query import cursor, integer, wants_all
from topics.http_routes import GATEWAY
from topics.http_stream import Streams
from topics.metrics import HttpMetrics, Stats
from topics.security import Guard

_OK, _WRONG_CELL = 200, 421


class Homes(Protocol):
    """What is needed of `cells.directory.Directory`."""

    @property
    def version(self) -> int:
        """Grows with every change."""

    @property
    def ranges(self) -> Mapping[str, Any]:
        """By cell name."""

    def home(self, user: int) -> str:
        """The name of the user's cell."""


async def _never() -> None:
    await asyncio.Event().wait()


class Gateway:
    """The gateway's handlers and its ASGI `app`.

    load_homes  reads the directory; called again when a cell says 421
    streams     the firehose's own routes
    draining    returns when streams must end
    not_ready   why the process does not serve, such as draining; empty when it does
    details     more members of /v1/admin/status
    """

    def __init__(
        self,
        guard: Guard,
        publisher: Publishing,
        ids: TakesIds,
        load_homes: Callable[[], Homes],
        proxy: CellProxy,
        streams: Streams,
        *,
        draining: Callable[[], Awaitable[None]] = _never,
        not_ready: Callable[[], str] = lambda: "",
        stats: Stats | None = None,
        details: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._load_homes = load_homes
        self._homes = load_homes()
        self._proxy = proxy
        self._not_ready = not_ready
        self._details = details
        self._streams = streams
        self._draining = draining
        metrics = HttpMetrics(GATEWAY, "", VERSION, stats)
        self._publishing = publishing = PublishHandlers(publisher, ids, metrics)
        handlers = {
            "events": publishing.events,
            "ids": publishing.ids,
            "dashboard": self._of_home,
            "dashboard_stream": self._dashboard_stream,
            "posts": self._of_home,
            "following": self._of_home,
            "marker": self._marker,
            "followers": self._followers,
            "post": self._post,
            "status": self._status,
            "explain_author": self._explain_author,
            "readyz": self._readyz,
            **streams.handlers(),
        }
        self.app = HttpApp(GATEWAY, handlers, guard, metrics, background=self._background)

    @asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        ending = asyncio.create_task(self._end_streams())
        try:
            yield
        finally:
            ending.cancel()
            await self._streams.close()
            self._proxy.close()

    async def _end_streams(self) -> None:
        await self._draining()
        self._streams.drain()

    # --- one cell answers ---

    async def _of_home(self, call: Call) -> Response:
        user = wire.parse_user(call.parts["id"], "id")
        path = call.route.path.replace("{id}", str(user))
        waits = "after" in call.query  # until a position is applied there
        with self._proxy.waiting(self._homes.home(user)) if waits else nullcontext():
            return await self._ask_home(user, "GET", path, query=call.query, headers=_bearer(call))

    async def _dashboard_stream(self, call: Call) -> Response:
        """The cell's stream, handed on as it comes."""
        user = wire.parse_user(call.parts["id"], "id")
        cell = self._homes.home(user)
        target = f"/v1/users/{user}/dashboard/stream"
        url = await self._proxy.where(cell)
        found = await self._streams.elsewhere.passed_on(url, call, target, {})
        if found.status_code == _WRONG_CELL:
            found.drop()
            await self._moved(user, cell)
        return found

    async def _marker(self, call: Call) -> Response:
        user = wire.parse_user(call.parts["id"], "id")
        body = await read_json(call, MARKER_BODY_BYTES_MAX)
        headers = {**_bearer(call), "content-type": JSON_TYPE}
        path = f"/v1/users/{user}/marker"
        return await self._ask_home(user, "PUT", path, body=body, headers=headers)

    async def _ask_home(self, user: int, method: str, path: str, **options: Any) -> Response:
        cell = self._homes.home(user)
        answer = await self._proxy.ask(cell, method, path, **options)
        if answer.status == _WRONG_CELL:
            await self._moved(user, cell)
        return passed_on(answer)

    async def _moved(self, user: int, cell: str) -> None:
        """Read the directory again; Unavailable, for the client to try again."""
        self._proxy.forget(cell)
        self._homes = await asyncio.to_thread(self._load_homes)
        raise Unavailable(
            f"user {user} is not at home in cell {cell} now: try again",
            cell=cell,
            directory_version=self._homes.version,
        )

    async def _post(self, call: Call) -> Response:
        post = wire.parse_post_id(call.parts["id"], "id")
        path, headers = f"/v1/posts/{post}", _bearer(call)
        named = call.query.get("author")
        if named is None:
            return await self._ask_any(path, headers)
        author = wire.parse_user(named, "author")
        cell = self._homes.home(author)
        query = {"author": str(author)}
        return passed_on(await self._proxy.ask(cell, "GET", path, query=query, headers=headers))

    async def _ask_any(self, path: str, headers: Mapping[str, str]) -> Response:
        """The first cell that serves: each has every post."""
        failure: FirecellError = Unavailable("no cell is running: try again")
        for cell in self._homes.ranges:
            try:
                answer = await self._proxy.ask(cell, "GET", path, headers=headers)
            except Unavailable as error:
                failure = error
                continue
            if answer.status < Unavailable.status:
                return passed_on(answer)
            failure = Unavailable(refusal(answer), cell=cell)
        raise failure

    # --- all cells answer ---

    async def _followers(self, call: Call) -> Response:
        """Ascending over all cells: a cursor names the last user, each cell goes on behind it."""
        user = wire.parse_user(call.parts["id"], "id")
        limit = integer(
            call.query, "limit", default=FOLLOWERS_PAGE_DEFAULT, low=1, high=FOLLOWERS_PAGE_MAX
        )
        query = {"limit": str(limit)}
        place = cursor(call.query, "cursor")
        if place is not None:
            query["cursor"] = place
        answers = await self._proxy.ask_all(
            self._homes.ranges, f"/v1/users/{user}/followers", query=query, headers=_bearer(call)
        )
        pages: list[wire.FollowPage] = []
        gaps: list[dict[str, str]] = []
        for cell, answer in answers.items():
            if not isinstance(answer, FirecellError) and answer.status == _OK:
                pages.append(answer.decoded(wire.FollowPage))
            elif not isinstance(answer, FirecellError) and answer.status < _WRONG_CELL:
                return passed_on(answer)  # the request is wrong, and every cell says so
            else:
                gaps.append({"cell": cell, "cause": refusal(answer)})
        if not pages:
            raise Unavailable("no cell answers: try again", gaps=gaps)
        return json_response(merge_followers(pages, limit, gaps))

    async def _status(self, call: Call) -> Response:
        cells = await self._of_all("/v1/admin/status", call)
        about = {
            "role": GATEWAY,
            "version": VERSION,
            "directory_version": self._homes.version,
            **await asyncio.to_thread(self._details),
        }
        return json_response({**about, **cells})

    async def _explain_author(self, call: Call) -> Response:
        author = wire.parse_user(call.parts["id"], "id")
        cells = await self._of_all(f"/v1/admin/authors/{author}", call)
        return json_response({"author": str(author), **cells})

    async def _of_all(self, path: str, call: Call) -> dict[str, list[Any]]:
        """`cells`, what each cell says of itself, and `missing`, those that do not answer."""
        answers = await self._proxy.ask_all(self._homes.ranges, path, headers=_bearer(call))
        cells: list[Any] = []
        missing: list[Any] = []
        for cell, answer in answers.items():
            if not isinstance(answer, FirecellError) and answer.status == _OK:
                cells += answer.decoded(dict[str, Any])["cells"]
            else:
                missing.append({"cell": cell, "cause": refusal(answer)})
        return {"cells": cells, "missing": missing}

    async def _readyz(self, call: Call) -> Response:
        """Ready when publishing works and a cell serves; with `all=1`, when every cell does."""
        every = wants_all(call.query)
        answers = await self._proxy.ask_all(self._homes.ranges, "/readyz", timeout_s=READY_PROBE_S)
        cells = [_readiness(cell, answer) for cell, answer in answers.items()]
        reason = self._not_ready() or self._publishing.trouble()
        serving = [cell["ready"] for cell in cells]
        if not reason and not any(serving):
            reason = "no cell serves"
        if not reason and every and not all(serving):
            reason = "not every cell serves"
        if reason:
            raise Unavailable(f"not ready: {reason}", ready=False, cells=cells)
        return json_response({"ready": True, "cells": cells})


def _readiness(cell: str, answer: Any) -> dict[str, Any]:
    ready = not isinstance(answer, FirecellError) and answer.status == _OK
    return {"cell": cell, "ready": ready, "reason": "" if ready else refusal(answer)}


def merge_followers(
    pages: list[wire.FollowPage], limit: int, gaps: list[dict[str, str]]
) -> wire.FollowPage:
    """The first `limit` users of the cells' pages. A page with a `next` is full, so the users
    that its cell did not send lie behind all of ours."""
    users = sorted(int(user) for user in chain.from_iterable(page.users for page in pages))
    more = len(users) > limit or any(page.next is not None for page in pages)
    shown = [str(user) for user in users[:limit]]
    return wire.FollowPage(shown, f"u{shown[-1]}" if more and shown else None, gaps)


def _bearer(call: Call) -> dict[str, str]:
    """The caller's own token, for the cell to check again."""
    token = header(call.headers, b"authorization")
    return {} if token is None else {"authorization": token.decode("latin-1")}
