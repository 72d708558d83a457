"""A gateway that coordinates groups no more: streams end, nothing is given, nothing is kept."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx
import pytest

from engine.codec import encode
from engine.errors import Unavailable
from engine.events import Post
from engine.limits import GROUP_COMMIT_S, GROUP_TICK_S
from tests.topics.http_fakes import problem
from tests.topics.memory_log import MemoryLog
from tests.topics.taps import Tap, eventually, gateway
from topics.groups_lock import Tenure
from topics.groups_tenure import LOST
from topics.http_stream import Streams

PARTITIONS = 4


class Ended:
    """A tenure that is ended by hand."""

    def __init__(self) -> None:
        self.over = Event()

    def holds(self) -> bool:
        return not self.over.is_set()

    def fence(self) -> None:
        if self.over.is_set():
            raise Unavailable(LOST)


class Elected:
    """Leads, or says who does."""

    def __init__(self) -> None:
        self.own: Ended | None = Ended()
        self.url = ""
        self.changed: Callable[[], None] = lambda: None

    def leader(self) -> str | None:
        if self.own is not None and self.own.holds():
            return None
        if not self.url:
            raise Unavailable("nobody coordinates: try again")
        return self.url

    def tenure(self) -> Tenure:
        if self.own is None or not self.own.holds():
            raise Unavailable(LOST)
        return self.own

    def watch(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def release(self) -> None:
        self.own = None


class World:
    """A gateway on a log in memory, and whether it leads."""

    def __init__(self, log: MemoryLog, elected: Elected, url: str) -> None:
        self.log = log
        self.elected = elected
        self.url = url
        self.taps: list[Tap] = []

    def say(self, count: int) -> None:
        self.log.append([(n % PARTITIONS, encode(Post(7, 5, 0, str(n)))) for n in range(count)])

    def tap(self, **query: str) -> Tap:
        found = Tap(self.url, **query)
        self.taps.append(found)
        return found

    def ack(self, session: str, positions: dict[str, int]) -> httpx.Response:
        body = {"session": session, "positions": positions}
        return httpx.post(f"{self.url}/v1/groups/g/ack", json=body, trust_env=False)


@pytest.fixture
def world() -> Iterator[World]:
    log, elected = MemoryLog(PARTITIONS), Elected()
    streams = Streams(log, log.clock, elected)
    with gateway(log=log, streams=streams) as (_, url):
        found = World(log, elected, url)
        yield found
        for tap in found.taps:
            tap.cut()


def test_its_members_streams_end_with_a_named_error_and_loose_ones_go_on(world: World):
    world.say(8)
    tap = world.tap(group="g", since="earliest", ack="manual")
    loose = world.tap(since="earliest")
    tap.wait(8)
    assert world.ack(tap.session, {"0": 1}).status_code == 200
    assert world.elected.own is not None
    world.elected.own.over.set()
    commits = world.log.commits
    world.say(8)
    told = tap.until_end().controls("error")[0]["problem"]
    assert (told["status"], told["detail"]) == (503, LOST)
    assert len(tap.events()) == 8
    loose.wait(16)
    answer = world.ack(tap.session, {"0": 2})
    problem(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert world.log.commits == commits
    assert world.log.kept["g"][0] == 1


def test_an_automatic_member_keeps_nothing_at_the_end_of_another_ones_time(world: World):
    tap = world.tap(group="g", since="earliest")
    world.say(4)
    tap.wait(4)
    assert world.elected.own is not None
    world.elected.own.over.set()
    tap.until_end()
    assert world.log.kept["g"] == dict.fromkeys(range(PARTITIONS), 0)


def test_when_it_leads_again_it_begins_with_what_was_kept_meanwhile(world: World):
    world.say(8)
    tap = world.tap(group="g", since="earliest", ack="manual")
    tap.wait(8)
    assert world.elected.own is not None
    world.elected.own.over.set()
    world.log.commit("g", dict.fromkeys(range(PARTITIONS), 1))  # by another gateway
    world.elected.own = Ended()
    tap.until_end()
    again = world.tap(group="g", ack="manual")
    positions = [event["position"] for event in again.wait(4)]
    assert sorted(positions) == [f"{partition}:1" for partition in range(PARTITIONS)]


def test_a_rewind_is_fenced(world: World):
    world.say(8)
    world.log.commit("g", dict.fromkeys(range(PARTITIONS), 2))
    path = f"{world.url}/v1/admin/groups/g/rewind"
    body = {"to_earliest": True, "execute": True}
    read, own = world.log.read, world.elected.own
    assert own is not None

    def ends_meanwhile(*asked: int) -> object:
        own.over.set()
        return read(*asked)

    world.log.read = ends_meanwhile  # type: ignore[assignment,method-assign]
    problem(httpx.post(path, json=body, trust_env=False), 503)
    assert world.log.kept["g"] == dict.fromkeys(range(PARTITIONS), 2)


def test_a_stream_through_one_that_leads_no_more_is_cut(world: World):
    """It may be stopped: then nobody ends it but the gateway that its client asked."""
    with gateway(log=world.log) as (_, other):
        world.elected.own, world.elected.url = None, other
        tap = world.tap(group="g", since="earliest")
        assert tap.session
        world.say(4)
        tap.wait(4)
        world.elected.url = "http://127.0.0.1:9"
        world.elected.changed()
        assert tap.ended.wait(5)
        assert tap.controls("end") == []
        eventually(lambda: world.tap(group="g").answer.status == 503, "nobody there")


def test_a_request_that_hangs_at_one_that_leads_no_more_is_answered(world: World):
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        world.elected.own = None
        world.elected.url = f"http://127.0.0.1:{stopped.getsockname()[1]}"
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(world.ack, "0" * 16, {"0": 1})
            connection, _ = stopped.accept()
            assert connection.recv(1_000)
            world.elected.url = ""
            world.elected.changed()
            problem(asked.result(5), 503)
            connection.close()


def test_streams_end_while_a_checkpoint_hangs(world: World):
    """As with a broker that is away: the write waits for it, and so did the end of the streams."""
    tap = world.tap(group="g", since="earliest", ack="manual")
    world.say(4)
    tap.wait(4)
    own, commit, hanging, done = world.elected.own, world.log.commit, Event(), Event()
    assert own is not None

    def hangs(group: str, positions: Mapping[int, int], fence: Callable[[], None]) -> None:
        hanging.set()
        assert done.wait(20)
        commit(group, positions, fence)

    world.log.commit = hangs  # type: ignore[assignment,method-assign]
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(world.ack, tap.session, {"0": 1})
        assert hanging.wait(5)
        time.sleep(GROUP_COMMIT_S + 2 * GROUP_TICK_S)  # until the ticker keeps it, too
        own.over.set()
        assert tap.ended.wait(5)
        done.set()
        problem(asked.result(5), 503)
    assert world.log.kept["g"][0] == 0
