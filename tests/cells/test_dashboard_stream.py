"""The dashboard as a stream: what becomes visible, once each, and where it goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cells.dashboard_stream import DashboardStream, Ticker
from engine.errors import Unavailable
from tests.topics.http_fakes import ask, make_cell, problem


class FakeDashboards:
    """Posts by id, visible at once; settled moves when told."""

    def __init__(self) -> None:
        self.posts: list[int] = []
        self.settled = 0
        self.version = 0

    def show(self, *posts: int) -> None:
        """A batch was applied."""
        self.posts = sorted([*self.posts, *posts])
        self.version += 1

    def dashboard(
        self, reader: int, *, limit: int, cursor: str | None = None, newer: str | None = None
    ) -> bytes:
        """Pages upwards, two posts each, as the real reader pages."""
        floor = int(newer.split("-")[1]) if newer else -1
        above = [post for post in self.posts if post > floor]
        page, more = above[:2], len(above) > 2
        document = {
            "posts": [{"id": str(post), "author": "7", "text": f"{post}"} for post in page[::-1]],
            "next": f"v1-{page[-1]}-7" if more else None,
            "settled": f"v1-{self.settled}-0",
        }
        return json.dumps(document).encode()


async def at_once(page: Callable[[], bytes]) -> bytes:
    """As where the store is in the process."""
    return page()


def told(pages: FakeDashboards, since: str | None, act: Any) -> tuple[list[str], list[str]]:
    """(texts, ids of events) of a stream while `act` happens."""
    content: list[bytes] = []

    async def run() -> None:
        ending = [False]
        ticker = Ticker(lambda: pages.version, lambda: ending[0])
        stream = DashboardStream(pages, 1, since, ticker, at_once)
        await stream.begin()

        async def write(piece: bytes) -> None:
            content.append(piece)

        task = asyncio.create_task(stream.run(write))
        for step in act:
            await asyncio.sleep(0.15)
            step()
        await asyncio.sleep(0.15)
        ending[0] = True
        await asyncio.wait_for(task, 5)

    asyncio.run(run())
    blocks = b"".join(content).decode().split("\n\n")
    fields = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if block]
    events = [block for block in fields if "event" not in block]
    return [json.loads(event["data"])["text"] for event in events], [e["id"] for e in events]


def test_only_what_comes_once_each_oldest_first():
    pages = FakeDashboards()
    pages.show(10, 20)
    texts, _ = told(pages, None, [lambda: pages.show(40, 30, 50), lambda: pages.show(60)])
    assert texts == ["30", "40", "50", "60"]


def test_a_late_post_above_what_is_settled_is_told():
    pages = FakeDashboards()
    texts, _ = told(pages, None, [lambda: pages.show(50), lambda: pages.show(40)])
    assert texts == ["50", "40"]


def test_the_cursor_follows_what_is_settled_and_a_client_goes_on_there():
    pages = FakeDashboards()

    def settle() -> None:
        pages.settled = 45
        pages.show(60)

    texts, ids = told(pages, None, [lambda: pages.show(40, 50), settle, lambda: pages.show(70)])
    assert texts == ["40", "50", "60", "70"]
    assert ids == ["v1-0-0", "v1-0-0", "v1-0-0", "v1-45-0"]
    texts, _ = told(pages, ids[-1], [])
    assert texts == ["50", "60", "70"]


def test_what_was_told_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cells.dashboard_stream.DASHBOARD_STREAM_SEEN_MAX", 5)
    pages = FakeDashboards()
    stream = DashboardStream(pages, 1, None, Ticker(lambda: 0, lambda: False), at_once)
    asyncio.run(stream.begin())
    pages.show(*range(1, 21))
    asyncio.run(stream._new())
    assert len(stream._told) == 5


def test_a_store_that_is_away_for_a_while_ends_no_stream(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cells.dashboard_stream.RETRY_MS_MAX", 50)
    pages = FakeDashboards()
    answer, tries = pages.dashboard, []

    def away(reader: int, **asked: Any) -> bytes:
        tries.append(asked)
        raise Unavailable("the store is away")

    def leave() -> None:
        pages.dashboard = away
        pages.show(10)

    def come_back() -> None:
        pages.dashboard = answer

    texts, _ = told(pages, None, [leave, lambda: None, come_back])
    assert texts == ["10"]
    assert len(tries) > 1, "nothing more is applied, and yet it looks again"


def test_what_is_no_reader_or_no_cursor_is_refused():
    server, pages, _ = make_cell()
    problem(ask(server.app, "GET", "/v1/users/x/dashboard/stream"), 400)
    answer = ask(server.app, "GET", "/v1/users/2/dashboard/stream", params={"newer": "x" * 99})
    assert problem(answer, 400)["field"] == "newer"
    pages.users = lambda user: False
    problem(ask(server.app, "GET", "/v1/users/2/dashboard/stream"), 421)
