"""Host, Origin, tokens, scopes, bounds per token: who is let in, and that nothing leaks."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from engine.errors import Misconfigured
from tests.topics.http_fakes import Deployment, ask, ask_within, make_cell, problem, status_of
from topics.http_routes import BOTH, ROUTES
from topics.security import Guard, is_loopback

POST = {"type": "post", "author": "7", "text": "body-marker"}


class FakeTokens:
    """token -> scopes."""

    def __init__(self, **known: str) -> None:
        self.known = {token: frozenset(scopes.split()) for token, scopes in known.items()}

    def check(self, token: str) -> frozenset[str] | None:
        return self.known.get(token)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "*"])
def test_an_open_address_without_tokens_refuses_to_start(host):
    with pytest.raises(Misconfigured, match="tokens"):
        Guard(host)
    Guard(host, FakeTokens(t="read"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_starts_without_tokens(host):
    assert is_loopback(host)
    Guard(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "LocalHost:99", "[::1]", "[::1]:8080"]
)
def test_own_hosts_are_let_in(host):
    server, _, _ = make_cell()
    assert ask(server.app, "GET", "/v1/users/2/dashboard", headers={"host": host}).is_success


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example",
     "127.0.0.1:x", "127.0.0.1:", "127.0.0.1:123456", "127.0.0.1@evil.example", "[::1]x", "", "::1",
     "192.168.1.5", "127.0.0.1:80:80"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/users/2/dashboard", "/healthz", "/nowhere"])
def test_foreign_hosts_are_403_even_when_asked_twice(host, path):
    server, pages, _ = make_cell()
    for _ in range(2):
        problem(ask(server.app, "GET", path, headers={"host": host}), 403)
    assert not pages.asked


def test_many_hosts_do_not_fill_the_memory():
    guard = Guard("127.0.0.1")
    server, _, _ = make_cell(guard=guard)

    async def flood() -> None:
        for number in range(200):
            await ask_within(server.app, "GET", "/healthz", headers={"host": f"h{number}.example"})

    asyncio.run(flood())
    assert len(guard._hosts) <= 64
    assert ask(server.app, "GET", "/healthz").is_success


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:3000", "http://127.0.0.1", "",
     "http://127.0.0.1:8080.evil.example"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/users/2/dashboard", "/v1/ids"])
def test_foreign_origins_are_403_without_cors_headers(origin, path):
    app = Deployment().app
    response = ask(app, "GET", path, headers={"origin": origin})
    problem(response, 403)
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_own_origin_is_let_in_without_cors_headers():
    response = ask(
        Deployment().app, "POST", "/v1/events", json=POST,
        headers={"origin": "http://127.0.0.1:8080"},
    )  # fmt: skip
    assert response.status_code == 201
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_preflights_are_refused():
    headers = {"origin": "http://127.0.0.1:8080", "access-control-request-method": "POST"}
    response = ask(Deployment().app, "OPTIONS", "/v1/events", headers=headers)
    problem(response, 405)
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_loopback_without_tokens_ignores_a_token():
    assert ask(Deployment().app, "GET", "/v1/ids", headers=bearer("any")).is_success


# --- tokens ---

_PATHS = [
    (route.method, route.path.replace("{id}", "2").replace("{user}", "2"), route.scope, role)
    for route in ROUTES
    for role in BOTH
    if role in route.roles
]


@pytest.mark.parametrize(("method", "path", "scope", "role"), _PATHS)
def test_each_route_wants_its_own_scope_and_no_other(method, path, scope, role):
    every = "publish stream read marker admin"
    tokens = FakeTokens(right=scope, wrong=every.replace(scope, ""), every=every)
    guard = Guard("0.0.0.0", tokens)
    app = Deployment(guard).app if role == "gateway" else make_cell(guard=guard)[0].app
    if not scope:
        assert ask(app, method, path).status_code == 200
        return
    response = ask(app, method, path)
    problem(response, 401)
    assert response.headers["www-authenticate"].startswith("Bearer")
    problem(ask(app, method, path, headers=bearer("unknown")), 401)
    document = problem(ask(app, method, path, headers=bearer("wrong")), 403)
    assert document["scope"] == scope
    for token in ("right", "every"):
        assert status_of(app, method, path, bearer(token)) not in (401, 403)


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer ", "Basic dDp0", "right", "Bearer\tright", "bearer  "]
)
def test_malformed_authorization_is_401(value):
    app = Deployment(Guard("0.0.0.0", FakeTokens(right="publish"))).app
    problem(ask(app, "GET", "/v1/ids", headers={"authorization": value}), 401)


def test_two_authorization_headers_are_401():
    app = Deployment(Guard("0.0.0.0", FakeTokens(right="publish"))).app
    headers = [("authorization", "Bearer right"), ("authorization", "Bearer wrong")]
    problem(ask(app, "GET", "/v1/ids", headers=headers), 401)


def test_scheme_is_case_insensitive_and_any_host_may_be_named_with_a_token():
    app = Deployment(Guard("0.0.0.0", FakeTokens(right="publish"))).app
    headers = {"authorization": "bEARER right", "host": "feed.example", "origin": "https://a.b"}
    assert ask(app, "GET", "/v1/ids", headers=headers).is_success


def test_gateway_hands_the_callers_token_to_the_cell():
    guard = Guard("0.0.0.0", FakeTokens(right="read"))
    assert ask(Deployment(guard).app, "GET", "/v1/users/2/dashboard",
               headers=bearer("right")).json()["cell"] == "c0"  # fmt: skip


def test_one_token_holds_only_so_much_at_once(monkeypatch):
    monkeypatch.setattr("topics.security.CONNECTIONS_PER_TOKEN_MAX", 2)
    guard = Guard("0.0.0.0", FakeTokens(one="read", two="read"))
    server, _, _ = make_cell(guard=guard)
    slow = "/v1/users/2/dashboard?after=0:5&wait_ms=300"

    async def crowd() -> list[httpx.Response]:
        asking = [ask_within(server.app, "GET", slow, headers=bearer("one")) for _ in range(3)]
        other = ask_within(server.app, "GET", "/v1/users/2/dashboard", headers=bearer("two"))
        return list(await asyncio.gather(*asking, other))

    first, second, third, other = asyncio.run(crowd())
    assert (first.status_code, second.status_code) == (503, 503)
    problem(third, 429)
    assert third.headers["retry-after"] == "1"
    assert other.is_success
    assert not guard._held, "every place was given back"
    assert ask(server.app, "GET", "/v1/users/2/dashboard", headers=bearer("one")).is_success


def test_logs_and_answers_hold_no_tokens_and_no_bodies(caplog):
    guard = Guard("0.0.0.0", FakeTokens(tokenmarker="read publish"))
    world = Deployment(guard)
    server, pages, _ = world.cells["c0"]
    pages.boom = True
    world.publisher.failure = RuntimeError(f"{POST} {bearer('tokenmarker')}")
    with caplog.at_level(logging.DEBUG):
        crash = ask(server.app, "GET", "/v1/users/2/dashboard", headers=bearer("tokenmarker"))
        publish = ask(world.app, "POST", "/v1/events", json=POST, headers=bearer("tokenmarker"))
    for response in (crash, publish):
        document = problem(response, 500)
        assert "secret" not in response.text
        assert "marker" not in response.text
        assert "log" in document["detail"]
    failures = [record for record in caplog.records if record.name == "firecell.http"]
    assert len(failures) == 2
    logged = "\n".join(record.getMessage() for record in failures)
    assert "RuntimeError" in logged
    for secret in ("tokenmarker", "body-marker", "secret-in-a-message"):
        assert secret not in logged
