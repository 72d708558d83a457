"""Threads for pages whose store is behind a network, so that the event loop never waits for one.

A bounded number of threads, a bounded number of requests in line for them, and a bounded time: a
store that hangs costs its time-out to those who ask it, not the sum of those in front to whoever
stands in line. Everybody else is told to come again. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from engine import limits
from engine.errors import Unavailable


class PageThreads:
    """`run` from the loop; `close` at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(limits.PAGE_THREADS, "page")
        self._inside = 0

    async def run(self, call: Callable[[], bytes]) -> bytes:
        """What `call` returns in a thread. Unavailable (503, Retry-After) when too many wait, or
        after PAGE_WAIT_S."""
        if self._inside >= limits.PAGE_THREADS + limits.PAGE_THREADS_LINE_MAX:
            raise Unavailable(
                f"{self._inside} requests wait for the store already: it is slow or away"
            )
        self._inside += 1
        submitted = self._pool.submit(call)
        running = asyncio.wrap_future(submitted)
        running.add_done_callback(self._one_left)  # when the thread is done, not when a client left
        await asyncio.wait({running}, timeout=limits.PAGE_WAIT_S)
        if running.done():
            return running.result()
        submitted.cancel()  # it leaves the line; what a thread is at goes on
        raise Unavailable(f"no answer within {limits.PAGE_WAIT_S} s: the store is slow or away")

    def _one_left(self, running: asyncio.Future[bytes]) -> None:
        self._inside -= 1
        if not running.cancelled():
            running.exception()  # whoever asked may be gone: seen here

    def close(self) -> None:
        """Wait for no one."""
        self._pool.shutdown(wait=False, cancel_futures=True)
