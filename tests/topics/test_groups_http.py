"""Groups over HTTP, by the same tests on every log: sharing, places, acknowledgements, rewinds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.codec import encode
from engine.events import Post
from engine.ports import Log
from tests import kafka_broker
from tests.topics.firehoses import small_log
from tests.topics.http_fakes import problem
from tests.topics.taps import Tap, eventually, gateway
from topics.client import Consumer
from topics.log_kafka import KafkaLog

PARTITIONS = 4


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.real)])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    if request.param == "embedded":
        found: Any = small_log(tmp_path / "firehose", partitions=PARTITIONS)
    else:
        found = KafkaLog.open(kafka_broker.new_place(), partitions=PARTITIONS)
    yield found
    with suppress(Exception):
        found.close()


class Served:
    """A gateway on a log: say something, consume, ask."""

    def __init__(self, world: Any, url: str, log: Log) -> None:
        self.world = world
        self.url = url
        self.log = log
        self.taps: list[Tap] = []
        self.said: list[str] = []

    def say(self, count: int, partition: int | None = None) -> list[str]:
        """Publish posts, over all partitions unless told; their texts."""
        texts = [f"post {len(self.said) + number}" for number in range(count)]
        self.said += texts
        entries = []
        for number, text in enumerate(texts):
            at = number % PARTITIONS if partition is None else partition
            entries.append((at, encode(Post(7, 5, 0, text))))
        self.log.append(entries)
        return texts

    def tap(self, **query: str) -> Tap:
        """A connection, cut at the end of the test."""
        tap = Tap(self.url, **query)
        self.taps.append(tap)
        return tap

    def ack(self, group: str, session: str, positions: dict[str, int]) -> httpx.Response:
        """POST an acknowledgement."""
        body = {"session": session, "positions": positions}
        return httpx.post(f"{self.url}/v1/groups/{group}/ack", json=body, trust_env=False)

    def group(self, name: str) -> dict[str, Any]:
        """As the admin route tells it."""
        answer = httpx.get(f"{self.url}/v1/admin/groups/{name}", trust_env=False)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def rewind(self, name: str, **body: Any) -> httpx.Response:
        """POST a rewind."""
        path = f"{self.url}/v1/admin/groups/{name}/rewind"
        return httpx.post(path, json=body, trust_env=False, timeout=30)

    def alone(self, name: str) -> None:
        """Wait until nobody lives in a group."""
        eventually(lambda: not self.group(name)["members"], f"{name} is left")


@pytest.fixture
def served(log: Log) -> Iterator[Served]:
    with gateway(log=log) as (world, url):
        found = Served(world, url, log)
        yield found
        for tap in found.taps:
            tap.cut()


def delivered(tap: Tap) -> dict[str, int]:
    """Next offsets behind what came."""
    found: dict[str, int] = {}
    for event in tap.events():
        partition, offset = event["position"].split(":")
        found[partition] = int(offset) + 1
    return found


def test_two_connections_split_the_events_and_another_group_sees_all(served: Served):
    one, two = served.tap(group="g"), served.tap(group="g")
    other = served.tap(group="h")
    for tap in (one, two, other):
        assert tap.session
    eventually(lambda: two.controls("rebalance") or two.controls("hello")[0]["positions"], "half")
    served.say(40)
    other.wait(40)
    eventually(lambda: len(one.events()) + len(two.events()) >= 40, "all of it")
    assert sorted(one.texts() + two.texts()) == sorted(served.said)
    assert len(one.events()) == len(two.events()) == 20
    assert sorted(other.texts()) == sorted(served.said)


def test_a_new_group_begins_where_it_asks_and_its_place_is_kept_at_once(served: Served):
    served.say(4)
    tap = served.tap(group="g")  # no since: latest
    assert tap.session
    assert served.log.committed("g") == dict.fromkeys(range(4), 1)
    early = served.tap(group="h", since="earliest")
    early.wait(4)
    assert served.log.committed("h") == dict.fromkeys(range(4), 0)
    assert tap.events() == []


def test_manual_resumes_behind_what_was_acknowledged_and_repeats_the_rest(served: Served):
    served.say(12, partition=1)
    one = served.tap(group="g", since="earliest", ack="manual")
    one.wait(12)
    kept = served.ack("g", one.session, {"1": 5})
    assert kept.status_code == 200
    assert kept.json()["positions"]["1"] == 5
    assert served.log.committed("g")[1] == 5
    one.cut()
    served.alone("g")
    two = served.tap(group="g", ack="manual")
    assert [event["position"] for event in two.wait(7)] == [f"1:{at}" for at in range(5, 12)]
    assert served.ack("g", two.session, {"1": 3}).json()["positions"]["1"] == 5  # never back


def test_since_places_a_group_without_members_and_no_other(served: Served):
    served.say(8)
    one = served.tap(group="g", since="earliest", ack="manual")
    one.wait(8)
    served.ack("g", one.session, delivered(one))
    two = served.tap(group="g", since="earliest", ack="manual")
    assert two.session
    time.sleep(0.3)
    assert two.events() == []
    one.cut()
    two.cut()
    served.alone("g")
    three = served.tap(group="g", since="earliest")
    three.wait(8)


def test_a_partition_moves_once_its_owner_acknowledged(served: Served):
    served.say(8)
    one = served.tap(group="g", since="earliest", ack="manual")
    one.wait(8)
    two = served.tap(group="g", ack="manual")
    assert two.session
    time.sleep(0.6)
    assert two.controls("hello")[0]["positions"] == {}
    assert two.controls("rebalance") == []
    served.ack("g", one.session, delivered(one))
    started = time.monotonic()
    eventually(lambda: two.controls("rebalance"), "it gets its half")
    assert time.monotonic() - started < 1
    served.say(8)
    eventually(lambda: len(one.events()) + len(two.events()) >= 16, "all")
    assert len(two.events()) == 4
    assert sorted(one.texts() + two.texts()) == sorted(served.said)


def test_a_lease_that_ends_moves_what_was_not_acknowledged_and_the_session_is_stale(
    served: Served,
):
    served.say(8)
    one = served.tap(group="g", since="earliest", ack="manual", lease_s="1")
    one.wait(8)
    two = served.tap(group="g", ack="manual")
    assert two.session
    eventually(lambda: len(two.events()) == 8, "all of it again")
    assert one.until_end().controls("error")[0]["problem"]["status"] == 409
    document = problem(served.ack("g", one.session, {"0": 1}), 409)
    assert "connect again" in document["detail"]
    assert served.ack("g", two.session, delivered(two)).status_code == 200


def test_until_with_manual_leaves_time_to_acknowledge(served: Served):
    served.say(4)
    time.sleep(0.01)
    one = served.tap(group="g", since="earliest", until="0s", ack="manual").until_end()
    assert len(one.events()) == 4
    assert one.controls("end")
    assert served.ack("g", one.session, delivered(one)).status_code == 200
    served.alone("g")
    assert served.log.committed("g") == dict.fromkeys(range(4), 1)


def test_who_joins_after_until_gets_what_was_not_acknowledged(served: Served):
    served.say(8, partition=2)
    time.sleep(0.01)
    one = served.tap(group="g", since="earliest", until="0s", ack="manual").until_end()
    assert len(one.events()) == 8
    assert served.ack("g", one.session, {"2": 3}).status_code == 200
    two = served.tap(group="g", until="0s", ack="manual").until_end()
    assert [event["position"] for event in two.events()] == [f"2:{at}" for at in range(3, 8)]
    problem(served.ack("g", one.session, {"2": 8}), 409)
    assert served.ack("g", two.session, {"2": 8}).status_code == 200


def test_automatic_keeps_what_was_taken_at_a_clean_end(served: Served):
    served.say(4)
    time.sleep(0.01)
    assert len(served.tap(group="g", since="earliest", until="0s").until_end().events()) == 4
    eventually(lambda: served.log.committed("g") == dict.fromkeys(range(4), 1), "kept")
    assert served.tap(group="g", until="0s").until_end().events() == []


def test_automatic_repeats_the_last_seconds_of_a_broken_connection(
    served: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("topics.groups_state.GROUP_SETTLE_S", 1.0)
    one = served.tap(group="g")
    assert one.session
    first = served.say(4)
    one.wait(4)
    eventually(lambda: served.log.committed("g") == dict.fromkeys(range(4), 1), "settled")
    second = served.say(4)
    one.wait(8)
    one.cut()
    served.alone("g")
    two = served.tap(group="g")
    two.wait(4)
    assert sorted(two.texts()) == sorted(second)
    assert not set(two.texts()) & set(first)


def test_what_is_refused_about_groups(served: Served):
    served.say(4)
    assert "no group" in problem(served.ack("g", "x", {"0": 1}), 404)["detail"]
    one = served.tap(group="g", since="earliest", ack="manual", types="post")
    one.wait(4)
    assert problem(served.ack("g", one.session, {"0": 2}), 400)["field"] == "positions"
    assert problem(served.ack("g", one.session, {"9": 0}), 400)["field"] == "positions"
    problem(served.ack("g", "0" * 16, {"0": 1}), 409)
    problem(served.ack("cell.c1", one.session, {"0": 1}), 400)
    other = httpx.get(f"{served.url}/v1/firehose?group=g", trust_env=False)
    assert problem(other, 409)["filter"] == {"types": "post"}
    auto = served.tap(group="h")
    problem(served.ack("h", auto.session, {"0": 0}), 409)
    missing = httpx.get(f"{served.url}/v1/admin/groups/nobody", trust_env=False)
    problem(missing, 404)


def test_groups_are_listed_with_their_lag_and_members(served: Served):
    served.say(8)
    tap = served.tap(group="g", since="earliest", ack="manual")
    tap.wait(8)
    found = served.group("g")
    assert found["lag"] == 8
    assert found["members"][0]["session"] == tap.session
    assert found["retention_left_seconds"] > 0
    assert [row["end"] for row in found["partitions"]] == [2, 2, 2, 2]
    names = httpx.get(f"{served.url}/v1/admin/groups", trust_env=False).json()["groups"]
    assert [(group["group"], group["members"]) for group in names] == [("g", 1)]


def test_a_group_is_forgotten_only_while_nobody_lives_in_it(served: Served):
    served.say(8)
    path = f"{served.url}/v1/admin/groups/"
    tap = served.tap(group="g", since="earliest")
    tap.wait(8)
    refused = problem(httpx.delete(f"{path}g", trust_env=False), 409)
    assert tap.session in refused["detail"]
    tap.cut()
    served.alone("g")
    problem(httpx.delete(f"{path}nobody", trust_env=False), 404)
    problem(httpx.delete(f"{path}cell.c1", trust_env=False), 409)
    answer = httpx.delete(f"{path}g", trust_env=False)
    if isinstance(served.log, KafkaLog):
        assert "by itself" in problem(answer, 409)["detail"]
        return
    assert answer.json() == {"group": "g", "forgotten": True}
    assert served.log.groups() == []
    problem(httpx.get(f"{path}g", trust_env=False), 404)
    checkpoint = httpx.get(f"{served.url}/v1/firehose?group=g&since=checkpoint", trust_env=False)
    problem(checkpoint, 404)  # a new group: it says where to begin, or begins with what comes


def test_an_automatic_member_that_takes_nothing_beyond_its_lease_loses_nothing(
    served: Served,
):
    """Stopped with its connection open: what it never took comes again, to another one."""
    for _ in range(50):
        served.log.append([(p, encode(Post(7, 5, 0, "x" * 60_000))) for p in range(PARTITIONS)])
    stuck = Tap(served.url, reading=False, group="g", since="earliest", lease_s="1")
    served.taps.append(stuck)
    time.sleep(0.5)
    other = served.tap(group="g", lease_s="30")
    other.wait(4 * 50)
    positions = [event["position"] for event in other.events()]
    assert sorted(positions) == sorted({f"{p}:{n}" for p in range(PARTITIONS) for n in range(50)})
    members = served.group("g")["members"]
    assert [member["session"] for member in members] == [other.session]


def test_a_rewind_is_planned_refused_while_active_done_and_read_back(served: Served):
    served.say(40)
    tap = served.tap(group="g", since="earliest", ack="manual")
    tap.wait(40)
    served.ack("g", tap.session, delivered(tap))
    plan = served.rewind("g", to_earliest=True).json()
    assert (plan["executed"], plan["events"]) == (False, 40)
    assert [(p["now"], p["target"], p["clamped"]) for p in plan["partitions"]] == [
        (10, 0, False)
    ] * 4
    assert all(part["oldest"] for part in plan["partitions"])
    refused = problem(served.rewind("g", to_earliest=True, execute=True), 409)
    assert refused["members"][0]["session"] == tap.session
    assert tap.session in refused["detail"]
    tap.cut()
    served.alone("g")
    done = served.rewind("g", shift_by=-3, partitions=[1], execute=True).json()
    assert done["executed"]
    assert served.log.committed("g") == {0: 10, 1: 7, 2: 10, 3: 10}
    again = served.tap(group="g")
    assert [event["position"] for event in again.wait(3)] == ["1:7", "1:8", "1:9"]


def test_every_word_of_a_rewind(served: Served):
    served.say(8)
    time.sleep(3)
    served.say(8)
    served.log.commit("g", dict.fromkeys(range(4), 4))

    def targets(**body: Any) -> list[tuple[int, bool]]:
        parts = served.rewind("g", **body).json()["partitions"]
        return [(part["target"], part["clamped"]) for part in parts]

    assert targets(to_latest=True) == [(4, False)] * 4
    assert targets(to_earliest=True) == [(0, False)] * 4
    assert targets(by_duration="2s") == [(2, False)] * 4
    assert targets(to_datetime="2020-01-01T00:00:00Z") == [(0, False)] * 4
    assert targets(to_offset=3, partitions=[2]) == [(3, False)]
    assert targets(to_offset=99, partitions=[2]) == [(4, True)]
    assert targets(shift_by=-9) == [(0, True)] * 4
    assert targets(positions={"1": 1, "3": 2}) == [(1, False), (2, False)]
    problem(served.rewind("g"), 400)
    problem(served.rewind("g", to_earliest=True, to_latest=True), 400)
    problem(served.rewind("g", to_earliest=True, partitions=[4]), 400)
    problem(served.rewind("g", to_datetime="soon"), 400)
    problem(served.rewind("nobody", to_earliest=True), 404)
    document = problem(served.rewind("cell.c1", to_earliest=True), 409)
    assert "firecell replay --cell c1" in document["detail"]


def test_the_python_client_acknowledges_and_loses_nothing_when_cut(served: Served):
    served.say(20)
    consumer = Consumer(served.url, group="g", since="earliest", ack="manual")
    got: list[str] = []
    for event in consumer:
        got.append(event["text"])
        if len(got) == 10:
            consumer.ack()
            break
    consumer.close()
    served.alone("g")
    consumer = Consumer(served.url, group="g", ack="manual")
    for event in consumer:
        got.append(event["text"])
        if len(got) == 20:
            break
    consumer.ack()
    consumer.close()
    assert sorted(got) == sorted(served.said)
