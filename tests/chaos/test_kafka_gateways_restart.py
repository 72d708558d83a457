"""Gateways with data folders of their own on one Kafka: one of them coordinates the groups, and
when it is stopped, killed or leaves, another one does; no event is lost, none comes again that was
acknowledged. And a broker that goes away under many streams.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from engine.errors import FirecellError
from engine.limits import KAFKA_LEADER_SESSION_S
from ops.stack_run import Stack
from tests import kafka_broker
from tests.chaos.kafka_gateways import PARTITIONS, Gate, Saying, say
from tests.chaos.test_stream_restart import Member
from tests.topics.http_fakes import problem
from tests.topics.taps import Tap, eventually
from topics.catalog import gateways_group
from topics.client import Consumer
from topics.log_kafka import KafkaLog
from topics.urls import KafkaPlace

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(bool(kafka_broker.missing()), reason=kafka_broker.missing() or "-"),
]
TAKEOVER_S = KAFKA_LEADER_SESSION_S + 5  # of a dead or stopped leader: its session and a little


class World:
    """A topic, two gateways, and what is to be ended."""

    def __init__(self, folder: Path, place: KafkaPlace, ends: ExitStack) -> None:
        self.folder = folder
        self.log = KafkaLog.open(place, partitions=PARTITIONS)
        self.place = place
        self._ends = ends
        ends.callback(self.log.close)
        self.gates = [self._gate(0)]
        assert self.gates[0].leads(), "it is ready, and nobody else is there"
        self.gates.append(self._gate(1))
        assert not self.gates[1].leads()

    def _gate(self, number: int) -> Gate:
        gate = Gate(self.folder / f"gate{number}", self.place, number)
        self._ends.callback(gate.stop)
        return gate

    def tap(self, gate: Gate, **query: str) -> Tap:
        """A connection."""
        found = Tap(gate.url, **query)
        self._ends.callback(found.cut)
        assert found.answer.status == 200
        return found

    def member(self, gate: Gate) -> Member:
        """A consumer process of group `g`, with ack=manual."""
        found = Member(gate.url, "g", self.folder / f"member-{time.monotonic_ns()}")
        self._ends.callback(found.kill)
        return found


def worked(members: list[Member], more: int = 3) -> None:
    """Until each of them has been acknowledged some more."""
    before = [len(member.acked()) for member in members]
    eventually(
        lambda: all(len(m.acked()) >= b + more for m, b in zip(members, before, strict=True)),
        "all of them go on", 40,
    )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as ends:
        yield World(tmp_path, kafka_broker.new_place(), ends)


def test_two_gateways_split_a_group_and_one_that_leaves_hands_it_over_at_once(
    world: World,
) -> None:
    first, second = world.gates
    taps = [world.tap(gate, group="g", ack="manual") for gate in world.gates]
    loose = world.tap(second)
    for tap in (*taps, loose):
        assert tap.session
    eventually(lambda: len(taps[1].controls("hello")[0]["positions"]) == 2, "half of it")
    said = say(world.log, 40)
    eventually(lambda: sum(len(tap.events()) for tap in taps) >= len(said), "all of it")
    loose.wait(len(said))
    time.sleep(0.3)
    got = [event["position"] for tap in taps for event in tap.events()]
    assert sorted(got) == sorted(said)
    assert len(taps[0].events()) == len(taps[1].events())

    for gate, tap in zip(reversed(world.gates), taps, strict=True):  # each at the other one
        acknowledge(gate, "g", tap)
    ends = world.log.end_offsets()
    assert world.log.committed("g") == {p: end - 1 for p, end in enumerate(ends)}
    asked = second.ask("GET", "/v1/admin/groups").json()["groups"]
    assert [(group["group"], group["members"]) for group in asked] == [("g", 2)]
    rewind = "/v1/admin/groups/g/rewind"
    assert second.ask("POST", rewind, json={"to_earliest": True}).status_code == 200
    problem(second.ask("POST", rewind, json={"to_earliest": True, "execute": True}), 409)
    problem(second.ask("DELETE", "/v1/admin/groups/g"), 409)
    problem(second.ask("GET", f"/v1/firehose?group={gateways_group('t')}"), 400)

    started = time.monotonic()
    first.stop()
    stopped_s = time.monotonic() - started
    eventually(second.leads, "the other one leads", 5)
    took_s = time.monotonic() - started
    print(f"left in {stopped_s:.2f} s, taken over after {took_s:.2f} s")
    assert took_s < stopped_s + 2
    assert taps[1].until_end().controls("error") == []
    again = world.tap(second, group="g", ack="manual")
    last = {f"{p}:{end - 1}" for p, end in enumerate(ends)}
    assert {event["position"] for event in again.wait(PARTITIONS)} == last
    more = say(world.log, 8)
    again.wait(len(last) + len(more))
    loose.wait(len(said) + len(more))
    assert not loose.ended.is_set()
    again.cut()
    eventually(
        lambda: second.ask("POST", rewind, json={"to_earliest": True, "execute": True}).is_success,
        "nobody lives in it, and it is rewound",
    )
    assert world.log.committed("g") == dict.fromkeys(range(PARTITIONS), 0)


def test_a_stopped_leader_hands_out_nothing_more_and_a_killed_one_is_followed(
    world: World,
) -> None:
    first, second = world.gates
    taps = [world.tap(gate, group="h", ack="manual", lease_s="300") for gate in world.gates]
    loose = world.tap(first)
    members = [world.member(gate) for gate in (first, second, second)]
    saying = Saying(world.log, pause_s=0.1)
    worked(members)
    eventually(lambda: all(tap.events() for tap in taps), "both have some")
    acknowledged = acknowledge(second, "h", taps[0])  # by the other gateway

    cuts = [time.time()]
    first.pause()
    eventually(second.leads, "the other one leads", TAKEOVER_S)
    print(f"a stopped leader is followed after {time.time() - cuts[0]:.1f} s")
    assert taps[1].ended.wait(5), "it would never end by itself"
    again = world.tap(second, group="h", ack="manual")
    worked(members[1:])
    again.wait(20)
    spots = [tuple(map(int, event["position"].split(":"))) for event in again.events()]
    assert all(at >= acknowledged.get(str(partition), 0) for partition, at in spots)
    acknowledge(second, "h", again)
    before, loose_before = len(taps[0].events()), len(loose.events())
    first.resume()
    assert taps[0].ended.wait(5)
    assert taps[0].controls("error")[0]["problem"]["status"] == 503
    assert len(taps[0].events()) == before
    assert not first.leads()
    eventually(lambda: len(loose.events()) > loose_before, "a stream without a group goes on")
    assert not loose.ended.is_set()
    worked(members)  # the one at the first goes on through it

    cuts.append(time.time())
    second.kill()
    eventually(first.leads, "the first one leads again", TAKEOVER_S)
    print(f"a killed leader is followed after {time.time() - cuts[1]:.1f} s")
    worked(members[:1])
    check_members(saying.stop(), members, cuts)


def acknowledge(gate: Gate, group: str, tap: Tap) -> dict[str, int]:
    """All that came so far, but for the last one of each partition; the checkpoints."""
    spots = sorted(tuple(map(int, e["position"].split(":"))) for e in tap.events())
    places = {str(partition): offset for partition, offset in spots}
    body = {"session": tap.session, "positions": places}
    answer = gate.ask("POST", f"/v1/groups/{group}/ack", json=body)
    assert answer.status_code == 200, answer.text
    kept: dict[str, int] = answer.json()["positions"]
    assert places.items() <= kept.items()
    return kept


def check_members(said: list[str], members: list[Member], cuts: list[float]) -> None:
    """Every event came. What had been acknowledged came to no session again, but for what was on
    its way to one when its gateway, or the coordinating one, was stopped or killed."""
    wanted = set(said)
    eventually(lambda: wanted <= {p for m in members for _, p in m.got()}, "all events", 60)
    acks = [ack for member in members for ack in member.acked()]
    for member in members:
        began: dict[str, float] = {}
        for _, when, position, session in [line for line in member.lines() if line[0] == "got"]:
            at = float(when)
            if any(began.setdefault(session, at) < cut <= at for cut in cuts):
                continue
            partition, offset = map(int, position.split(":"))
            for acked_at, places in acks:
                again = acked_at < at and places.get(partition, 0) > offset
                assert not again, f"{position} came again after it was acknowledged"


# --- a broker that goes away ---


class Client(threading.Thread):
    """One consumer by topics/client.py. What it got is (when, partition, offset)."""

    def __init__(self, url: str, **options: str) -> None:
        super().__init__(daemon=True)
        self.options = options
        self.got: list[tuple[float, int, int]] = []
        self.acked: list[tuple[float, dict[int, int]]] = []
        self.failure: BaseException | None = None
        self._ended = threading.Event()
        self._consumer = Consumer(url, **options)

    def run(self) -> None:
        """Until an event after `end`."""
        try:
            for number, event in enumerate(self._consumer, 1):
                partition, _, offset = event["position"].partition(":")
                self.got.append((time.monotonic(), int(partition), int(offset)))
                if self._ended.is_set():
                    return
                manual = self.options.get("ack") == "manual"
                if manual and (number % 20 == 0 or not self._consumer.pending):
                    self._acknowledge()
        except BaseException as error:
            self.failure = error
        finally:
            self._consumer.close()

    def _acknowledge(self) -> None:
        with suppress(FirecellError):  # lost: the stream connects again
            self._consumer.ack()
            places = {int(p): at for p, at in self._consumer.positions.items()}
            self.acked.append((time.monotonic(), places))

    def end(self) -> None:
        """No more after the next one."""
        self._ended.set()

    def heads(self) -> dict[int, int]:
        """Next offset per partition."""
        found: dict[int, int] = {}
        for _, partition, offset in self.got[:]:
            found[partition] = max(found.get(partition, 0), offset + 1)
        return found


def check_loose(client: Client) -> None:
    """Every offset once, in order."""
    for partition in range(PARTITIONS):
        offsets = [offset for _, p, offset in client.got if p == partition]
        assert offsets == list(range(len(offsets))), f"partition {partition}: lost or repeated"


def check_group(clients: list[Client], ends: list[int]) -> None:
    """Nothing is missing; nothing came again after it was acknowledged."""
    got = {(p, offset) for client in clients for _, p, offset in client.got}
    missing = {(p, at) for p, end in enumerate(ends) for at in range(end)} - got
    assert not missing, f"{len(missing)} events are missing: {sorted(missing)[:5]}"
    acks = [ack for client in clients for ack in client.acked]
    for client in clients:
        for at, partition, offset in client.got:
            for when, places in acks:
                again = when < at and places.get(partition, 0) > offset
                assert not again, f"{partition}:{offset} came again after it was acknowledged"


def tried(act: Callable[[], Any]) -> Any:
    """What it gives, or None."""
    with suppress(FirecellError):
        return act()
    return None


def finish(clients: list[Client], publish: Callable[[], Any]) -> None:
    """One event after another, until each has seen one."""
    for client in clients:
        client.end()
    deadline = time.monotonic() + 20
    while any(client.is_alive() for client in clients) and time.monotonic() < deadline:
        publish()
        time.sleep(0.2)
    assert not any(client.is_alive() for client in clients)


def test_a_broker_restart_under_50_streams(tmp_path: Path) -> None:
    with ExitStack() as ends:
        folder = tmp_path / "stack"
        stack = ends.enter_context(
            Stack(folder, ports="free", servers=("kafka",), cache=kafka_broker.CACHE)
        )
        place = KafkaPlace(f"127.0.0.1:{stack.ports['kafka']}", "firehose", 1)
        world = World(tmp_path, place, ends)
        loose = [Client(world.gates[n % 2].url, since="earliest") for n in range(26)]
        groups = [
            [
                Client(world.gates[n % 2].url, since="earliest", group=f"g{g}", ack="manual")
                for n in range(PARTITIONS)
            ]
            for g in range(6)
        ]
        clients = [*loose, *(client for group in groups for client in group)]
        for client in clients:
            client.start()
        saying = Saying(world.log, pause_s=0.1)
        eventually(lambda: all(client.heads() for client in clients), "all of them have some", 40)
        stack.pause("kafka")
        time.sleep(1)
        stack.kill("kafka")
        stack.start("kafka")
        started = time.monotonic()
        eventually(lambda: tried(lambda: say(world.log, 4)), "Kafka takes something", 20)
        saying.stop()
        end = world.log.end_offsets()
        want = dict(enumerate(end))

        def heads(group: list[Client]) -> dict[int, int]:
            return {p: max(c.heads().get(p, 0) for c in group) for p in want}

        def behind() -> list[int]:
            taken = [*([client] for client in loose), *groups]
            return [n for n, group in enumerate(taken) if heads(group) != want]

        deadline = started + 60
        while behind() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not behind(), (behind(), [repr(client.failure) for client in clients])
        print(f"all 50 have caught up {time.monotonic() - started:.1f} s after Kafka's return")
        finish(clients, lambda: say(world.log, PARTITIONS))
        assert [repr(client.failure) for client in clients if client.failure] == []
        for client in loose:
            check_loose(client)
        for group in groups:
            check_group(group, end)
