"""Passing on while who coordinates changes: nothing hangs at a former one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engine.errors import Unavailable
from topics.groups_lock import Alone
from topics.http import Call
from topics.http_body import Headers
from topics.http_elsewhere import Elsewhere
from topics.http_routes import ROUTES

ACK = next(route for route in ROUTES if route.name == "ack")


class Led(Alone):
    """By the gateway at `url`, until `change`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._told: Callable[[], None] = lambda: None

    def leader(self) -> str | None:
        return self.url

    def watch(self, changed: Callable[[], None]) -> None:
        self._told = changed

    def change(self, url: str) -> None:
        self.url = url
        self._told()


class SlowBody:
    """A body during which somebody else begins to coordinate."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile

    async def read(self, size: int) -> bytes:
        self._meanwhile()
        await asyncio.sleep(0.01)
        return b"{}"


def test_a_request_whose_body_was_slow_is_not_passed_on_to_the_former() -> None:
    """It was, and streams through the next one were never left: only one was remembered."""
    led = Led("http://127.0.0.1:1")
    body: Any = SlowBody(lambda: led.change("http://127.0.0.1:2"))
    headers: Headers = []
    call = Call(ACK, {"group": "g"}, {}, headers, body)
    with pytest.raises(Unavailable, match="is changing"):
        asyncio.run(Elsewhere(led).answer(call, 100))
