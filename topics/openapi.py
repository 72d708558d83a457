"""`/openapi.json`: OpenAPI 3.1 from the route table and the msgspec types. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from engine import wire
from topics.http_body import JSON_TYPE, NDJSON_TYPE
from topics.http_problem import PROBLEM_TYPE
from topics.http_routes import Answer, Route, routes_of

_REFERENCE = "#/components/schemas/{name}"
_NAMED = re.compile(r"\{(\w+)\}")
_ALWAYS = (401, 403, 500)  # problems that any route may answer


def document(role: str, version: str) -> dict[str, Any]:
    """The document of a process of this role, JSON-ready."""
    routes = routes_of(role)
    types = _types(routes)
    shapes, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schemas = dict(zip(types, shapes, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Firecell {role}", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(routes: tuple[Route, ...]) -> list[Any]:
    found: list[Any] = [wire.Problem]
    for route in routes:
        contents = [route.body, *(answer.content for answer in route.answers.values())]
        for content in contents:
            for kind in content.values():
                if kind is not None and kind not in found:
                    found.append(kind)
    return found


def _operation(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _NAMED.findall(route.path)
    ]
    parameters += [
        {
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "schema": dict(parameter.schema),
        }
        for parameter in route.parameters
    ]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "parameters": parameters,
        "responses": _responses(route, schemas),
    }
    if route.body:
        operation["requestBody"] = {"required": True, "content": _content(route.body, schemas)}
    if route.scope:
        # Loopback without tokens needs none, hence the empty alternative.
        operation["security"] = [{"bearer": [route.scope]}, {}]
    return operation


def _responses(route: Route, schemas: Mapping[Any, Any]) -> dict[str, Any]:
    answers = {
        str(status): {"description": answer.about, "content": _content(answer.content, schemas)}
        for status, answer in route.answers.items()
    }
    problem = Answer("", {PROBLEM_TYPE: wire.Problem})
    for status in sorted({*route.problems, *_ALWAYS}):
        answers[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": _content(problem.content, schemas),
        }
    return answers


def _content(content: Mapping[str, Any], schemas: Mapping[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for media, kind in content.items():
        plain = {"type": "object"} if media in (JSON_TYPE, NDJSON_TYPE) else {"type": "string"}
        found[media] = {"schema": plain if kind is None else schemas[kind]}
    return found
