"""The route table, the processes and `/openapi.json` say the same; each route of it answers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.topics.http_fakes import NDJSON, Deployment, ask, make_cell
from topics.http_routes import BOTH, CELL, GATEWAY, ROUTES, Route, routes_of
from topics.tokens import SCOPES

BODIES: dict[str, dict[str, Any]] = {
    "events": {"json": {"type": "post", "author": "2", "text": "x"}},
    "marker": {"json": {"post": "5"}},
    "job_start": {"json": {"kind": "replay", "since": "2h"}},
    "rewind": {"json": {"to_earliest": True}},
}
QUERIES = {"firehose": "?until=2020-01-01T00:00:00Z"}  # it ends at once
_METHODS = ("get", "put", "post", "delete")


def app_of(role: str) -> Any:
    if role == GATEWAY:
        world = Deployment()
        world.log.commit("2", {0: 0})
        for _, pages, _ in world.cells.values():
            pages.known = {2: 2}
        return world.app
    server, pages, _ = make_cell()
    pages.known = {2: 2}
    return server.app


def document_of(role: str) -> dict[str, Any]:
    response = ask(app_of(role), "GET", "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    return found


def fill(path: str) -> str:
    return re.sub(r"\{\w+\}", "2", path)


@pytest.mark.parametrize(
    ("role", "route"), [(role, route) for role in BOTH for route in routes_of(role)]
)
def test_each_route_answers_as_the_table_says(role: str, route: Route):
    if route.name in ("ack", "dashboard_stream"):  # they need a stream that lives, and have tests
        return
    path = fill(route.path) + QUERIES.get(route.name, "")
    response = ask(app_of(role), route.method, path, **BODIES.get(route.name, {}))
    assert response.status_code in route.answers, response.text
    media = response.headers["content-type"].split(";")[0]
    assert media in route.answers[response.status_code].content


@pytest.mark.parametrize("role", BOTH)
def test_the_document_has_exactly_the_roles_routes(role: str):
    document = document_of(role)
    assert document["openapi"] == "3.1.0"
    found = {
        (method, path)
        for path, operations in document["paths"].items()
        for method in operations
        if method in _METHODS
    }
    assert found == {(route.method.lower(), route.path) for route in routes_of(role)}


@pytest.mark.parametrize("role", BOTH)
def test_every_reference_resolves_and_operations_are_named_once(role: str):
    document = document_of(role)
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references
    assert references <= document["components"]["schemas"].keys()
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("role", BOTH)
def test_parameters_and_scopes_come_from_the_table(role: str):
    document = document_of(role)
    for route in routes_of(role):
        operation = document["paths"][route.path][route.method.lower()]
        query = {entry["name"] for entry in operation["parameters"] if entry["in"] == "query"}
        assert query == route.allowed
        in_path = {entry["name"] for entry in operation["parameters"] if entry["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", route.path))
        if route.scope:
            assert operation["security"][0] == {"bearer": [route.scope]}
        else:
            assert "security" not in operation
        for status in route.problems:
            assert "application/problem+json" in operation["responses"][str(status)]["content"]


def test_events_list_every_kind_and_batches():
    document = document_of(GATEWAY)
    content = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "application/x-ndjson"}
    kinds = set(content["application/json"]["schema"]["discriminator"]["mapping"])
    assert kinds == {"post", "edit", "delete", "follow", "unfollow", "like", "unlike",
                     "block", "unblock", "mute", "unmute"}  # fmt: skip
    results = ask(app_of(GATEWAY), "POST", "/v1/events", content=b"{}\n", headers=NDJSON)
    assert results.status_code == 200


def test_table_names_known_scopes_and_each_route_once():
    assert {route.scope for route in ROUTES} <= {"", *SCOPES}
    names = [route.name for route in ROUTES]
    assert len(names) == len(set(names))
    assert {role for route in ROUTES for role in route.roles} == {GATEWAY, CELL}
    assert not any("notifications" in route.path for route in ROUTES)
