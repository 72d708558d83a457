"""The stream over HTTP without a group: where it begins and ends, formats, gaps, every refusal."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from engine.times import format_ms
from tests.topics.http_fakes import Deployment, ask, problem
from tests.topics.memory_log import DAY_MS, START_MS
from tests.topics.taps import Tap, eventually, gateway
from topics.client import Consumer

HOUR_MS = 3_600_000


@pytest.fixture
def served() -> Iterator[tuple[Deployment, str]]:
    with gateway() as found:
        yield found


def vector(*offsets: int) -> str:
    return ",".join(f"{partition}:{offset}" for partition, offset in enumerate(offsets))


def test_replay_goes_over_into_live_without_a_gap(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(0, "one", "two")
    tap = Tap(url, since="earliest")
    tap.wait(2)
    world.log.say(0, "three")
    world.log.say(3, "four")
    tap.wait(4)
    assert sorted(tap.texts()) == ["four", "one", "three", "two"]
    assert [e["position"] for e in tap.events() if e["position"][0] == "0"] == ["0:0", "0:1", "0:2"]
    hello = tap.controls("hello")[0]
    assert hello["positions"] == {"0": 0, "1": 0, "2": 0, "3": 0}
    tap.cut()
    eventually(lambda: world.streams.counts.open == 0, "the stream is given up")


def test_without_since_only_what_comes(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(1, "before")
    tap = Tap(url)
    assert tap.controls("hello") or tap.session
    world.log.say(1, "after")
    assert tap.wait(1)[0]["text"] == "after"
    tap.cut()


def test_a_vector_starts_at_its_offsets(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(2, "a", "b", "c")
    world.log.now_ms += 5_000
    tap = Tap(url, since=vector(0, 0, 1, 0), until=format_ms(world.log.now_ms - 2_000)).until_end()
    assert tap.texts() == ["b", "c"]
    assert tap.controls("end")[0] | {"session": ""} == {
        "control": "end", "cause": "until", "session": "",
        "positions": {"0": 0, "1": 0, "2": 3, "3": 0},
    }  # fmt: skip


def test_since_and_until_cut_by_append_time(served: tuple[Deployment, str]):
    world, url = served
    for hour in range(5):
        world.log.now_ms = START_MS + hour * HOUR_MS
        world.log.say(hour % 4, f"hour {hour}")
    world.log.now_ms += 10_000
    since, until = format_ms(START_MS + HOUR_MS), format_ms(START_MS + 3 * HOUR_MS)
    assert sorted(Tap(url, since=since, until=until).until_end().texts()) == ["hour 1", "hour 2"]
    assert len(Tap(url, since="2h", until="5s").until_end().texts()) == 2


def test_until_in_the_future_ends_by_the_clock_events_or_none(served: tuple[Deployment, str]):
    world, url = served
    until = format_ms(world.log.now_ms + 2_000)
    tap = Tap(url, since="earliest", until=until)
    world.log.say(0, "in time")
    tap.wait(1)
    world.log.now_ms += 2_500
    world.log.say(0, "too late")
    assert not tap.ended.wait(0.3)  # an append may be under way that took its time before
    world.log.now_ms += 1_000
    assert tap.until_end().texts() == ["in time"]
    assert tap.controls("end")[0]["positions"]["0"] == 1


def test_server_sent_events_resume_by_last_event_id(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(1, "a", "b")
    world.log.say(2, "c")
    past = format_ms(world.log.now_ms)
    world.log.now_ms += 60_000
    tap = Tap(url, since="earliest", until=past, headers={"accept": "text/event-stream"})
    assert tap.answer.headers["content-type"].startswith("text/event-stream")
    assert tap.until_end().lines[0] == b"event: control"
    tap = Tap(url, since="earliest", until=format_ms(world.log.now_ms - 5_000), format="sse")
    blocks = b"\n".join(tap.until_end().lines).split(b"\n\n")
    found = []
    for block in blocks:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if line)
        if fields and b"event" not in fields:
            found.append((fields[b"id"].decode(), json.loads(fields[b"data"])["text"]))
    assert found == [
        (vector(0, 1, 0, 0), "a"),
        (vector(0, 2, 0, 0), "b"),
        (vector(0, 2, 1, 0), "c"),
    ]
    again = Tap(url, since="earliest", headers={"last-event-id": found[0][0]})
    again.wait(2)
    assert sorted(again.texts()) == ["b", "c"]
    again.cut()


def test_filters_and_the_place_they_leave(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(0, "x", "y")
    world.log.say(1, "z")
    world.log.now_ms += 60_000
    tap = Tap(url, since="earliest", until="5s", authors="1", types="post").until_end()
    assert tap.texts() == ["z"]
    assert tap.controls("end")[0]["positions"] == {"0": 2, "1": 1, "2": 0, "3": 0}
    assert Tap(url, since="earliest", until="5s", types="like").until_end().events() == []


def test_gzip_is_written_as_it_comes(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(0, "squeezed")
    state = zlib.decompressobj(31)
    with httpx.stream("GET", f"{url}/v1/firehose?since=earliest", trust_env=False,
                      headers={"accept-encoding": "gzip"}) as answer:  # fmt: skip
        assert answer.headers["content-encoding"] == "gzip"
        text = b""
        for piece in answer.iter_raw():
            text += state.decompress(piece)
            if b"squeezed" in text:
                break


def test_heartbeats_carry_the_place(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.stream.STREAM_HEARTBEAT_S", 0.1)
    with gateway() as (world, url):
        tap = Tap(url, types="like")
        eventually(lambda: tap.controls("heartbeat"), "a heartbeat")
        world.log.say(0, "filtered out")
        eventually(lambda: tap.controls("heartbeat")[-1]["positions"]["0"] == 1, "it moves")
        tap.cut()


def test_below_the_floor_is_gone_or_a_gap(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(0, "old", "older", "kept")
    world.log.say(1, "whole")
    world.log.drop(0, 2)
    refused = httpx.get(f"{url}/v1/firehose", params={"since": vector(1, 0, 0, 0)})
    document = problem(refused, 410)
    assert document["floor"] == vector(2, 0, 0, 0)
    world.log.now_ms += 60_000
    tap = Tap(url, since=vector(1, 0, 0, 0), clamp="true", until="5s").until_end()
    assert sorted(tap.texts()) == ["kept", "whole"]
    lost = tap.controls("gap")[0]["gaps"]
    assert [(gap["partition"], gap["from_offset"], gap["to_offset"]) for gap in lost] == [(0, 1, 2)]


def test_a_time_older_than_the_retention_is_gone_only_if_something_was_dropped(
    served: tuple[Deployment, str],
):
    world, url = served
    world.log.say(0, "first")
    world.log.now_ms += 8 * DAY_MS
    world.log.say(0, "second")
    world.log.now_ms += 60_000
    old = {"since": "9d", "until": "5s"}
    assert Tap(url, **old).until_end().texts() == ["first", "second"]
    world.log.drop(0, 1)
    problem(httpx.get(f"{url}/v1/firehose", params=old), 410)
    tap = Tap(url, clamp="true", **old).until_end()
    assert tap.texts() == ["second"]
    assert tap.controls("gap")[0]["gaps"][0]["to_offset"] == 1
    assert Tap(url, since="6d", until="5s").until_end().texts() == ["second"]


def test_a_parked_stream_that_the_retention_overtakes_is_told(served: tuple[Deployment, str]):
    world, url = served
    for clamp in ("false", "true"):
        tap = Tap(url, clamp=clamp)
        assert tap.session
        end = world.log.end_offsets()[0]
        world.log.drop(0, end + 2)  # before the stream has looked
        world.log.say(0, "lost", "lost", "kept")
        if clamp == "true":
            assert tap.wait(1)[0]["text"] == "kept"
            assert tap.controls("gap")[0]["gaps"][0]["to_offset"] == end + 2
            tap.cut()
        else:
            error = tap.until_end().controls("error")[0]["problem"]
            assert (error["status"], error["floor"]) == (410, f"0:{end + 2}")


def test_a_log_that_is_away_is_waited_for(served: tuple[Deployment, str]):
    world, url = served
    tap = Tap(url)
    assert tap.session
    world.log.broken = True
    world.log.say(0, "late")
    time.sleep(0.3)
    assert tap.events() == []
    world.log.broken = False
    assert tap.wait(1)[0]["text"] == "late"
    tap.cut()


def test_draining_ends_streams_with_a_word(served: tuple[Deployment, str]):
    world, url = served
    tap = Tap(url)
    assert tap.session
    world.streams.drain()
    assert tap.until_end().controls("end")[0]["cause"] == "draining"


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"since": "yesterday"}, 400, "since"),
        ({"since": "0:1,1:2"}, 400, "since"),
        ({"since": "0:0,1:0,2:0,3:0,4:0"}, 400, "since"),
        ({"since": "0:0,0:0,1:0,2:0,3:0"}, 400, "since"),
        ({"since": vector(0, 0, 0, 9)}, 422, None),
        ({"since": "2100-01-01T00:00:00Z"}, 422, None),
        ({"since": "checkpoint"}, 400, "since"),
        ({"until": "soon"}, 400, "until"),
        ({"types": "posts"}, 400, "types"),
        ({"authors": "x"}, 400, "authors"),
        ({"authors": ",".join(map(str, range(1_001)))}, 413, "authors"),
        ({"format": "xml"}, 400, "format"),
        ({"clamp": "yes"}, 400, "clamp"),
        ({"ack": "manual"}, 400, "ack"),
        ({"lease_s": "5"}, 400, "lease_s"),
        ({"group": "g", "lease_s": "0"}, 400, "lease_s"),
        ({"group": "g", "ack": "later"}, 400, "ack"),
        ({"group": "cell.c1"}, 400, "group"),
        ({"group": "relay.east"}, 400, "group"),
        ({"group": "Big"}, 400, "group"),
        ({"group": "g" * 65}, 400, "group"),
        ({"group": "new", "since": "checkpoint"}, 404, None),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_bad_input_is_named(query: dict[str, str], status: int, field: str | None):
    document: dict[str, Any] = problem(
        ask(Deployment().app, "GET", "/v1/firehose", params=query), status
    )
    assert document.get("field") == field


def test_a_bad_last_event_id_is_named():
    answer = ask(Deployment().app, "GET", "/v1/firehose", headers={"last-event-id": "0:x"})
    assert problem(answer, 400)["field"] == "Last-Event-ID"


def test_idle_consumers_share_one_watcher_and_one_page(served: tuple[Deployment, str]):
    world, url = served
    taps = [Tap(url) for _ in range(20)]
    for tap in taps:
        assert tap.session
    world.log.say(0, *[f"{number}" for number in range(50)])
    for tap in taps:
        assert tap.wait(50)
        tap.cut()
    assert world.streams._source.reader.pages_made <= 3
    eventually(lambda: world.streams._source.ends._thread is None, "nobody watches any more")


def test_a_consumer_that_reads_nothing_is_parked_and_holds_up_nobody(
    served: tuple[Deployment, str],
):
    world, url = served
    stuck = Tap(url, reading=False)
    tap = Tap(url)
    assert tap.session
    big = "x" * 60_000
    for _ in range(300):  # 18 MB: more than socket buffers hold
        world.log.say(0, big)
    tap.wait(300)
    eventually(lambda: world.streams.counts.open == 2, "both live")
    sent = world.streams.counts.sent_bytes
    assert sent < 2 * 300 * 60_000  # it was not all pushed into the stuck one
    stuck.cut()
    tap.cut()


def test_the_python_client_goes_on_where_it_was(served: tuple[Deployment, str]):
    world, url = served
    world.log.say(0, "a", "b")
    consumer = Consumer(url, since="earliest")
    events = iter(consumer)
    assert [next(events)["text"] for _ in range(2)] == ["a", "b"]
    world.streams.drain()  # every stream ends
    world.log.say(1, "c")
    world.streams._draining = False
    assert next(events)["text"] == "c"
    consumer.close()
