"""POST /v1/events and GET /v1/ids: results per line, in order; bounds; content types."""

from __future__ import annotations

import json

import pytest

from engine.errors import DiskFull, Unavailable
from engine.events import Post
from engine.limits import BATCH_EVENTS_MAX, EVENT_BYTES_MAX
from tests.topics.http_fakes import NDJSON, Deployment, ask, problem

POST = {"type": "post", "author": "7", "text": "hello"}


def publish(world: Deployment, body: object, **options):
    return ask(world.app, "POST", "/v1/events", json=body, **options)


def test_post_answers_201_with_id_position_and_time():
    world = Deployment()
    response = publish(world, POST)
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer == {"id": "100", "position": "3:0", "at": "2023-11-14T22:13:20.000Z"}
    assert isinstance(world.publisher.kept[0], Post)


def test_an_event_that_is_no_post_has_no_id():
    response = publish(Deployment(), {"type": "follow", "reader": "1", "author": "7"})
    assert response.status_code == 201
    assert response.json()["id"] is None


def test_callers_time_is_shown():
    response = publish(Deployment(), {**POST, "at": "2026-01-31T12:00:00Z"})
    assert response.json()["at"] == "2026-01-31T12:00:00.000Z"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**POST, "colour": "red"}, "colour"),
        ({"type": "shout", "author": "7"}, "type"),
        ({"type": "post", "text": "x"}, "author"),
        ({**POST, "author": "-1"}, "author"),
        ({**POST, "author": str(2**64)}, "author"),
        ({**POST, "text": 5}, "text"),
        ([POST], "type"),
    ],
)
def test_bad_event_is_400_that_names_the_field(body, field):
    world = Deployment()
    document = problem(publish(world, body), 400)
    assert field in document.get("field", "") or field in document["detail"]
    assert not world.publisher.kept


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"null", b'"post"', b'{"type":"post"} x'])
def test_malformed_json_is_400(raw):
    response = ask(
        Deployment().app, "POST", "/v1/events", content=raw,
        headers={"content-type": "application/json"},
    )  # fmt: skip
    problem(response, 400)


def test_deeply_nested_json_is_400():
    nested = b'{"type":"post","author":"7","tags":' + b"[" * 60_000 + b"]" * 60_000 + b"}"
    response = ask(
        Deployment().app, "POST", "/v1/events", content=nested,
        headers={"content-type": "application/json"},
    )  # fmt: skip
    problem(response, 400)


def test_an_id_from_the_future_is_422():
    document = problem(publish(Deployment(), {**POST, "id": str(2**63 - 1)}), 422)
    assert document["type"] == "urn:firecell:problem:unprocessable"


def test_one_event_that_is_too_large_is_413():
    problem(publish(Deployment(), {**POST, "text": "x" * EVENT_BYTES_MAX}), 413)


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_content_types_and_encodings_are_415(headers):
    world = Deployment()
    body = json.dumps(POST).encode()
    problem(ask(world.app, "POST", "/v1/events", content=body, headers=headers), 415)
    assert not world.publisher.kept


def test_content_type_may_name_utf_8():
    headers = {"content-type": 'Application/JSON; charset="UTF-8"'}
    response = ask(
        Deployment().app, "POST", "/v1/events", content=json.dumps(POST).encode(), headers=headers
    )
    assert response.status_code == 201


def test_dependency_failures_are_503_with_retry_after():
    world = Deployment()
    world.publisher.failure = Unavailable("the queue is full", retry_after_s=7)
    response = publish(world, POST)
    problem(response, 503)
    assert response.headers["retry-after"] == "7"
    world.publisher.failure = DiskFull("no space left")
    assert problem(publish(world, POST), 503)["type"] == "urn:firecell:problem:disk-full"


def test_a_commit_that_hangs_is_503_and_says_how_to_retry(monkeypatch):
    monkeypatch.setattr("topics.http_publish.PUBLISH_WAIT_S", 0.05)
    world = Deployment()
    world.publisher.stuck = True
    assert "same author and id" in problem(publish(world, POST), 503)["detail"]


# --- NDJSON ---


def batch(world: Deployment, body: bytes) -> list[dict]:
    response = ask(world.app, "POST", "/v1/events", content=body, headers=NDJSON)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.content.endswith(b"\n") or not response.content
    return [json.loads(line) for line in response.content.splitlines()]


def test_one_result_line_per_line_in_order_bad_ones_beside_good_ones():
    world = Deployment()
    lines = [
        json.dumps(POST),
        "{nonsense",
        json.dumps({**POST, "author": "8"}),
        "",
        json.dumps({**POST, "bad": 1}),
        json.dumps({**POST, "id": str(2**63 - 1)}),
        json.dumps({"type": "follow", "reader": "1", "author": "7"}),
    ]
    results = batch(world, "\n".join(lines).encode() + b"\n")
    kinds = [result["error"]["status"] if "error" in result else result["position"]
             for result in results]  # fmt: skip
    assert kinds == ["3:0", 400, "0:1", 400, 400, 422, "3:2"]
    assert results[4]["error"]["field"] == "bad"
    assert len(world.publisher.kept) == 3


def test_last_line_needs_no_line_end_and_carriage_returns_are_blanks():
    body = json.dumps(POST).encode() + b"\r\n" + json.dumps(POST).encode()
    assert [r["id"] for r in batch(Deployment(), body)] == ["100", "101"]


def test_an_empty_batch_has_no_results():
    assert batch(Deployment(), b"") == []


def test_a_line_that_is_too_large_is_refused_alone():
    big = json.dumps({**POST, "text": "x" * EVENT_BYTES_MAX})
    results = batch(Deployment(), f"{big}\n{json.dumps(POST)}".encode())
    assert results[0]["error"]["status"] == 413
    assert results[1]["id"] == "100"


def test_more_lines_than_a_batch_may_have_are_413_and_none_is_kept():
    world = Deployment()
    body = b"{}\n" * (BATCH_EVENTS_MAX + 1)
    problem(ask(world.app, "POST", "/v1/events", content=body, headers=NDJSON), 413)
    assert not world.publisher.kept


def test_a_whole_batch_of_the_largest_count_is_answered_in_order():
    count = 5_000
    body = b"".join(b'{"type":"post","author":"%d"}\n' % number for number in range(count))
    results = batch(Deployment(), body)
    assert [int(result["id"]) for result in results] == list(range(100, 100 + count))


def test_a_batch_that_no_queue_takes_is_503():
    world = Deployment()
    world.publisher.failure = Unavailable("the queue is full")
    body = json.dumps(POST).encode()
    problem(ask(world.app, "POST", "/v1/events", content=body, headers=NDJSON), 503)


# --- ids ---


def test_ids_are_decimal_strings():
    world = Deployment()
    assert ask(world.app, "GET", "/v1/ids").json() == {"ids": ["1"]}
    assert ask(world.app, "GET", "/v1/ids?count=3").json() == {"ids": ["2", "3", "4"]}


@pytest.mark.parametrize(
    "query",
    ["count=0", "count=10001", "count=x", "count=-1", "n=1", "count=", "count=1&count=2",
     "count", "count=%31%00", "count=1e3"],
)  # fmt: skip
def test_bad_counts_are_400_that_name_the_parameter(query):
    document = problem(ask(Deployment().app, "GET", f"/v1/ids?{query}"), 400)
    assert document["field"] == query[: 1 if query.startswith("n") else 5]


def test_percent_encoding_is_understood():
    assert len(ask(Deployment().app, "GET", "/v1/ids?co%75nt=%32").json()["ids"]) == 2


def test_metrics_count_events_by_result():
    world = Deployment()
    batch(world, json.dumps(POST).encode() + b"\n{\n")
    text = ask(world.app, "GET", "/metrics").text
    assert 'firecell_publish_events_total{cell="",result="accepted",role="gateway"} 1.0' in text
    assert 'firecell_publish_events_total{cell="",result="refused",role="gateway"} 1.0' in text
