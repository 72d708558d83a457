"""The gateway before two cells: who is asked, what a dead or hung cell changes, merged answers."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from engine.errors import Unavailable
from engine.limits import PROXY_CONNECTIONS_PER_CELL_MAX, PROXY_WAITING_PER_CELL_MAX
from engine.wire import FollowPage
from tests.topics.http_fakes import Deployment, ask, live, make_cell, problem
from topics.http_client import Answer, Request
from topics.http_proxy import CellProxy, refusal
from topics.security import Guard
from topics.server import Gateway, merge_followers

EVEN, ODD = "/v1/users/2/dashboard", "/v1/users/3/dashboard"


def test_reads_go_to_the_home_cell_with_their_query():
    world = Deployment()
    assert ask(world.app, "GET", EVEN).json()["cell"] == "c0"
    assert ask(world.app, "GET", f"{ODD}?limit=7&cursor=v1-9-3").json()["cell"] == "c1"
    assert world.cells["c1"][1].asked == [("dashboard", (3, 7, "v1-9-3", None))]
    assert ask(world.app, "GET", "/v1/users/3/following").json()["users"] == []
    assert ask(world.app, "GET", "/v1/users/3/posts").json() == {"posts": [], "next": None}


def test_a_user_is_named_in_one_way_only_on_the_way_to_the_cell():
    world = Deployment()
    assert ask(world.app, "GET", "/v1/users/0003/dashboard").json()["reader"] == "3"


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/v1/users/x/dashboard", 400, "id"),
        (f"{EVEN}?limit=0", 400, "limit"),
        (f"{EVEN}?include=actions", 400, "include"),
        (f"{EVEN}?cursor=v1-1-1&newer=v1-1-1", 400, "newer"),
        ("/v1/posts/x", 400, "id"),
        ("/v1/posts/5?author=-1", 400, "author"),
        ("/v1/users/2/followers?limit=0", 400, "limit"),
    ],
)
def test_what_is_malformed_is_400_whoever_finds_it(path, status, field):
    assert problem(ask(Deployment().app, "GET", path), status)["field"] == field


def test_markers_reach_the_home_cell():
    world = Deployment()
    response = ask(world.app, "PUT", "/v1/users/3/marker", json={"post": "9"})
    assert response.json() == {"reader": "3", "marker": "9"}
    assert world.cells["c1"][1].markers == {3: 9}
    problem(ask(world.app, "PUT", "/v1/users/3/marker", json={"post": "x"}), 400)
    problem(ask(world.app, "PUT", "/v1/users/3/marker", json={"post": "9" * 2_000}), 413)
    problem(ask(world.app, "PUT", "/v1/users/3/marker", content=b"{}"), 415)


def test_one_dead_cell_changes_nothing_for_the_other():
    world = Deployment()
    world.down.add("c1")
    response = ask(world.app, "GET", ODD)
    assert problem(response, 503)["cell"] == "c1"
    assert response.headers["retry-after"] == "1"
    assert ask(world.app, "GET", EVEN).is_success
    world.down.clear()
    assert ask(world.app, "GET", ODD).is_success


def test_a_cells_own_503_is_passed_on_with_retry_after():
    world = Deployment()
    world.cells["c1"][2].ready = False
    response = ask(world.app, "GET", ODD)
    assert "catching up" in problem(response, 503)["detail"]
    assert response.headers["retry-after"] == "1"


def test_a_wrong_cell_makes_the_gateway_read_the_directory_again():
    world = Deployment()
    assert world.homes_loaded == 1
    world.cells["c1"][1].users = lambda user: False
    response = ask(world.app, "GET", ODD)
    assert problem(response, 503)["directory_version"] == 3
    assert world.homes_loaded == 2


# --- posts ---


def test_a_post_comes_from_the_authors_cell_or_from_any():
    world = Deployment()
    world.cells["c1"][1].known = {77: 3}
    world.cells["c0"][1].known = {77: 3}
    assert ask(world.app, "GET", "/v1/posts/77?author=3").json()["author"] == "3"
    assert ask(world.app, "GET", "/v1/posts/77").json()["id"] == "77"
    problem(ask(world.app, "GET", "/v1/posts/78"), 404)
    world.down.add("c0")
    assert ask(world.app, "GET", "/v1/posts/77").json()["id"] == "77"
    world.down.add("c1")
    problem(ask(world.app, "GET", "/v1/posts/77"), 503)


def test_a_post_does_not_come_from_a_cell_that_is_catching_up():
    world = Deployment()
    for _, pages, runner in world.cells.values():
        pages.known, runner.ready = {77: 3}, False
    problem(ask(world.app, "GET", "/v1/posts/77"), 503)
    world.cells["c1"][2].ready = True
    assert ask(world.app, "GET", "/v1/posts/77").json()["author"] == "3"


# --- followers ---


def walk_followers(world: Deployment, limit: int) -> tuple[list[int], list[dict]]:
    users, gaps, path = [], [], f"/v1/users/2/followers?limit={limit}"
    cursor = ""
    for _ in range(100):
        page = ask(world.app, "GET", path + cursor).json()
        assert len(page["users"]) <= limit
        users += [int(user) for user in page["users"]]
        gaps += page["gaps"]
        if page["next"] is None:
            return users, gaps
        cursor = f"&cursor={page['next']}"
    raise AssertionError("a walk without an end")


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_followers_of_all_cells_are_walked_in_order_once(limit):
    world = Deployment()
    world.cells["c0"][1].fans = [2, 4, 6, 100, 2**64 - 2]
    world.cells["c1"][1].fans = [1, 3, 5, 7, 9, 11]
    users, gaps = walk_followers(world, limit)
    assert users == [1, 2, 3, 4, 5, 6, 7, 9, 11, 100, 2**64 - 2]
    assert gaps == []


def test_a_missing_cell_shows_in_the_gaps_of_followers():
    world = Deployment()
    world.cells["c0"][1].fans = [2, 4, 6]
    world.down.add("c1")
    users, gaps = walk_followers(world, 2)
    assert users == [2, 4, 6]
    assert {gap["cell"] for gap in gaps} == {"c1"}
    assert all(gap["cause"] for gap in gaps)
    world.down.add("c0")
    problem(ask(world.app, "GET", "/v1/users/2/followers"), 503)


def test_nobody_follows():
    assert walk_followers(Deployment(), 10) == ([], [])


def test_merged_pages_are_cut_at_the_limit():
    pages = [FollowPage(["1", "5"], "u5", []), FollowPage(["2", "3"], None, [])]
    assert merge_followers(pages, 2, []) == FollowPage(["1", "2"], "u2", [])
    assert merge_followers(pages[1:], 2, []) == FollowPage(["2", "3"], None, [])


# --- the processes ---


def test_readyz_names_cells_and_wants_one_or_all():
    world = Deployment()
    everything = [{"cell": "c0", "ready": True, "reason": ""},
                  {"cell": "c1", "ready": True, "reason": ""}]  # fmt: skip
    assert ask(world.app, "GET", "/readyz?all=1").json() == {"ready": True, "cells": everything}
    world.cells["c1"][2].ready = False
    answer = ask(world.app, "GET", "/readyz").json()
    assert [cell["ready"] for cell in answer["cells"]] == [True, False]
    assert "catching up" in answer["cells"][1]["reason"]
    document = problem(ask(world.app, "GET", "/readyz?all=1"), 503)
    assert [cell["ready"] for cell in document["cells"]] == [True, False]
    world.down.add("c0")
    assert problem(ask(world.app, "GET", "/readyz"), 503)["ready"] is False


def test_readyz_tells_that_the_process_drains():
    world = Deployment(not_ready=lambda: "SIGTERM")
    document = problem(ask(world.app, "GET", "/readyz"), 503)
    assert "SIGTERM" in document["detail"]
    assert len(document["cells"]) == 2


def test_readyz_wants_publishing_until_an_append_works_again():
    world = Deployment()
    event = {"type": "follow", "reader": "1", "author": "7"}
    world.publisher.full = True
    problem(ask(world.app, "POST", "/v1/events", json=event), 503)
    assert "no space" in problem(ask(world.app, "GET", "/readyz"), 503)["detail"]
    world.publisher.full = False
    assert ask(world.app, "POST", "/v1/events", json=event).status_code == 201
    assert ask(world.app, "GET", "/readyz").is_success


def test_readyz_forgets_an_old_trouble(monkeypatch):
    world = Deployment()
    world.publisher.full = True
    event = {"type": "follow", "reader": "1", "author": "7"}
    problem(ask(world.app, "POST", "/v1/events", json=event), 503)
    monkeypatch.setattr("topics.http_publish.PUBLISH_TROUBLE_S", 0)
    assert ask(world.app, "GET", "/readyz").is_success


def test_status_merges_the_cells_and_names_the_missing():
    world = Deployment(details=lambda: {"firehose": {"partitions": 4}})
    world.down.add("c1")
    answer = ask(world.app, "GET", "/v1/admin/status").json()
    assert [cell["name"] for cell in answer["cells"]] == ["fake"]
    assert [gone["cell"] for gone in answer["missing"]] == ["c1"]
    assert answer["firehose"] == {"partitions": 4}
    assert answer["directory_version"] == 3


def test_explain_asks_every_cell_and_names_the_missing():
    world = Deployment()
    world.down.add("c1")
    answer = ask(world.app, "GET", "/v1/admin/authors/7").json()
    assert answer["author"] == "7"
    assert [(cell["cell"], cell["author"]) for cell in answer["cells"]] == [("fake", "7")]
    assert [gone["cell"] for gone in answer["missing"]] == ["c1"]
    problem(ask(world.app, "GET", "/v1/admin/authors/-7"), 400)


# --- the proxy itself ---


class ScriptedPool:
    """Answers, or raises, what `outcome(url)` says."""

    def __init__(self, url: str, outcome) -> None:
        self.url = url
        self.outcome = outcome

    async def ask(self, request: Request, timeout_s: float) -> Answer:
        found = self.outcome(self.url)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        pass


def ask_scripted(outcome, locate=lambda cell: "http://127.0.0.1:9") -> Answer:
    proxy = CellProxy(locate, lambda url: ScriptedPool(url, outcome))
    return asyncio.run(proxy.ask("c0", "GET", "/healthz"))


def test_a_restarted_cell_is_found_on_its_new_port_within_one_request():
    located = []

    def locate(cell: str) -> str:
        located.append(cell)
        return f"http://127.0.0.1:{len(located)}"

    def outcome(url: str) -> Answer | Exception:
        return ConnectionRefusedError() if url.endswith(":1") else Answer(200, {}, b"{}")

    assert ask_scripted(outcome, locate).status == 200
    assert len(located) == 2


def test_a_hung_cell_is_unavailable_and_not_asked_again():
    asked = []

    def outcome(url: str) -> Exception:
        asked.append(url)
        return TimeoutError()

    with pytest.raises(Unavailable, match="c0"):
        ask_scripted(outcome)
    assert len(asked) == 1


def test_a_cell_that_breaks_off_twice_is_unavailable():
    with pytest.raises(Unavailable, match="c0"):
        ask_scripted(lambda url: ConnectionResetError())


def test_waiting_requests_leave_half_of_the_connections_to_the_others():
    """64 of them filled the pool, and nobody else got a page of that cell."""
    server, _, _ = make_cell("c0")
    with live(server.app) as port:
        world = Deployment()
        proxy = CellProxy(lambda name: f"http://127.0.0.1:{port}")
        gateway = Gateway(
            Guard("127.0.0.1"), world.publisher, world.ids, world._load_homes, proxy, world.streams
        )

        async def scenario(url: str) -> None:
            limits = httpx.Limits(max_connections=100)
            async with httpx.AsyncClient(
                base_url=url, trust_env=False, limits=limits, timeout=20
            ) as client:
                late = {"after": "1:7", "wait_ms": "3000"}
                waiting = [asyncio.create_task(client.get(EVEN, params=late)) for _ in range(80)]
                refused, _ = await asyncio.wait(waiting, timeout=1.5)
                assert len(refused) == 80 - PROXY_WAITING_PER_CELL_MAX
                answer = refused.pop().result()
                assert problem(answer, 503)["cell"] == "c0"
                assert answer.headers["retry-after"] == "1"
                async with asyncio.timeout(1):
                    assert (await client.get(EVEN)).is_success
                await asyncio.wait(waiting)
                assert (await client.get(EVEN, params=late | {"wait_ms": "0"})).status_code == 503
                assert not +proxy._waiting

        with live(gateway.app) as own:
            asyncio.run(scenario(f"http://127.0.0.1:{own}"))
    assert PROXY_WAITING_PER_CELL_MAX == PROXY_CONNECTIONS_PER_CELL_MAX // 2


def test_refusals_in_a_few_words():
    assert refusal(Unavailable("gone")) == "gone"
    assert refusal(Answer(500, {}, b"<html>")) == "status 500"
    assert refusal(Answer(503, {}, b'{"detail": "starting"}')) == "starting"
    assert refusal(Answer(503, {}, b'["x"]')) == "status 503"


def test_over_sockets_and_a_cell_that_dies_meanwhile():
    """The real client on real ports: keep-alive, death, 503, return on another port."""
    world = Deployment()
    ports: dict[str, int] = {}
    world.gateway._proxy = CellProxy(
        lambda cell: f"http://127.0.0.1:{ports[cell]}" if cell in ports else None
    )
    with live(world.app) as port, httpx.Client(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}{EVEN}"
        assert client.get(url).status_code == 503
        for _ in range(2):
            server, _, _ = make_cell()
            with live(server.app) as ports["c0"]:
                for _ in range(3):
                    assert client.get(url).json()["cell"] == "c0"
            assert client.get(url).status_code == 503
            assert client.get(f"http://127.0.0.1:{port}/v1/ids").is_success
