"""Threads for pages whose store is behind a network, so that the event loop never waits for one.

A bounded number of threads, and a bounded number of requests in line for them: a store that hangs
costs its time-out to those who wait for it, and everybody else is told at once to come again.
Belongs to one event loop.
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
        """What `call` returns in a thread. Unavailable (503, Retry-After) when too many wait."""
        if self._inside >= limits.PAGE_THREADS + limits.PAGE_THREADS_LINE_MAX:
            raise Unavailable(
                f"{self._inside} requests wait for the store already: it is slow or away"
            )
        self._inside += 1
        running = asyncio.get_running_loop().run_in_executor(self._pool, call)
        running.add_done_callback(self._one_left)  # when the thread is done, not when a client left
        return await asyncio.shield(running)

    def _one_left(self, running: asyncio.Future[bytes]) -> None:
        self._inside -= 1
        if not running.cancelled():
            running.exception()  # whoever asked may be gone: seen here

    def close(self) -> None:
        """Wait for no one."""
        self._pool.shutdown(wait=False, cancel_futures=True)
