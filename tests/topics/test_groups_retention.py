"""Groups and the floor: warned of in time, refused by name below it, clamped with a gap, never
skipped; and a consumer that is too slow is told."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from engine.errors import Unavailable
from engine.limits import GROUP_WARN_S
from tests.topics.http_fakes import problem
from tests.topics.memory_log import DAY_MS, MemoryLog
from tests.topics.taps import Tap, eventually, gateway
from topics.groups_retention import RetentionWatch

HOUR_MS = 3_600_000


def test_a_checkpoint_below_the_floor_is_gone_unless_clamped_with_a_gap():
    with gateway() as (world, url):
        world.log.say(0, "a", "b", "c")
        world.log.commit("g", dict.fromkeys(range(4), 0))
        world.log.drop(0, 2)
        refused = httpx.get(f"{url}/v1/firehose?group=g", trust_env=False)
        assert problem(refused, 410)["floor"] == "0:2,1:0,2:0,3:0"
        assert world.log.committed("g")[0] == 0  # nothing was skipped in secret
        shown = httpx.get(f"{url}/v1/admin/groups/g", trust_env=False).json()
        assert shown["below_floor"] is True
        tap = Tap(url, group="g", clamp="true", ack="manual")
        assert [event["text"] for event in tap.wait(1)] == ["c"]
        lost = tap.controls("gap")[0]["gaps"]
        assert [(gap["from_offset"], gap["to_offset"]) for gap in lost] == [(0, 2)]
        assert world.log.committed("g")[0] == 2
        tap.cut()


def test_a_member_that_the_retention_overtakes_is_told_and_its_group_keeps_its_place():
    with gateway() as (world, url):
        world.log.commit("g", dict.fromkeys(range(4), 0))
        tap = Tap(url, group="g", ack="manual")
        assert tap.session
        world.log.drop(1, 2)
        world.log.say(1, "lost", "lost", "kept")
        error = tap.until_end().controls("error")[0]["problem"]
        assert (error["status"], error["floor"]) == (410, "1:2")
        assert world.log.committed("g")[1] == 0


def test_a_group_is_warned_of_hours_before(caplog: pytest.LogCaptureFixture):
    log = MemoryLog()
    log.say(2, "old")
    log.commit("slow", dict.fromkeys(range(4), 0))
    log.commit("done", dict.fromkeys(range(4), 1))
    log.commit("cell.c1", dict.fromkeys(range(4), 0))
    watch = RetentionWatch(log, log.clock)
    with caplog.at_level(logging.WARNING):
        watch.look()
        assert watch.stats()["groups_near_retention"] == 0
        assert watch.stats()["groups_retention_left_seconds"] == 7 * DAY_MS / 1_000
        log.now_ms += 7 * DAY_MS - GROUP_WARN_S * 1_000 + HOUR_MS
        watch.look()
        watch.look()
    assert watch.stats()["groups_near_retention"] == 1
    assert watch.stats()["groups_retention_left_seconds"] == GROUP_WARN_S - 3_600
    assert [record.getMessage()[:11] for record in caplog.records] == ["group slow:"]
    log.drop(2, 1)
    watch.look()
    assert watch.stats()["groups_retention_left_seconds"] == 0


def test_a_log_that_can_not_be_asked_is_asked_again(caplog: pytest.LogCaptureFixture):
    log = MemoryLog()

    def broken() -> list[str]:
        raise Unavailable("away")

    log.groups = broken  # type: ignore[method-assign]
    RetentionWatch(log, log.clock).look()
    assert "can't be looked at: away" in caplog.text


def test_a_slow_consumer_is_told_once_it_reads_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.stream.STREAM_SLOW_WINDOW_S", 0.5)
    with gateway() as (world, url):
        tap: Any = Tap(url, reading=False)
        eventually(lambda: world.streams.counts.open == 1, "it is there")
        for _ in range(600):  # 36 MB: more than socket buffers hold
            world.log.say(0, "x" * 60_000)
        eventually(lambda: world.streams.counts.sent_bytes > 1_000_000, "buffers fill")
        eventually(lambda: _stands_still(world), "it is parked")
        for _ in range(700):  # its lag grows meanwhile, whenever it was looked at before
            world.log.say(0, "y" * 60_000)
        tap._thread.start()
        eventually(lambda: tap.controls("slow"), "it is told")
        assert tap.controls("slow")[0]["lag"] > 0
        tap.wait(1_300)
        tap.cut()


def _stands_still(world: Any) -> bool:
    """Whether somebody has been waiting for this consumer for a while."""
    feed = next(iter(world.streams._responses))
    return feed.sending_since is not None and world.streams._source.clock() - feed.sending_since > 1
