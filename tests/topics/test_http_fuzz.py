"""Whatever comes in: a status below 500, a problem document when it is refused, no result lost."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote, urlencode

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.topics.http_fakes import NDJSON, Deployment, ask, make_cell
from topics.http_routes import ROUTES, Route

_PIECES = st.one_of(
    st.sampled_from(["v1", "users", "posts", "dashboard", "1", "events", "ids", "admin", "..", ""]),
    st.text(max_size=12),
    st.integers(-(2**70), 2**70).map(str),
)


def _is_endless(route: Route) -> bool:
    """Streams have tests of their own: they are answered for as long as somebody listens."""
    return route.name in ("dashboard_stream", "firehose")


_PATHS = st.one_of(
    st.lists(_PIECES, max_size=6).map(lambda pieces: "/" + "/".join(pieces)),
    st.tuples(st.sampled_from([route for route in ROUTES if not _is_endless(route)]), _PIECES).map(
        lambda pair: pair[0].path.replace("{id}", pair[1]).replace("{user}", pair[1])
    ),
)
_NAMES = sorted({parameter.name for route in ROUTES for parameter in route.parameters})
_QUERIES = st.lists(
    st.tuples(st.one_of(st.sampled_from(_NAMES), st.text(max_size=6)), _PIECES), max_size=4
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
_KINDS = ["post", "edit", "delete", "follow", "like", "block", "shout"]
_EVENTS = st.one_of(
    _JSON.map(json.dumps),
    st.text(max_size=30),
    st.fixed_dictionaries(
        {"type": st.sampled_from(_KINDS)},
        optional={
            name: st.one_of(_JSON, st.integers(0, 2**64).map(str))
            for name in ("author", "reader", "post", "id", "at", "text", "tags", "mentions")
        },
    ).map(json.dumps),
)


_CELL = make_cell()[0].app
_WORLD = Deployment()


def check(response) -> None:
    assert response.status_code < 500 or response.status_code == 503, response.text
    if response.status_code >= 400 and response.request.method != "HEAD":
        document = response.json()
        assert document["status"] == response.status_code
        assert document["detail"]


@settings(max_examples=150)
@given(path=_PATHS, query=_QUERIES, method=st.sampled_from(["GET", "PUT", "POST", "HEAD", "X"]))
def test_any_request_is_answered_fuzz(path, query, method):
    try:
        url = quote(path, safe="/")
        encoded = urlencode(query)
    except UnicodeEncodeError:
        return  # a lone surrogate: no client can send it
    for app in (_CELL, _WORLD.app):
        check(ask(app, method, f"{url}?{encoded}", json={"post": "1"}))


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_query_bytes_are_answered_fuzz(raw):
    raw = raw.replace(b"#", b"").replace(b"\n", b"").replace(b"\r", b"")
    server, _, _ = make_cell()
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/users/2/dashboard", "query_string": raw,
        "headers": [(b"host", b"127.0.0.1")],
    }  # fmt: skip
    asyncio.run(server.app(scope, receive, send))
    assert sent[0]["status"] in (200, 400, 503)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    assert int(dict(sent[0]["headers"])[b"content-length"]) == len(body)


@settings(max_examples=100)
@given(st.lists(_EVENTS.map(lambda text: text.replace("\n", " ")), max_size=8))
def test_every_line_has_its_result_in_order_fuzz(lines):
    world = Deployment()
    body = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")
    response = ask(world.app, "POST", "/v1/events", content=body, headers=NDJSON)
    assert response.status_code == 200
    results = [json.loads(line) for line in response.content.splitlines()]
    assert len(results) == len(lines)
    good = [result for result in results if "error" not in result]
    assert [int(result["position"].split(":")[1]) for result in good] == list(range(len(good)))
    assert len(world.publisher.kept) == len(good)
    for result in results:
        if "error" in result:
            assert 400 <= result["error"]["status"] < 500
    for line, result in zip(lines, results, strict=True):
        if not result.get("error"):
            single = ask(world.app, "POST", "/v1/events", content=line.encode("utf-8"),
                         headers={"content-type": "application/json"})  # fmt: skip
            assert single.status_code == 201
