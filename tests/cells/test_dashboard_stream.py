"""The dashboard as a stream: what becomes visible, once each, and where it goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from cells.dashboard_stream import DashboardStream, Ticker
from engine import limits
from engine.errors import Unavailable, WrongCell
from tests.topics.http_fakes import ask, make_cell, problem, status_of


class FakeDashboards:
    """Posts by id, visible at once; settled moves when told."""

    def __init__(self) -> None:
        self.posts: list[int] = []
        self.settled = 0
        self.version = 0
        self.asked: list[str | None] = []
        self.refuse: list[Exception] = []  # of the next pages

    def show(self, *posts: int) -> None:
        """A batch was applied."""
        self.posts = sorted([*self.posts, *posts])
        self.version += 1

    def dashboard(
        self, reader: int, *, limit: int, cursor: str | None = None, newer: str | None = None
    ) -> bytes:
        """Pages upwards, two posts each, as the real reader pages."""
        self.asked.append(newer)
        if self.refuse:
            raise self.refuse.pop()
        floor = int(newer.split("-")[1]) if newer else -1
        above = [post for post in self.posts if post > floor]
        page, more = above[:2], len(above) > 2
        document = {
            "posts": [{"id": str(post), "author": "7", "text": f"{post}"} for post in page[::-1]],
            "next": f"v1-{page[-1]}-7" if more else None,
            "settled": f"v1-{self.settled}-0",
        }
        return json.dumps(document).encode()


async def at_once(call: Callable[[], bytes]) -> bytes:
    """A store in this process."""
    return call()


def told(pages: FakeDashboards, since: str | None, act: Any) -> tuple[list[str], list[str]]:
    """(texts, ids of events) of a stream while `act` happens."""
    events = [block for block in blocks_of(written(pages, since, act)) if "event" not in block]
    return [json.loads(event["data"])["text"] for event in events], [e["id"] for e in events]


def written(pages: FakeDashboards, since: str | None, act: Any) -> list[bytes]:
    """The pieces that a stream writes while `act` happens."""
    content: list[bytes] = []

    async def run() -> None:
        ending = [False]
        ticker = Ticker(lambda: pages.version, lambda: ending[0], at_once)
        stream = DashboardStream(pages, 1, ticker)
        await stream.begin(since)

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
    return content


def blocks_of(content: list[bytes]) -> list[dict[str, str]]:
    """The fields of each server-sent event."""
    blocks = b"".join(content).decode().split("\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if block]


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
    assert ids == ["v1-0-0", "v1-0-0", "v1-45-0", "v1-45-0"]
    texts, _ = told(pages, ids[-1], [])
    assert texts == ["50", "60", "70"]


def test_what_was_told_is_bounded_and_not_told_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cells.dashboard_stream.DASHBOARD_STREAM_SEEN_MAX", 5)
    pages = FakeDashboards()
    act = [lambda: pages.show(*range(1, 21)), lambda: pages.show(30), lambda: pages.show(31)]
    texts, _ = told(pages, None, act)
    assert texts == [*map(str, range(1, 21)), "30", "31"]


def test_a_whole_inbox_is_walked_page_by_page_and_others_have_their_turns():
    """It was one synchronous walk over everything above the cursor, sent as one piece."""
    pages = FakeDashboards()
    pages.show(*range(1, 1_001))
    pages.settled = 2_000
    turns = 0

    async def run() -> list[tuple[int, int]]:
        nonlocal turns
        ending = [False]
        ticker = Ticker(lambda: 0, lambda: ending[0], at_once)
        stream = DashboardStream(pages, 1, ticker)
        await stream.begin("v1-0-0")
        sent: list[tuple[int, int]] = []

        async def write(piece: bytes) -> None:
            sent.append((piece.count(b"data: "), turns))

        task = asyncio.create_task(stream.run(write))
        while sum(posts for posts, _ in sent) < 1_001:
            turns += 1
            await asyncio.sleep(0)
        ending[0] = True
        await asyncio.wait_for(task, 5)
        return sent

    sent = asyncio.run(run())
    assert max(posts for posts, _ in sent) == 2  # a page
    assert turns >= 500  # a turn for everybody else between two pages


def test_a_client_that_leaves_in_a_long_walk_goes_on_in_its_middle():
    pages = FakeDashboards()
    pages.show(*range(10, 100, 10))
    pages.settled = 55
    texts, ids = told(pages, "v1-0-0", [])
    assert texts == [str(post) for post in range(10, 100, 10)]
    assert ids == ["v1-0-0"] * 2 + ["v1-20-7"] * 2 + ["v1-40-7"] * 2 + ["v1-55-0"] * 3


def test_a_store_that_is_away_in_the_middle_of_a_walk_is_waited_for():
    pages = FakeDashboards()
    pages.settled = 100
    pages.show(10, 20, 30, 40)

    def away() -> None:
        pages.refuse = [Unavailable("the store is away")] * 2
        pages.show(110, 120, 130)

    texts, _ = told(pages, "v1-0-0", [away, lambda: None, lambda: None, lambda: None])
    assert texts == ["10", "20", "30", "40", "110", "120", "130"]


def test_a_reader_who_has_moved_is_told_so():
    pages = FakeDashboards()

    def move() -> None:
        pages.refuse = [WrongCell("user 1 is not at home here")]
        pages.show(10)

    last = blocks_of(written(pages, None, [move]))[-1]
    assert last["event"] == "control"
    assert json.loads(last["data"])["problem"]["status"] == 421


def test_a_store_behind_a_network_is_never_asked_on_the_loop():
    server, pages, runner = make_cell()
    answer, threads = pages.dashboard, []

    def remember(reader: int, **asked: Any) -> bytes:
        threads.append(threading.current_thread())
        return answer(reader, **asked)

    pages.dashboard, pages.remote = remember, True  # type: ignore[method-assign]
    server.attach(pages, runner, 4)
    assert status_of(server.app, "GET", "/v1/users/2/dashboard/stream", {}) == 200
    assert len(threads) >= 2
    assert threading.main_thread() not in threads


def test_streams_leave_half_of_the_threads_for_pages():
    async def run() -> int:
        inside, most, let_go = 0, 0, asyncio.Event()

        async def slowly(call: Callable[[], bytes]) -> bytes:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await let_go.wait()
            inside -= 1
            return call()

        ticker = Ticker(lambda: 0, lambda: False, slowly)
        asking = [asyncio.create_task(ticker.page(lambda: b"")) for _ in range(100)]
        await asyncio.sleep(0.05)
        let_go.set()
        await asyncio.gather(*asking)
        return most

    assert asyncio.run(run()) == limits.DASHBOARD_STREAM_ASKING_MAX == limits.PAGE_THREADS // 2


def test_what_is_no_reader_or_no_cursor_is_refused():
    server, pages, _ = make_cell()
    problem(ask(server.app, "GET", "/v1/users/x/dashboard/stream"), 400)
    answer = ask(server.app, "GET", "/v1/users/2/dashboard/stream", params={"newer": "x" * 99})
    assert problem(answer, 400)["field"] == "newer"
    pages.users = lambda user: False
    problem(ask(server.app, "GET", "/v1/users/2/dashboard/stream"), 421)
