"""Answers without an end: sent piece by piece, at the pace of the client, until it leaves.

One per request, on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from starlette.responses import Response
from starlette.types import Receive, Scope
from starlette.types import Send as AsgiSend

from engine.limits import HTTP_TAKE_WAIT_S, WAIT_STEP_S
from topics.stream_format import Gzip

CONNECTION = "firecell.connection"  # ASGI extension of topics/http_bounds.py: its functions
Write = Callable[[bytes], Awaitable[None]]


class Behind(Protocol):
    """Another process that passes a stream on, and says how far its client is
    (topics/stream_passage.py)."""

    def heard(self, body: bytes) -> None:
        """What it says."""

    def untaken(self) -> int:
        """Bytes that its client has not taken."""


async def until_gone(
    receive: Receive, heard: Callable[[bytes], None] = lambda body: None
) -> None:
    """Return when the client has left. `heard` gets what it says until then."""
    while (message := await receive())["type"] != "http.disconnect":
        heard(message.get("body", b""))


def abort_of(scope: Scope) -> Callable[[], None]:
    """What ends the connection of a request at once."""
    return cast(Callable[[], None], _connection(scope).get("abort", lambda: None))


def untaken_of(scope: Scope) -> Callable[[], int]:
    """How many bytes the kernel has not taken yet of what was written to a request's connection."""
    return cast(Callable[[], int], _connection(scope).get("untaken", lambda: 0))


def park(scope: Scope) -> None:
    """The answer to this request is a stream: its client may take nothing for as long as it
    wants."""
    cast(Callable[[], None], _connection(scope).get("park", lambda: None))()


def _connection(scope: Scope) -> dict[str, Any]:
    return cast(dict[str, Any], scope.get("extensions", {}).get(CONNECTION, {}))


class StreamResponse(Response):
    """`run(write)` writes the body; `ended(clean)` is called once, whatever ends it: clean when
    `run` came to its end and the connection took everything while the client was still there;
    that is the client's connection `behind` another process, if that passes the stream on."""

    def __init__(
        self,
        run: Callable[[Write], Awaitable[None]],
        ended: Callable[[bool], None],
        media_type: str,
        gzip: Gzip | None,
        behind: Behind | None = None,
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
        self._behind = behind
        self._work: asyncio.Task[bool] | None = None
        self._aborted = False

    def abort(self) -> None:
        """End the connection, whatever it still has to take."""
        self._aborted = True
        if self._work is not None:
            self._work.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: AsgiSend) -> None:
        """ASGI."""
        park(scope)
        clean = False
        gone: asyncio.Task[None] | None = None
        try:
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            untaken, behind = untaken_of(scope), self._behind
            if behind is None:
                gone = asyncio.create_task(until_gone(receive))
            else:
                gone = asyncio.create_task(until_gone(receive, behind.heard))
                untaken = behind.untaken
            self._work = asyncio.create_task(self._all(send, gone, untaken))
            await asyncio.wait({gone, self._work}, return_when=asyncio.FIRST_COMPLETED)
            if self._work.done() and not self._aborted:
                clean = self._work.result()
            if self._aborted or (self._work.done() and not clean):
                abort_of(scope)()
                await asyncio.wait({gone}, timeout=WAIT_STEP_S)
        finally:
            self._ended(clean)
            tasks = [task for task in (gone, self._work) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _all(
        self, send: AsgiSend, gone: asyncio.Task[None], untaken: Callable[[], int]
    ) -> bool:
        """Whether it was all taken. To a client that has gone the server sends nothing and says
        nothing, so that `run` comes to its end as if everything had been taken."""
        gzip = self._gzip

        async def write(content: bytes) -> None:
            body = gzip.add(content) if gzip is not None else content
            await send({"type": "http.response.body", "body": body, "more_body": True})
            # The server waits before it writes, so an empty piece waits for this one to be taken.
            await send({"type": "http.response.body", "body": b"", "more_body": True})

        await self._run(write)
        rest = gzip.end() if gzip is not None else b""
        await send({"type": "http.response.body", "body": rest, "more_body": True})
        taken = await _all_taken(gone, untaken)
        if taken:
            await send({"type": "http.response.body", "body": b""})
        return taken


async def _all_taken(gone: asyncio.Task[None], untaken: Callable[[], int]) -> bool:
    """Wait for the last bytes; False when the client leaves before, or takes nothing for long."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + HTTP_TAKE_WAIT_S
    await asyncio.sleep(0)  # a connection that was lost just now is `gone` after this turn
    left = untaken()
    while left and not gone.done():
        if clock() > deadline:
            return False
        await asyncio.sleep(WAIT_STEP_S)
        before, left = left, untaken()
        if left < before:  # behind another gateway there may be megabytes
            deadline = clock() + HTTP_TAKE_WAIT_S
    return not gone.done()
