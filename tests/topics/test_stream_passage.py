"""What counts as taken of a group's stream that another gateway passes on: what has arrived at its
client, by that gateway's word, whatever ends the stream."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.topics.memory_log import MemoryLog
from tests.topics.taps import Tap, eventually
from tests.topics.test_http_relay import Held, two_gateways
from topics.stream_passage import Passage


def checkpoint(log: MemoryLog) -> int:
    """Of group g in partition 0."""
    return log.kept.get("g", {}).get(0, 0)


def test_a_client_that_is_cut_while_both_drain_loses_nothing(monkeypatch: pytest.MonkeyPatch):
    """Both gateways got TERM, and the client was slower than STREAM_DRAIN_S: it was cut, and what
    lay in the second gateway was acknowledged by the clean end in the first one."""
    for drains in ("http_stream", "http_elsewhere"):
        monkeypatch.setattr(f"topics.{drains}.STREAM_DRAIN_S", 0.5)
    held = Held(monkeypatch)
    log = MemoryLog()
    with two_gateways(log) as (first, second, url):
        tap = Tap(url, group="g", since="earliest")
        assert tap.session
        held.hold()
        log.say(0, "one")
        tap.wait(1)
        log.say(0, "two", "three")
        eventually(lambda: first.streams.counts.events == 3, "it is sent")
        first.streams.drain()
        second.streams.drain()
        eventually(lambda: first.streams.counts.open == 0, "its client is cut")
        tap.cut()
        assert tap.texts() == ["one"]
        time.sleep(1.5)  # GROUP_COMMIT_S is over
        assert checkpoint(log) <= 1


def test_what_lies_in_another_gateway_does_not_settle_by_time(monkeypatch: pytest.MonkeyPatch):
    """GROUP_SETTLE_S after that one's kernel had it, it counted as taken; killed then, it took the
    events with it."""
    monkeypatch.setattr("topics.groups_state.GROUP_SETTLE_S", 0.3)
    held = Held(monkeypatch)
    log = MemoryLog()
    with two_gateways(log) as (first, _, url):
        tap = Tap(url, group="g", since="earliest")
        assert tap.session
        held.hold()
        log.say(0, "one")
        tap.wait(1)
        log.say(0, "two", "three")
        eventually(lambda: first.streams.counts.events == 3, "it is sent")
        eventually(lambda: checkpoint(log) == 1, "what the client has taken is kept")
        time.sleep(2)  # GROUP_SETTLE_S, GROUP_TICK_S and GROUP_COMMIT_S are over
        assert checkpoint(log) == 1
        held.busy.clear()
        tap.wait(3)
        eventually(lambda: checkpoint(log) == 3, "it settles once the client has taken it")
        tap.cut()


def test_the_lease_of_a_relayed_member_ends_when_nothing_arrives(monkeypatch: pytest.MonkeyPatch):
    """Its events would stay in a gateway that hangs, and with it their partitions."""
    held = Held(monkeypatch)
    log = MemoryLog()
    with two_gateways(log) as (first, _, url):
        tap = Tap(url, group="g", since="earliest", lease_s="1")
        assert tap.session
        time.sleep(1.5)  # an idle member keeps its lease
        held.hold()
        log.say(0, "one")
        tap.wait(1)
        log.say(0, "two")
        eventually(lambda: first.streams.groups.counts() == (0, 0), "its lease ends", 4)
        held.busy.clear()
        assert tap.until_end().controls("error")[0]["problem"]["status"] == 409
        assert checkpoint(log) <= 1


def test_a_clean_end_of_a_relayed_stream_acknowledges_what_has_arrived():
    log = MemoryLog()
    for number in range(40):
        log.say(number % 4, *["x" * 60_000] * 10)  # 24 MB
    log.now_ms += 60_000
    with two_gateways(log) as (_, _, url):
        tap = Tap(url, group="g", since="earliest", until="5s").until_end()
        assert len(tap.events()) == 400
        eventually(lambda: sum(log.kept["g"].values()) == 400, "a clean end acknowledges")


def test_a_gateway_that_says_nonsense_of_a_stream_says_nothing():
    said: list[dict[int, int]] = []
    passage = Passage(lambda: 0.0, lambda places, now: said.append(dict(places)))

    async def write(content: bytes) -> None:
        """Taken by a socket."""

    asyncio.run(passage.counted(write)(b"x" * 100))
    passage.hold({0: 5})
    for body in (b"", b"-1\n", b"1e9\n", b"9" * 30 + b"\n", b"\xff\n\n", b"9" * 10_000, b"\n99\n"):
        passage.heard(body)
    assert not said and passage.untaken() == 1
    passage.heard(b"10")
    passage.heard(b"0\n")
    assert said == [{0: 5}] and passage.untaken() == 0
    passage.heard(b"101\n7\n")
    assert passage.untaken() == 0, "no more than was written"


def test_pieces_beyond_the_bound_arrive_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.stream_passage.STREAM_PASSAGES_MAX", 3)
    said: list[dict[int, int]] = []
    passage = Passage(lambda: 0.0, lambda places, now: said.append(dict(places)))

    async def write(content: bytes) -> None:
        """Taken by a socket."""

    for number in range(1, 6):
        asyncio.run(passage.counted(write)(b"x"))
        passage.hold({number % 2: number})
    passage.heard(b"4\n")
    assert said == [{1: 1, 0: 2}], "3, 4 and 5 wait for the last of them"
    passage.heard(b"5\n")
    assert said[1:] == [{1: 5, 0: 4}]
