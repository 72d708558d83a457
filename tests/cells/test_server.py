"""A cell's HTTP on a fake reader: parameters, waiting, readiness, what the hot route may skip."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest

from cells.server import CellServer, PositionWaiters
from engine import limits
from engine.errors import Unavailable
from tests.topics.http_fakes import FakePages, ask, ask_within, live, make_cell, problem
from topics.security import Guard

DASHBOARD = "/v1/users/2/dashboard"


def test_dashboard_is_the_readers_bytes():
    server, pages, _ = make_cell()
    response = ask(server.app, "GET", DASHBOARD)
    assert response.json()["cell"] == "c0"
    assert response.headers["content-type"] == "application/json"
    assert pages.asked == [("dashboard", (2, 20, None, None))]


@pytest.mark.parametrize("extra", [{}, {"x-request-id": "r1"}])
def test_quick_and_long_way_ask_the_reader_the_same(extra):
    """With an X-Request-ID the request takes the long way; so does the first of a Host."""
    server, pages, _ = make_cell()
    with live(server.app) as port, httpx.Client(trust_env=False, headers=extra) as client:
        url = f"http://127.0.0.1:{port}{DASHBOARD}"
        assert client.get(url).is_success
        for query in ("limit=5", "limit=200&cursor=v1-9-7", "newer=v1-9-7&limit=1", "%6Cimit=5"):
            assert client.get(f"{url}?{query}").is_success
    assert [asked for _, asked in pages.asked[1:]] == [
        (2, 5, None, None),
        (2, 200, "v1-9-7", None),
        (2, 1, None, "v1-9-7"),
        (2, 5, None, None),
    ]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/users/x/dashboard", "id"),
        ("/v1/users/-1/dashboard", "id"),
        ("/v1/users/ 1/dashboard", "id"),
        ("/v1/users//dashboard", "id"),
        (f"/v1/users/{2**64}/dashboard", "id"),
        ("/v1/users/\u0661/dashboard", "id"),
        (f"{DASHBOARD}?limit=0", "limit"),
        (f"{DASHBOARD}?limit=201", "limit"),
        (f"{DASHBOARD}?limit=9999999999999999999999999", "limit"),
        (f"{DASHBOARD}?limit=", "limit"),
        (f"{DASHBOARD}?limit=1&limit=2", "limit"),
        (f"{DASHBOARD}?cursor=", "cursor"),
        (f"{DASHBOARD}?cursor={'9' * 65}", "cursor"),
        (f"{DASHBOARD}?cursor=v1-1-1&newer=v1-1-1", "newer"),
        (f"{DASHBOARD}?include=actions", "include"),
        (f"{DASHBOARD}?Limit=1", "Limit"),
        (f"{DASHBOARD}?wait_ms=5", "wait_ms"),
        (f"{DASHBOARD}?after=0:1&wait_ms=10001", "wait_ms"),
        (f"{DASHBOARD}?after=0", "after"),
        (f"{DASHBOARD}?after=0:", "after"),
        (f"{DASHBOARD}?after=4:0", "after"),
        (f"{DASHBOARD}?after=0:{2**64}", "after"),
        (f"{DASHBOARD}?after=-1:0", "after"),
        (f"{DASHBOARD}?after=0:1:2", "after"),
        ("/v1/users/2/posts?limit=0", "limit"),
        ("/v1/users/x/posts", "id"),
        ("/v1/users/2/posts?newer=v1-1-1", "newer"),
        ("/v1/users/2/followers?limit=1001", "limit"),
        ("/v1/users/x/following", "id"),
        ("/v1/posts/x", "id"),
        (f"/v1/posts/{2**63}", "id"),
        ("/v1/posts/5?author=x", "author"),
        ("/v1/admin/inbox/x", "user"),
        ("/v1/admin/inbox/2?limit=2001", "limit"),
        ("/readyz?all=2", "all"),
        ("/healthz?x=1", "x"),
    ],
)
def test_what_is_malformed_is_400_and_named(path, field):
    server, pages, _ = make_cell()
    document = problem(ask(server.app, "GET", path), 400)
    assert document["field"] == field
    assert field in document["detail"]
    assert not pages.asked


def test_other_pages_reach_the_reader():
    server, pages, _ = make_cell()
    pages.fans = [5, 3, 9]
    pages.known = {77: 2}
    app = server.app
    assert ask(app, "GET", "/v1/users/2/posts?limit=3").json() == {"posts": [], "next": None}
    assert ask(app, "GET", "/v1/users/2/following").json()["users"] == []
    page = ask(app, "GET", "/v1/users/2/followers?limit=2").json()
    assert page == {"users": ["3", "5"], "next": "u5", "gaps": []}
    assert ask(app, "GET", "/v1/users/2/followers?limit=2&cursor=u5").json()["users"] == ["9"]
    assert ask(app, "GET", "/v1/posts/77?author=2").json() == {"id": "77", "author": "2"}
    problem(ask(app, "GET", "/v1/posts/78"), 404)
    assert ask(app, "GET", "/v1/admin/inbox/2").json()["keys"] == [["5", "7"]]
    assert ask(app, "GET", "/v1/admin/stats").json()["inbox_keys_total"] == 12
    assert ask(app, "GET", "/v1/admin/status").json()["cells"][0]["name"] == "fake"
    explained = ask(app, "GET", "/v1/admin/authors/2").json()
    assert explained["author"] == "2" and explained["cells"][0]["now"] == "pushed"
    problem(ask(app, "GET", "/v1/admin/authors/x"), 400)


def test_a_reader_of_another_cell_is_421():
    server, pages, _ = make_cell()
    pages.users = lambda user: False
    assert problem(ask(server.app, "GET", DASHBOARD), 421)["type"].endswith("wrong-cell")


# --- markers ---


def put_marker(server: CellServer, body: object, **options):
    return ask(server.app, "PUT", "/v1/users/2/marker", json=body, **options)


def test_marker_answers_the_one_in_force():
    server, _, _ = make_cell()
    assert put_marker(server, {"post": "50"}).json() == {"reader": "2", "marker": "50"}
    assert put_marker(server, {"post": 40}).json() == {"reader": "2", "marker": "50"}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"post": "x"}, 400),
        ({"post": None}, 400),
        ({"post": str(2**63)}, 400),
        ({"post": 2**60}, 400),
        ({"post": "1", "more": 1}, 400),
        ({"post": "1" * 2_000}, 413),
        ([], 400),
    ],
)
def test_bad_markers_move_nothing(body, status):
    server, pages, _ = make_cell()
    problem(put_marker(server, body), status)
    assert not pages.markers


def test_marker_wants_json():
    server, _, _ = make_cell()
    content = b'{"post":"5"}'
    problem(ask(server.app, "PUT", "/v1/users/2/marker", content=content), 415)


# --- after= ---


def test_after_an_applied_position_answers_at_once():
    server, _, runner = make_cell()
    runner.applied[1] = 8
    assert ask(server.app, "GET", f"{DASHBOARD}?after=1:7").is_success


def test_after_waits_until_the_position_is_applied():
    server, _, runner = make_cell()

    async def scenario() -> tuple[int, float]:
        asking = asyncio.create_task(
            ask_within(server.app, "GET", f"{DASHBOARD}?after=1:7&wait_ms=5000")
        )
        started = time.monotonic()
        await asyncio.sleep(0.05)
        assert not asking.done()
        runner.applied[1] = 8
        return (await asking).status_code, time.monotonic() - started

    status, seconds = asyncio.run(scenario())
    assert status == 200
    assert seconds < 2


def test_after_times_out_as_503_that_names_the_position():
    server, _, _ = make_cell()
    response = ask(server.app, "GET", f"{DASHBOARD}?after=1:7&wait_ms=20")
    document = problem(response, 503)
    assert document["position"] == "1:7"
    assert "1:7" in document["detail"]
    assert response.headers["retry-after"] == "1"


def test_after_with_wait_zero_only_looks():
    server, _, _ = make_cell()
    problem(ask(server.app, "GET", f"{DASHBOARD}?after=1:7&wait_ms=0"), 503)


def test_waiters_are_bounded_and_forgotten(monkeypatch):
    monkeypatch.setattr("cells.server.AFTER_WAITERS_MAX", 3)

    async def scenario() -> None:
        waiters = PositionWaiters(lambda partition, offset: False)
        waiting = [asyncio.create_task(waiters.wait((0, 1), 0.05)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await waiters.wait((0, 1), 0.05)
        assert await asyncio.gather(*waiting) == [False] * 3
        assert not waiters._waiting

    asyncio.run(scenario())


# --- readiness ---


def test_before_the_cell_is_open_it_lives_but_serves_nothing():
    server = CellServer("c0", Guard("127.0.0.1"))
    assert ask(server.app, "GET", "/healthz").is_success
    assert ask(server.app, "GET", "/metrics").is_success
    assert problem(ask(server.app, "GET", "/readyz"), 503)["ready"] is False
    for path in (DASHBOARD, "/v1/admin/status", "/v1/admin/stats", "/v1/users/2/posts"):
        response = ask(server.app, "GET", path)
        assert "starting" in problem(response, 503)["detail"]
        assert response.headers["retry-after"] == "1"


def test_pages_never_go_back_after_a_restart():
    """Not before the log's end as it was at start is applied; then for good."""
    server, pages, runner = make_cell()
    runner.ready = False
    assert "catching up" in problem(ask(server.app, "GET", DASHBOARD), 503)["detail"]
    assert "catching up" in problem(ask(server.app, "GET", "/readyz"), 503)["detail"]
    assert not pages.asked
    runner.ready = True
    assert ask(server.app, "GET", "/readyz").json() == {"ready": True, "cell": "c0"}
    assert ask(server.app, "GET", DASHBOARD).is_success
    runner.ready = False
    problem(ask(server.app, "GET", "/readyz"), 503)
    assert ask(server.app, "GET", DASHBOARD).is_success


def test_a_draining_process_is_not_ready():
    reasons = [""]
    server, _, _ = make_cell(reason=lambda: reasons[0])
    assert ask(server.app, "GET", "/readyz").is_success
    reasons[0] = "SIGTERM"
    assert "SIGTERM" in problem(ask(server.app, "GET", "/readyz"), 503)["detail"]


def test_metrics_count_requests_and_show_the_cells_numbers():
    server, _, _ = make_cell()
    ask(server.app, "GET", DASHBOARD)
    ask(server.app, "GET", DASHBOARD)
    ask(server.app, "GET", DASHBOARD, headers={"x-request-id": "a"})
    ask(server.app, "GET", f"{DASHBOARD}?limit=0")
    ask(server.app, "GET", "/nowhere")
    lines = ask(server.app, "GET", "/metrics").text.splitlines()
    labels = 'cell="c0",role="cell",route="dashboard"'
    assert f'firecell_http_requests_total{{{labels},status="2xx"}} 3.0' in lines
    assert f'firecell_http_requests_total{{{labels},status="4xx"}} 1.0' in lines
    assert f"firecell_http_request_seconds_count{{{labels}}} 4.0" in lines
    unknown = labels.replace("dashboard", "none")
    assert f'firecell_http_requests_total{{{unknown},status="4xx"}} 1.0' in lines
    assert 'firecell_inbox_keys_total{cell="c0",role="cell"} 12.0' in lines
    assert 'firecell_lag_seconds{cell="c0",role="cell"} 0.5' in lines
    assert any(line.startswith("firecell_build_info{") for line in lines)
    assert not any(line.startswith("firecell_") and "user" in line for line in lines)


# --- a store behind a network ---


def remote_cell() -> tuple[CellServer, FakePages, threading.Event]:
    """A cell whose pages wait until they are let go."""
    server, pages, runner = make_cell()
    let_go = threading.Event()
    answer = pages.dashboard

    def wait(reader: int, **asked: object) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        if not let_go.wait(10):
            raise Unavailable("the store did not answer", retry_after_s=2)
        return answer(reader, **asked)

    pages.dashboard, pages.remote = wait, True
    server.attach(pages, runner, 4)
    return server, pages, let_go


def test_a_page_that_waits_for_its_store_holds_up_nobody_else():
    server, _, let_go = remote_cell()

    async def scenario() -> None:
        page = asyncio.create_task(ask_within(server.app, "GET", DASHBOARD))
        await asyncio.sleep(0.05)
        assert (await ask_within(server.app, "GET", "/readyz")).is_success
        assert not page.done()
        let_go.set()
        assert (await page).json()["reader"] == "2"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", f"{DASHBOARD}/stream", None), ("PUT", "/v1/users/2/marker", {"post": "9"})],
)
def test_streams_and_markers_that_wait_for_their_store_hold_up_nobody_else(method, path, body):
    server, pages, let_go = remote_cell()
    pages.set_marker = lambda user, post: pages.dashboard(user, limit=1)

    async def scenario() -> None:
        asked = asyncio.create_task(ask_within(server.app, method, path, json=body))
        await asyncio.sleep(0.05)
        assert (await ask_within(server.app, "GET", "/readyz")).is_success
        assert not asked.done()
        asked.cancel()
        let_go.set()

    asyncio.run(scenario())


def test_pages_in_line_for_a_store_that_hangs_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "PAGE_THREADS", 2)
    monkeypatch.setattr(limits, "PAGE_THREADS_LINE_MAX", 3)
    server, _, let_go = remote_cell()

    async def scenario() -> None:
        inside = [asyncio.create_task(ask_within(server.app, "GET", DASHBOARD)) for _ in range(5)]
        await asyncio.sleep(0.05)
        refused = await ask_within(server.app, "GET", DASHBOARD)
        assert "retry-after" in refused.headers
        assert "wait for the store" in problem(refused, 503)["detail"]
        let_go.set()
        assert all(answer.is_success for answer in await asyncio.gather(*inside))
        assert (await ask_within(server.app, "GET", DASHBOARD)).is_success

    asyncio.run(scenario())


def test_a_page_in_line_behind_a_store_that_hangs_is_told_in_time(monkeypatch):
    monkeypatch.setattr(limits, "PAGE_THREADS", 1)
    monkeypatch.setattr(limits, "PAGE_THREADS_LINE_MAX", 2)
    monkeypatch.setattr(limits, "PAGE_WAIT_S", 0.2)
    server, pages, let_go = remote_cell()

    async def scenario() -> None:
        inside = [asyncio.create_task(ask_within(server.app, "GET", DASHBOARD)) for _ in range(3)]
        for refused in await asyncio.gather(*inside):
            assert "retry-after" in refused.headers
            assert "slow or away" in problem(refused, 503)["detail"]
        await asyncio.sleep(0)
        assert server._threads._inside == 1, "who was told has left the line"
        let_go.set()
        assert (await ask_within(server.app, "GET", DASHBOARD)).is_success

    asyncio.run(scenario())
    assert len(pages.asked) == 2, "nobody asks the store for those who have left"


def test_a_store_that_is_away_is_503_with_retry_after():
    server, pages, _ = remote_cell()

    def away(reader: int, **asked: object) -> bytes:
        raise Unavailable("the store is away", retry_after_s=2)

    pages.dashboard = away
    refused = ask(server.app, "GET", DASHBOARD)
    assert (refused.headers["retry-after"], problem(refused, 503)["detail"]) == (
        "2",
        "the store is away",
    )
