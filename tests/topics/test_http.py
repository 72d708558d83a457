"""The plumbing: routes and methods, problem documents, request ids, bodies on a real socket."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time

import httpx
import pytest

from engine.errors import BadInput, Corruption, RetentionPassed, TooLarge, Unavailable
from engine.limits import BATCH_BYTES_MAX, EVENT_BYTES_MAX
from tests.topics.http_fakes import Deployment, ask, live, make_cell, problem, raw_exchange
from topics.http_body import BodyBudget, split_lines
from topics.http_problem import problem_of
from topics.http_query import parse_query, position
from topics.http_routes import BOTH, routes_of

HEAD = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


def app_of(role: str):
    return Deployment().app if role == "gateway" else make_cell()[0].app


def fill(path: str) -> str:
    return path.replace("{id}", "2").replace("{user}", "2")


# --- routes and methods ---


@pytest.mark.parametrize(
    "path",
    ["/", "", "/v1", "/v1/", "/v1/events/", "/V1/events", "/v1/users/2", "/v1/users/2/dashboard/",
     "/v1/users/2/dashboard/streams", "/v1/users/2/notifications", "/v1/firehoses", "/docs",
     "/v1/groups/g/acks", "//v1/ids", "/v1/users/2%2Fdashboard/x", "/../etc/passwd", "/v1/%00"],
)  # fmt: skip
@pytest.mark.parametrize("role", BOTH)
def test_unknown_routes_are_404(role, path):
    problem(ask(app_of(role), "GET", path), 404)


@pytest.mark.parametrize(
    ("role", "route"), [(role, route) for role in BOTH for route in routes_of(role)]
)
def test_other_methods_are_405_with_allow(role, route):
    app = app_of(role)
    there = {other.method for other in routes_of(role) if other.path == route.path}
    for method in sorted({"OPTIONS", "DELETE", "PATCH", "TRACE", "BREW"} - there):
        response = ask(app, method, fill(route.path))
        problem(response, 405)
        assert route.method in response.headers["allow"].split(", ")
    response = ask(app, "HEAD", fill(route.path))
    assert (response.status_code, response.content) == (405, b"")
    assert route.method in response.headers["allow"].split(", ")


def test_a_gateway_has_no_cell_routes_and_a_cell_publishes_nothing():
    problem(ask(app_of("gateway"), "GET", "/v1/admin/inbox/2"), 404)
    problem(ask(app_of("gateway"), "GET", "/v1/admin/stats"), 404)
    problem(ask(app_of("cell"), "POST", "/v1/events", json={}), 404)


def test_version_names_role_and_format():
    for role in BOTH:
        answer = ask(app_of(role), "GET", "/version").json()
        assert (answer["name"], answer["role"], answer["format"]) == ("firecell", role, 1)
        assert answer["version"]


# --- problems ---


def test_problem_documents_carry_extras_but_keep_their_own_members():
    error = RetentionPassed("too old", floor={"0": 5}, status=200, type="x")
    assert problem_of(error) == {
        "type": "urn:firecell:problem:retention-passed",
        "title": "Gone",
        "status": 410,
        "detail": "too old",
        "floor": {"0": 5},
    }
    assert problem_of(TooLarge("big", "text"))["field"] == "text"
    assert problem_of(BadInput("bad", "x"))["status"] == 400


def test_details_of_our_own_failures_stay_in_the_log():
    document = problem_of(Corruption("key 0xfeed of /var/data", path="/var/data"))
    assert document["status"] == 500
    assert "feed" not in json.dumps(document)
    assert "/var" not in json.dumps(document)


def test_an_unexpected_error_is_500_and_the_process_goes_on():
    server, pages, _ = make_cell()
    pages.boom = True
    problem(ask(server.app, "GET", "/v1/users/2/dashboard"), 500)
    pages.boom = False
    assert ask(server.app, "GET", "/v1/users/2/dashboard").is_success


# --- request ids ---


@pytest.mark.parametrize("path", ["/v1/users/2/dashboard", "/healthz", "/nowhere"])
def test_a_short_printable_request_id_is_echoed(path):
    app = app_of("cell")
    assert ask(app, "GET", path, headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"


@pytest.mark.parametrize("wanted", ["", "x" * 65, "a b", "a\tb", "é", "a\x01"])
def test_other_request_ids_are_not_echoed(wanted):
    headers = {"x-request-id": wanted.encode()}
    response = ask(app_of("cell"), "GET", "/healthz", headers=headers)
    assert response.is_success
    assert "x-request-id" not in response.headers


# --- small parts ---


def test_lines_of_ndjson():
    assert split_lines(b"", 5) == []
    assert split_lines(b"a", 1) == [b"a"]
    assert split_lines(b"a\n", 1) == [b"a"]
    assert split_lines(b"a\n\n", 2) == [b"a", b""]
    assert split_lines(b"\na", 2) == [b"", b"a"]
    with pytest.raises(TooLarge):
        split_lines(b"a\nb", 1)


def test_query_values_are_decoded_once():
    assert parse_query(b"a=%2541&b=x+y", ("a", "b")) == {"a": "%41", "b": "x y"}
    for raw in (b"&", b"a=1&", b"a=%ff", b"%61=1&a=2", b"c=1", b"a"):
        with pytest.raises(BadInput):
            parse_query(raw, ("a", "b"))


def test_positions():
    assert position("3:17", "after", 4) == (3, 17)
    assert position(f"0:{2**64 - 1}", "after") == (0, 2**64 - 1)
    for text in ("4:0", "a:1", "1:", ":1", "1", "1:-1", "1:1 ", "٣:1", "0:" + "9" * 40):
        with pytest.raises(BadInput):
            position(text, "after", 4)


def test_bodies_share_a_budget():
    budget = BodyBudget(10)
    budget.take(6)
    with pytest.raises(Unavailable):
        budget.take(5)
    budget.give_back(6)
    budget.take(10)


# --- bodies on a socket ---


def test_a_declared_body_that_is_too_large_is_refused_before_it_is_sent(monkeypatch):
    monkeypatch.setattr("topics.http_body.HTTP_LINGER_S", 0.2)
    world = Deployment()
    with live(world.app) as port:
        head = b"POST /v1/events HTTP/1.1\r\n" + HEAD
        started = time.monotonic()
        answer = raw_exchange(port, head + b"Content-Length: 99999999999\r\n\r\n", 5)
        assert time.monotonic() - started < 4
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b"application/problem+json" in answer


def test_expect_100_is_not_encouraged_for_a_body_that_is_too_large(monkeypatch):
    monkeypatch.setattr("topics.http_body.HTTP_LINGER_S", 0.2)
    with live(Deployment().app) as port:
        head = b"POST /v1/events HTTP/1.1\r\nExpect: 100-continue\r\n" + HEAD
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(head + b"Content-Length: 99999999\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_chunked_body_is_refused_when_it_passes_the_bound():
    """The client still sends when it is refused, and sees the answer all the same."""
    world = Deployment()

    def endless():
        for _ in range(3 * BATCH_BYTES_MAX // 65_536):
            yield b"x" * 65_536

    with live(world.app) as port, httpx.Client(trust_env=False) as client:
        response = client.post(
            f"http://127.0.0.1:{port}/v1/events",
            content=endless(),
            headers={"content-type": "application/x-ndjson"},
        )
        problem(response, 413)
        again = client.get(f"http://127.0.0.1:{port}/healthz")
    assert again.is_success
    assert world.app._budget._left == BodyBudget()._left, "the budget was given back"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_refused_requests_do_not_poison_the_connection(method):
    """A body that nobody read must not be taken for the next request."""
    with live(Deployment().app) as port:
        inner = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        request = b"%s /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (
            method.encode(), len(inner),
        )  # fmt: skip
        answer = raw_exchange(port, request + inner, 1)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 404")


def test_a_slow_body_is_408(monkeypatch):
    monkeypatch.setattr("topics.http_body.HTTP_BODY_WAIT_S", 0.1)
    monkeypatch.setattr("topics.http_body.HTTP_LINGER_S", 0.1)
    with live(Deployment().app) as port:
        head = b"POST /v1/events HTTP/1.1\r\n" + HEAD + b"Content-Length: 50\r\n\r\n{"
        answer = raw_exchange(port, head, 5)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


def test_too_many_bodies_at_once_are_503():
    world = Deployment()
    world.app._budget = BodyBudget(10)
    response = ask(world.app, "POST", "/v1/events", json={"type": "post", "author": "7"})
    problem(response, 503)
    assert world.app._budget._left == 10


def test_large_headers_and_nonsense_end_the_connection_only():
    with live(make_cell()[0].app) as port:
        flood = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 70_000
        assert b" 431 " in raw_exchange(port, flood, 5)[:40]
        for nonsense in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET * HTTP/1.1\r\n\r\n"):
            assert b" 200 " not in raw_exchange(port, nonsense, 0.5)[:40]
        both = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n"
        smuggled = both + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert raw_exchange(port, smuggled, 0.5).startswith(b"HTTP/1.1 400")
        assert raw_exchange(port, b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )


def test_without_a_host_header_nobody_is_let_in():
    with live(make_cell()[0].app) as port:
        answer = raw_exchange(port, b"GET /v1/users/2/dashboard HTTP/1.0\r\n\r\n")
        assert b" 403 " in answer[:20]
        twice = b"GET /v1/users/2/dashboard HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n"
        assert b" 403 " in raw_exchange(port, twice, 0.5)[:20]


def test_pipelined_pages_come_in_order():
    with live(make_cell()[0].app) as port:
        one = b"GET /v1/users/%d/dashboard HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"
        answer = raw_exchange(port, b"".join(one % user for user in range(5)), 0.5)
    readers = re.findall(rb'"reader": "(\d)"', answer)
    assert readers == [b"0", b"1", b"2", b"3", b"4"]


def test_a_large_event_streams_in():
    world = Deployment()
    text = "x" * 60_000
    with live(world.app) as port, httpx.Client(trust_env=False) as client:
        response = client.post(
            f"http://127.0.0.1:{port}/v1/events",
            json={"type": "post", "author": "7", "text": text},
        )
    assert response.status_code == 201
    assert world.publisher.kept[0].text == text
    assert len(text) < EVENT_BYTES_MAX


def test_websockets_are_refused():
    sent = []

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    asyncio.run(app_of("cell")({"type": "websocket"}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
