"""The HTTP plumbing that gateway and cells share: one raw ASGI app over the route table.

`HttpApp` checks Host, Origin, token and scope, matches the route, reads the query strictly, turns
every error into a problem document, counts, and echoes a short X-Request-ID. One `Quick` route is
answered without ASGI: the protocol (topics/http_bounds.py) asks `answer_quickly`, which handles
only what is plainly right and leaves everything else to the long way. An app lives on one event
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from engine.errors import FirecellError, NotFound, invariant
from engine.limits import FORMAT_VERSION, REQUEST_ID_CHARACTERS_MAX
from engine.version import VERSION
from topics.http_body import JSON_TYPE, Body, BodyBudget, Headers, header
from topics.http_problem import log_failure, problem_response, refused
from topics.http_query import parse_query
from topics.http_routes import Route, routes_of
from topics.metrics import TEXT_TYPE, HttpMetrics
from topics.openapi import document
from topics.security import Guard


@dataclass(slots=True)
class Call:
    """One request on the long way: what its handler may look at."""

    route: Route
    parts: dict[str, str]
    query: dict[str, str]
    headers: Headers
    body: Body


Handler = Callable[[Call], Awaitable[Response]]
Background = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Quick:
    """The hot route: GET `prefix` + middle + `suffix`. `answer(middle, query)` gives the JSON, or
    None to take the long way; so does an error, which the long way meets again and answers."""

    name: str
    prefix: bytes
    suffix: bytes
    answer: Callable[[str, bytes], bytes | None]


def json_response(value: object, status: int = 200) -> Response:
    """`value` as JSON; bytes are taken as JSON already."""
    raw = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Response(raw, status, media_type=JSON_TYPE)


async def read_json(call: Call, bytes_max: int) -> bytes:
    """The whole body of a route that takes JSON only."""
    call.body.content_type((JSON_TYPE,))
    return await call.body.read(bytes_max)


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


class HttpApp:
    """The ASGI app of one process."""

    def __init__(
        self,
        role: str,
        handlers: Mapping[str, Handler],
        guard: Guard,
        metrics: HttpMetrics,
        *,
        quick: Quick | None = None,
        background: Background = _nothing,
    ) -> None:
        self._role = role
        self._guard = guard
        self._metrics = metrics
        self._quick = quick
        self._budget = BodyBudget()
        self._background = background
        self._handlers = {**self._own_handlers(), **handlers}
        self._routes = [(route, route.path.split("/")) for route in routes_of(role)]
        self._quick_counts = metrics.route(quick.name if quick else "none")
        names = {route.name for route, _ in self._routes}
        invariant(names == set(self._handlers), f"{role}: handlers and route table differ")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI 3."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def answer_quickly(self, target: bytes, headers: Headers) -> bytes | None:
        """The JSON for GET `target`, a path with its query as sent; None for everything that is
        not plainly the quick route's, may not be asked, or fails: then take the long way."""
        quick = self._quick
        if quick is None or not target.startswith(quick.prefix):
            return None
        started = perf_counter()
        path, _, query = target.partition(b"?")
        if not path.endswith(quick.suffix) or not self._guard.waves_through(headers):
            return None
        try:
            middle = path[len(quick.prefix) : -len(quick.suffix)].decode("ascii")
            body = quick.answer(middle, query)
        except Exception:  # the long way meets it again, and answers or logs it
            return None
        if body is not None:
            self._quick_counts.add(200, perf_counter() - started)
        return body

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._background():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        headers: Headers = scope["headers"]
        body = Body(headers, receive, self._budget)
        send = _echoing(headers, send)
        name = "none"
        try:
            self._guard.check(headers)
            route, parts = self._match(scope["method"], scope["path"])
            name = route.name
            with self._guard.admitted(headers, route.scope):
                query = parse_query(scope["query_string"], route.allowed)
                call = Call(route, parts, query, headers, body)
                response = await self._handlers[name](call)
                await response(scope, receive, send)
                self._metrics.route(name).add(response.status_code, perf_counter() - started)
                return
        except FirecellError as error:
            failure = error
            if error.status == 500:
                log_failure(error, name)
        except Exception as error:
            failure = FirecellError("unexpected")
            log_failure(error, name)
        finally:
            body.release()
        await self._refuse(failure, body, scope, send)
        self._metrics.route(name).add(failure.status, perf_counter() - started)

    async def _refuse(self, failure: FirecellError, body: Body, scope: Scope, send: Send) -> None:
        """Say why. Over an unread body the connection is closed, but only after a while."""
        allow = str(failure.extra.pop("allow", ""))
        response = problem_response(failure, allow=allow, close=body.unread)
        if not body.unread:
            await response(scope, _no_more, send)
            return
        head = {"type": "http.response.start", "status": failure.status}
        await send({**head, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        await body.linger()
        await send({"type": "http.response.body", "body": b""})

    def _match(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        segments = path.split("/")
        others: list[str] = []
        for route, pattern in self._routes:
            parts = _parts_of(pattern, segments)
            if parts is not None and route.method == method:
                return route, parts
            if parts is not None:
                others.append(route.method)
        if not others:
            raise NotFound("no such route; /openapi.json lists them")
        error = refused(405, f"{method[:16]} is not for this route; allowed: {', '.join(others)}")
        error.extra["allow"] = ", ".join(others)
        raise error

    def _own_handlers(self) -> dict[str, Handler]:
        version = VERSION
        schema = msgspec.json.encode(document(self._role, version))
        about = {"name": "firecell", "version": version, "role": self._role}

        async def healthz(call: Call) -> Response:
            return json_response({"status": "alive"})

        async def show_version(call: Call) -> Response:
            return json_response({**about, "format": FORMAT_VERSION})

        async def openapi(call: Call) -> Response:
            return json_response(schema)

        async def metrics(call: Call) -> Response:
            text = await asyncio.to_thread(self._metrics.render)
            return Response(text, headers={"content-type": TEXT_TYPE})

        return {
            "healthz": healthz,
            "version": show_version,
            "openapi": openapi,
            "metrics": metrics,
        }


def _parts_of(pattern: list[str], segments: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    parts: dict[str, str] = {}
    for wanted, found in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            parts[wanted[1:-1]] = found
        elif wanted != found:
            return None
    return parts


def _echoing(headers: Headers, send: Send) -> Send:
    """`send` that adds the request's X-Request-ID, if it is short and printable."""
    wanted = header(headers, b"x-request-id")
    if wanted is None or not 0 < len(wanted) <= REQUEST_ID_CHARACTERS_MAX:
        return send
    if any(not 0x21 <= byte <= 0x7E for byte in wanted):
        return send

    async def echo(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-request-id", wanted)]}
        await send(message)

    return echo


async def _no_more() -> dict[str, Any]:
    return {"type": "http.disconnect"}
