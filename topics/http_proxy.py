"""Asking the cells: one bounded keep-alive pool per cell, so that a hung cell blocks only its own.

A cell that does not answer is Unavailable, named, with Retry-After; other cells are unaffected
(I10). Where a cell listens is looked up when it is first asked and after each failure, since a
restarted cell has another port. All requests that come here may be repeated (pages, markers), so
one that failed before an answer is tried once more. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import httpx
import msgspec
from starlette.responses import Response

from engine.errors import FirecellError, Unavailable
from engine.limits import HTTP_KEEPALIVE_S, PROXY_CONNECTIONS_PER_CELL_MAX, PROXY_TIMEOUT_S

Locate = Callable[[str], str | None]
_PASSED_ON = ("retry-after",)


def new_client() -> httpx.AsyncClient:
    """A client for one cell: no proxies of the environment, no redirects, bounded."""
    return httpx.AsyncClient(
        timeout=PROXY_TIMEOUT_S,
        limits=httpx.Limits(
            max_connections=PROXY_CONNECTIONS_PER_CELL_MAX,
            keepalive_expiry=HTTP_KEEPALIVE_S / 2,  # the cell must not close first
        ),
        trust_env=False,
        headers={"accept-encoding": "identity", "user-agent": "firecell-gateway"},
    )


class CellProxy:
    """Requests to cells by name. `locate(cell)`: its URL, None while it does not run."""

    def __init__(
        self, locate: Locate, client: Callable[[], httpx.AsyncClient] = new_client
    ) -> None:
        self._locate = locate
        self._new_client = client
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._urls: dict[str, str] = {}

    async def ask(
        self,
        cell: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = PROXY_TIMEOUT_S,
    ) -> httpx.Response:
        """The cell's answer, whatever its status. Unavailable (with `cell`) when there is none."""
        request: dict[str, Any] = {
            "params": query or None,
            "content": body or None,
            "headers": headers,
            "timeout": timeout_s,
        }
        try:
            return await self._once(cell, method, path, request)
        except (httpx.TimeoutException, httpx.PoolTimeout):
            self.forget(cell)
            raise Unavailable(f"cell {cell} does not answer: try again", cell=cell) from None
        except httpx.TransportError:
            self.forget(cell)
        try:
            return await self._once(cell, method, path, request)
        except httpx.HTTPError:
            self.forget(cell)
            raise Unavailable(f"cell {cell} cannot be reached: try again", cell=cell) from None

    async def _once(
        self, cell: str, method: str, path: str, request: dict[str, Any]
    ) -> httpx.Response:
        url = self._urls.get(cell)
        if url is None:
            url = await asyncio.to_thread(self._locate, cell)
            if url is None:
                raise Unavailable(f"cell {cell} is not running: try again", cell=cell)
            self._urls[cell] = url
        client = self._clients.get(cell)
        if client is None:
            client = self._clients[cell] = self._new_client()
        return await client.request(method, url + path, **request)

    async def ask_all(
        self, cells: Iterable[str], path: str, **options: Any
    ) -> dict[str, httpx.Response | FirecellError]:
        """GET `path` of every cell at once: each one's answer, or why there is none."""
        names = list(cells)

        async def one(cell: str) -> httpx.Response | FirecellError:
            try:
                return await self.ask(cell, "GET", path, **options)
            except FirecellError as error:
                return error

        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    def forget(self, cell: str) -> None:
        """Look the cell's address up again at the next request."""
        self._urls.pop(cell, None)

    async def close(self) -> None:
        """Close all connections."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()


def passed_on(answer: httpx.Response) -> Response:
    """A cell's answer as our own: status, body, type, and when to try again."""
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    headers["content-type"] = answer.headers.get("content-type", "application/json")
    return Response(answer.content, answer.status_code, headers)


def refusal(answer: httpx.Response | FirecellError) -> str:
    """Why a cell did not answer with what was asked, in a few words."""
    if isinstance(answer, FirecellError):
        return answer.message
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


def decoded(answer: httpx.Response, kind: Any) -> Any:
    """A cell's JSON as `kind`; Unavailable when it is something else."""
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except msgspec.DecodeError:
        raise Unavailable("a cell answered with something that is no page of ours") from None
