"""Passing requests on to another gateway or to a cell, streams included.

A request about a group is answered by the gateway that coordinates the groups. When another one
does, or somebody else may soon, what hangs at the former one is let go: it may be stopped, and
would never end anything. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import quote

from engine.errors import Unavailable
from engine.limits import STREAM_DRAIN_S
from topics.groups_lock import Leadership
from topics.http import Call
from topics.http_body import header
from topics.http_relay import Relayed, Relays

FORWARDED = b"x-firecell-forwarded"
_CHANGING = "the gateway that coordinates groups is changing: try again"


class Elsewhere:
    """What this process passes on."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._relays = Relays()
        self._followed: set[str] = set()  # coordinating gateways that requests were passed on to
        self._changes = 0  # of who coordinates
        self._draining = False
        self._loop: asyncio.AbstractEventLoop | None = None
        leadership.watch(self._another_leads)

    async def passed_on(
        self,
        url: str,
        call: Call,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        reporting: bool = False,
    ) -> Relayed:
        """Another process's answer; a stream ends with this process's own. `reporting`: as
        `Relays.relay`."""
        self._loop = asyncio.get_running_loop()
        if self._draining:
            self._relays.end_all()  # what begins now ends at once
        return await self._relays.relay(url, call, target, headers, body, reporting=reporting)

    async def answer(
        self, call: Call, body_bytes_max: int = 0, *, reporting: bool = False
    ) -> Relayed | None:
        """The coordinating gateway's answer; None when that is this one. `reporting`: it is told
        how much of it has arrived. Unavailable while that changes."""
        self._loop = asyncio.get_running_loop()
        changes = self._changes  # before anything is asked: a change meanwhile is seen
        url = await asyncio.to_thread(self._leadership.leader)
        if url is None:
            return None
        if header(call.headers, FORWARDED) is not None:
            raise Unavailable(_CHANGING)
        body = await call.body.read(body_bytes_max) if body_bytes_max else b""
        path = call.route.path
        for name, part in call.parts.items():
            path = path.replace(f"{{{name}}}", quote(part, safe=""))
        if changes != self._changes:  # a slow body: who is asked now would never be left
            raise Unavailable(_CHANGING)
        self._followed.add(url)
        headers = {FORWARDED.decode(): "1"}
        found = await self.passed_on(url, call, path, headers, body, reporting=reporting)
        if changes != self._changes and url not in self._followed and found.endless:
            found.drop()
            raise Unavailable(_CHANGING)
        return found

    def _another_leads(self) -> None:
        """From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has closed: nothing is passed on any more
                self._loop.call_soon_threadsafe(self._leave_former)

    def _leave_former(self) -> None:
        self._changes += 1
        try:
            url = self._leadership.leader()
        except Unavailable:
            url = None
        for former in self._followed - {url}:
            self._relays.leave(former)
        self._followed &= {url}

    def drain(self) -> None:
        """The process ends: so do streams, cleanly; those whose client takes nothing are cut. From
        any thread."""
        self._draining = True
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        self._relays.end_all()
        asyncio.get_running_loop().call_later(STREAM_DRAIN_S, self._relays.cut_all)
