"""The Faust app of a cell, without a broker: what is set up, refused, and done before it joins."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cells.app import FaustRunner, record_of
from cells.progress import Parts
from cells.settings import load_settings
from cells.worker import WorkerCounts
from engine import limits
from engine.errors import Misconfigured, Precondition, Unavailable
from engine.ports import Record
from topics.kafka_records import root_header
from topics.urls import KafkaPlace

PLACE = KafkaPlace("127.0.0.1:1", "firehose", 1)
REFUSED = ("stream_wait_empty", "topic_allow_declare", "web_enabled")


class FakeLog:
    """Two partitions and one group. `active`: how often commits are refused."""

    def __init__(self, committed: dict[int, int], begins: list[int], active: int = 0) -> None:
        self.kept = dict(committed)
        self.begins = begins
        self.active = active
        self.commits: list[dict[int, int]] = []

    def end_offsets(self) -> list[int]:
        return [100, 100]

    def begin_offsets(self) -> list[int]:
        return self.begins

    def committed(self, group: str) -> dict[int, int]:
        assert group == "cell.c1"
        return dict(self.kept)

    def commit(self, group: str, positions: dict[int, int]) -> None:
        if self.active:
            self.active -= 1
            raise Precondition("the group is active")
        self.commits.append(positions)
        self.kept.update(positions)


def runner(log: FakeLog, durable: list[int]) -> FaustRunner:
    aim = limits.WORKER_KEYS_AIM
    store = SimpleNamespace(
        positions=lambda: (durable, [0, 0]), gaps=list, keys_aim=aim, check_whole=lambda cell: None
    )
    worker = SimpleNamespace(
        next_offsets=list(durable), times_ms=[0, 0], counts=WorkerCounts()
    )
    made: Any = FaustRunner(
        Parts("c1", log, store, worker, lambda at: None, lambda: 0),  # type: ignore[arg-type]
        place=PLACE,
        folder=Path("x"),
        shared=False,
    )
    return made


def test_a_new_group_gets_the_durable_vector() -> None:
    log = FakeLog({}, [0, 0])
    runner(log, [5, 0]).prepare()
    assert log.commits == [{0: 5, 1: 0}]


def test_only_what_differs_is_moved() -> None:
    log = FakeLog({0: 5, 1: 3}, [0, 0])
    runner(log, [5, 9]).prepare()
    assert log.commits == [{1: 9}]
    runner(log, [5, 9]).prepare()
    assert len(log.commits) == 1


def test_a_group_ahead_of_its_store_is_a_named_error() -> None:
    with pytest.raises(Precondition, match="its store is older than its group"):
        runner(FakeLog({0: 6}, [0, 0]), [5, 9]).prepare()


def test_a_store_that_was_restored_beside_a_worker_ends_it() -> None:
    """It dropped as seen what its store had not seen any more: a hole without a word (I8)."""
    log, durable = FakeLog({0: 5, 1: 9}, [0, 0]), [5, 9]
    one = runner(log, durable)
    one._follow_others(None)
    assert one.failure is None
    durable[1] = 8
    with pytest.raises(Precondition, match="8 and not 9 in partition 1: it was restored"):
        one.prepare()
    one._follow_others(None)
    assert isinstance(one.failure, Precondition) and not log.commits


def test_nobody_joins_while_the_store_is_being_restored() -> None:
    log = FakeLog({}, [0, 0])
    one: Any = runner(log, [5, 9])

    def noted(cell: str) -> None:
        raise Precondition(f"cell {cell} was being restored")

    one._store.check_whole = noted
    with pytest.raises(Precondition, match="c1 was being restored"):
        one.prepare()
    assert not log.commits


def test_an_active_group_is_joined_when_its_positions_will_do() -> None:
    log = FakeLog({0: 2, 1: 3}, [2, 0], active=10)
    runner(log, [5, 9]).prepare()
    assert log.commits == []


def eventually(question: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kafka_away_is_told_as_trouble_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENDS_EVERY_S", 0.01)
    log = FakeLog({}, [0, 0])
    answer, away = log.end_offsets, threading.Event()

    def ends() -> list[int]:
        if away.is_set():
            raise Unavailable("Kafka is away")
        return answer()

    log.end_offsets = ends  # type: ignore[method-assign]
    one = runner(log, [100, 100])
    one.look()
    try:
        away.set()
        eventually(lambda: one.status()["trouble"] == "Kafka is away")
        away.clear()
        eventually(lambda: one.status()["trouble"] is None)
        assert one.failure is None
    finally:
        one.stop(10)


def test_a_look_that_breaks_down_stops_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENDS_EVERY_S", 0.01)
    log = FakeLog({}, [0, 0])
    one = runner(log, [100, 100])
    log.end_offsets = lambda: [1 // 0]  # type: ignore[method-assign]
    one.look()
    eventually(lambda: isinstance(one.failure, ZeroDivisionError))
    one.stop(10)


def test_an_active_group_without_positions_is_waited_for() -> None:
    for committed, begins in (({0: 5}, [0, 0]), ({0: 5, 1: 3}, [0, 4])):
        log = FakeLog(committed, begins, active=2)
        runner(log, [5, 9]).prepare()
        assert log.kept == {0: 5, 1: 9}
    stopping = runner(FakeLog({}, [0, 0], active=99), [5, 9])
    stopping.begin_stop()
    with pytest.raises(Precondition, match="active"):
        stopping.prepare()


def message(**more: Any) -> Any:
    given = {"partition": 3, "offset": 9, "timestamp": 1_795_255_820.645, "value": b"frame"}
    return SimpleNamespace(**{**given, "headers": (), **more})


def test_messages_of_faust_become_records() -> None:
    assert record_of(message()) == Record(3, 9, 1_795_255_820_645, b"frame")
    assert record_of(message(value=None)).frame == b""
    root = Record(1, 2, 3, b"frame")
    for headers in ([root_header(root)], dict([root_header(root)])):
        assert record_of(message(headers=headers)) == root


def test_every_millisecond_survives_faust() -> None:
    for time_ms in range(1_795_255_820_000, 1_795_255_822_000):
        assert record_of(message(timestamp=time_ms / 1_000.0)).time_ms == time_ms


class FakeStream:
    """Batches as `noack_take` gives them."""

    def __init__(self, batches: list[list[Any]]) -> None:
        self.batches = batches

    async def noack_take(self, most: int, within: float) -> Any:
        for batch in self.batches:
            yield batch
            await asyncio.sleep(0)  # others have their turn, as while Faust waits


def events(start: int, count: int, acked: list[int]) -> list[Any]:
    def event(offset: int) -> Any:
        return SimpleNamespace(message=message(offset=offset), ack=lambda: acked.append(offset))

    return [event(offset) for offset in range(start, start + count)]


def test_nothing_is_acknowledged_before_it_is_applied_nor_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "WORKER_EVENTS_MAX", 3)
    applied: list[int] = []
    acked: list[int] = []
    made: Any = runner(FakeLog({}, [0, 0]), [0, 0])
    hold = threading.Event()

    def apply(records: list[Record], then: Any) -> None:
        hold.wait(5)
        if records[0].offset == 6:
            raise Precondition("a hole")
        applied.extend(record.offset for record in records)

    made._apply = apply
    stream = FakeStream([events(n, 3, acked) for n in (0, 3, 6, 9)])

    async def body() -> None:
        taking = asyncio.create_task(made.take(stream))
        await asyncio.sleep(0.05)
        assert acked == []
        hold.set()
        async with asyncio.timeout(5):
            while made.failure is None:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        taking.cancel()

    asyncio.run(body())
    assert applied == acked == [0, 1, 2, 3, 4, 5]
    assert isinstance(made.failure, Precondition)
    made._apply_pool.shutdown()


def batches_of(made: Any, count: int, size: int = 1) -> list[int]:
    """How large the batches are in which `count` events are applied that came while another was."""
    found: list[int] = []
    hold = threading.Event()

    def apply(records: list[Record], then: Any) -> None:
        hold.wait(5)
        found.append(len(records))

    made._apply = apply
    value = bytes(size)
    acked: list[int] = []
    taken = events(0, count, acked)
    for event in taken:
        event.message.value = value
    stream = FakeStream([taken[:1], *(taken[n : n + 1_000] for n in range(1, count, 1_000))])

    async def body() -> None:
        taking = asyncio.create_task(made.take(stream))
        await asyncio.sleep(0.2)
        hold.set()
        async with asyncio.timeout(10):
            while len(acked) < count:
                await asyncio.sleep(0.01)
        taking.cancel()

    asyncio.run(body())
    made._apply_pool.shutdown()
    assert acked == list(range(count))
    return found


def test_a_worker_that_lags_gathers_for_the_keys_that_the_store_aims_at() -> None:
    """Batches ended at 8,192 events, though the store aims at four times as many keys in bulk."""
    made: Any = runner(FakeLog({}, [0, 0]), [0, 0])
    assert batches_of(made, 30_000)[:2] == [1, limits.WORKER_EVENTS_MAX]
    made = runner(FakeLog({}, [0, 0]), [0, 0])
    made._store.keys_aim = 4 * limits.WORKER_KEYS_AIM
    assert batches_of(made, 60_001) == [1, 60_000]


def test_what_a_worker_gathers_is_bounded_by_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORKER_BYTES_MAX", 1_000)
    made: Any = runner(FakeLog({}, [0, 0]), [0, 0])
    assert batches_of(made, 26, 100) == [1, 10, 10, 5]
    made = runner(FakeLog({}, [0, 0]), [0, 0])
    assert batches_of(made, 3, 5_000) == [1, 1, 1], "one event may exceed it"


@pytest.fixture
def faust() -> Any:
    return pytest.importorskip("faust", reason="needs Faust")


def test_the_app_is_set_up_so_that_nothing_is_lost(faust: Any, tmp_path: Path) -> None:
    from cells.faust_app import build_app, refuse_unsafe

    async def body() -> None:
        taker: Any = SimpleNamespace(
            group="cell.c1", place=PLACE, folder=tmp_path, shared=False, take=None
        )
        app = build_app(taker)
        conf = app.conf
        assert (conf.id, conf.consumer_auto_offset_reset) == ("cell.c1", "none")
        assert not (conf.web_enabled or conf.topic_allow_declare or conf.stream_wait_empty)
        assert conf.topic_disable_leader and not conf.worker_redirect_stdouts
        # Faust's command line turns the web server on, and takes the log's handlers away.
        assert app.boot_strategy._should_enable_web() is False
        assert conf.logging_config["root"]["handlers"]
        names = (*REFUSED, "broker", "processing_guarantee", "consumer_auto_offset_reset")
        names += ("key_serializer", "value_serializer", "stream_publish_on_commit")
        safe = {name: getattr(conf, name) for name in names}
        exactly_once = SimpleNamespace(value="exactly_once")
        broker = [SimpleNamespace(scheme="confluent")]
        for name, value in (
            ("processing_guarantee", exactly_once),
            ("broker", broker),
            ("value_serializer", "pickle"),
            ("consumer_auto_offset_reset", "earliest"),
            *((name, True) for name in REFUSED),
        ):
            with pytest.raises(Misconfigured, match=name.rpartition("value_")[2].partition("_")[0]):
                refuse_unsafe(SimpleNamespace(**{**safe, name: value}))
        refuse_unsafe(SimpleNamespace(**safe))

    asyncio.run(body())


def test_plain_faust_names_what_is_missing(faust: Any, tmp_path: Path) -> None:
    from cells.faust_worker import plain_app

    file = tmp_path / "firecell.toml"
    file.write_text("[cells.c1]\n")
    with pytest.raises(Misconfigured, match="FIRECELL_CELL must name"):
        plain_app({"FIRECELL_CONFIG": str(file)})
    with pytest.raises(Misconfigured, match="kafka:// only"):
        plain_app({"FIRECELL_CONFIG": str(file), "FIRECELL_CELL": "c1"})
    assert load_settings(file, environment={}).cell("c1").name == "c1"
