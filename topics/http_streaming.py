"""Answers without an end: sent piece by piece, at the pace of the client, until it leaves.

One per request, on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from starlette.responses import Response
from starlette.types import Receive, Scope
from starlette.types import Send as AsgiSend

from engine.limits import WAIT_STEP_S
from topics.stream_format import Gzip

ABORT = "firecell.abort"  # ASGI extension of topics/http_bounds.py: ends the connection at once
Write = Callable[[bytes], Awaitable[None]]


async def until_gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def abort_of(scope: Scope) -> Callable[[], None]:
    """What ends the connection of a request at once."""
    extension = scope.get("extensions", {}).get(ABORT, {})
    return cast(Callable[[], None], extension.get("abort", lambda: None))


class StreamResponse(Response):
    """`run(write)` writes the body; `ended(clean)` is called once, whatever ends it: clean when
    `run` came to its end and the connection took everything."""

    def __init__(
        self,
        run: Callable[[Write], Awaitable[None]],
        ended: Callable[[bool], None],
        media_type: str,
        gzip: Gzip | None,
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if gzip is not None:
            headers["content-encoding"] = "gzip"
        headers["vary"] = "accept, accept-encoding"
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]  # of the empty body that it was made with
        self._run = run
        self._ended = ended
        self._gzip = gzip
        self._work: asyncio.Task[None] | None = None
        self._aborted = False

    def abort(self) -> None:
        """End the connection, whatever it still has to take."""
        self._aborted = True
        if self._work is not None:
            self._work.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        """ASGI."""
        clean = False
        gone: asyncio.Task[None] | None = None
        try:
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            gone = asyncio.create_task(until_gone(receive))
            self._work = asyncio.create_task(self._all(send))
            await asyncio.wait({gone, self._work}, return_when=asyncio.FIRST_COMPLETED)
            if self._aborted:
                abort_of(scope)()
                await asyncio.wait({gone}, timeout=WAIT_STEP_S)
            elif self._work.done():
                self._work.result()
                clean = True
        finally:
            self._ended(clean)
            tasks = [task for task in (gone, self._work) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _all(self, send: AsgiSend) -> None:
        gzip = self._gzip

        async def write(content: bytes) -> None:
            body = gzip.add(content) if gzip is not None else content
            await send({"type": "http.response.body", "body": body, "more_body": True})
            # The server waits before it writes, so an empty piece waits for this one to be taken.
            await send({"type": "http.response.body", "body": b"", "more_body": True})

        await self._run(write)
        rest = gzip.end() if gzip is not None else b""
        await send({"type": "http.response.body", "body": rest})
