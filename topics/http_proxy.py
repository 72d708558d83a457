"""Asking the cells by name: one bounded pool each, so that a hung cell blocks only its own.

A cell that does not answer is Unavailable, named, with Retry-After; other cells are unaffected
(I10). Where a cell listens is looked up when it is first asked and after each failure, since a
restarted cell has another port. All requests that come here may be repeated (pages, markers), so
one that failed before an answer is tried once more. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec
from starlette.responses import Response

from engine.errors import FirecellError, Unavailable
from engine.limits import PROXY_TIMEOUT_S, PROXY_WAITING_PER_CELL_MAX
from topics.http_body import JSON_TYPE
from topics.http_client import Answer, CellPool, Request

Locate = Callable[[str], str | None]
_PASSED_ON = ("retry-after",)


class Pool(Protocol):
    """What is needed of `topics.http_client.CellPool`."""

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        """The answer; TimeoutError or OSError when there is none."""

    def close(self) -> None:
        """End the kept connections."""


class CellProxy:
    """Requests to cells by name. `locate(cell)`: its URL, None while it does not run; it is called
    in a thread. `connect(url)`: a pool."""

    def __init__(self, locate: Locate, connect: Callable[[str], Pool] = CellPool) -> None:
        self._locate = locate
        self._connect = connect
        self._pools: dict[str, Pool] = {}
        self._waiting: Counter[str] = Counter()

    @contextmanager
    def waiting(self, cell: str) -> Iterator[None]:
        """Around a request that the cell may answer late by intent. Unavailable when so many do
        already that they would leave too few connections for all the others."""
        if self._waiting[cell] >= PROXY_WAITING_PER_CELL_MAX:
            raise Unavailable(
                f"{self._waiting[cell]} requests wait for positions of cell {cell} already: ask"
                " again",
                cell=cell,
            )
        self._waiting[cell] += 1
        try:
            yield
        finally:
            self._waiting[cell] -= 1

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
    ) -> Answer:
        """The cell's answer, whatever its status. Unavailable (with `cell`) when there is none."""
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        request = Request(method, target, headers or {}, body)
        for attempts_left in (1, 0):
            pool = await self._pool(cell)
            try:
                return await pool.ask(request, timeout_s)
            except TimeoutError:
                self.forget(cell)
                raise Unavailable(f"cell {cell} does not answer: try again", cell=cell) from None
            except OSError:
                self.forget(cell)
                if not attempts_left:
                    break
        raise Unavailable(f"cell {cell} cannot be reached: try again", cell=cell)

    async def _pool(self, cell: str) -> Pool:
        pool = self._pools.get(cell)
        if pool is not None:
            return pool
        return self._pools.setdefault(cell, self._connect(await self.where(cell)))

    async def where(self, cell: str) -> str:
        """The cell's URL. Unavailable while it does not run."""
        url = await asyncio.to_thread(self._locate, cell)
        if url is None:
            raise Unavailable(f"cell {cell} is not running: try again", cell=cell)
        return url

    async def ask_all(
        self, cells: Iterable[str], path: str, **options: Any
    ) -> dict[str, Answer | FirecellError]:
        """GET `path` of every cell at once: each one's answer, or why there is none."""
        names = list(cells)

        async def one(cell: str) -> Answer | FirecellError:
            try:
                return await self.ask(cell, "GET", path, **options)
            except FirecellError as error:
                return error

        return dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))

    def forget(self, cell: str) -> None:
        """Look the cell's address up again at the next request."""
        pool = self._pools.pop(cell, None)
        if pool is not None:
            pool.close()

    def close(self) -> None:
        """End all kept connections."""
        for cell in list(self._pools):
            self.forget(cell)


def passed_on(answer: Answer) -> Response:
    """A cell's answer as our own: status, body, type, and when to try again."""
    headers = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
    headers["content-type"] = answer.headers.get("content-type", JSON_TYPE)
    return Response(answer.body, answer.status, headers)


def refusal(answer: Answer | FirecellError) -> str:
    """Why a cell did not answer with what was asked, in a few words."""
    if isinstance(answer, FirecellError):
        return answer.message
    try:
        return str(msgspec.json.decode(answer.body)["detail"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"status {answer.status}"
