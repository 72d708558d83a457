"""The firehose on a real Kafka, beyond the contract: topics, identity, retention, copies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from engine.codec import encode
from engine.errors import (
    Corruption,
    Misconfigured,
    NotFound,
    Precondition,
    RetentionPassed,
    Unavailable,
)
from engine.ports import Record
from tests import kafka_broker
from tests.topics.memory_log import post
from topics import groups_rewind
from topics.groups_shapes import RewindIn
from topics.kafka_records import ROOT_HEADER, relayed, root_header
from topics.log_kafka import KafkaLog
from topics.urls import KafkaPlace

real = pytest.mark.real


@pytest.fixture
def place() -> KafkaPlace:
    return kafka_broker.new_place()


@pytest.fixture
def log(place: KafkaPlace) -> Iterator[KafkaLog]:
    log = KafkaLog.open(place, partitions=2)
    yield log
    log.close()


def admin(place: KafkaPlace) -> Any:
    return kafka_broker.admin(place.servers)


def make(place: KafkaPlace, **config: str) -> None:
    from confluent_kafka.admin import NewTopic

    topic = NewTopic(place.topic, num_partitions=2, replication_factor=1, config=config)
    admin(place).create_topics([topic])[place.topic].result()


def test_a_relayed_copy_keeps_its_root() -> None:
    record = Record(7, 2**40, 1_795_255_820_645, b"frame")
    name, value = root_header(record)
    assert name == ROOT_HEADER
    assert value.hex() == "010007" "0000010000000000" "000001a1fd95e165"
    assert relayed([("other", b"x"), (name, value)], b"frame") == record
    assert relayed([("other", b"x")], b"frame") is None
    for wrong in (b"", value[:-1], b"\x02" + value[1:]):
        with pytest.raises(Corruption):
            relayed([(name, wrong)], b"frame")


def test_no_broker_is_unavailable_and_says_where() -> None:
    pytest.importorskip("confluent_kafka", reason="needs Kafka's client")
    with pytest.raises(Unavailable, match="is the broker running"):
        KafkaLog.open(KafkaPlace("127.0.0.1:1", "t", 1), partitions=2)


@real
def test_the_topic_is_made_as_a_firehose_needs_it(place: KafkaPlace, log: KafkaLog) -> None:
    from confluent_kafka.admin import ConfigResource

    resource = ConfigResource(ConfigResource.Type.TOPIC, place.topic)
    entries = admin(place).describe_configs([resource])[resource].result()
    settings = {name: entry.value for name, entry in entries.items()}
    assert settings["message.timestamp.type"] == "LogAppendTime"
    assert settings["cleanup.policy"] == "delete"
    assert settings["segment.ms"] == "3600000"
    assert settings["retention.ms"] == str(7 * 24 * 3_600_000)
    again = KafkaLog.open(place, partitions=None, retention_ms=120_000)
    entries = admin(place).describe_configs([resource])[resource].result()
    assert (entries["retention.ms"].value, entries["segment.ms"].value) == ("120000", "120000")
    again.close()


@real
def test_other_partitions_and_missing_topics_are_named(place: KafkaPlace) -> None:
    with pytest.raises(NotFound, match="firecell up"):
        KafkaLog.open(place, partitions=2, create=False)
    KafkaLog.open(place, partitions=2).close()
    with pytest.raises(Misconfigured, match="partitions = 2, or use another topic"):
        KafkaLog.open(place, partitions=3)
    assert KafkaLog.open(place).partitions == 2


@real
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"message.timestamp.type": "CreateTime"}, "LogAppendTime"),
        ({"message.timestamp.type": "LogAppendTime", "cleanup.policy": "compact"}, "middle"),
        ({"message.timestamp.type": "LogAppendTime", "max.message.bytes": "1000"}, "max.message"),
    ],
)
def test_unfit_topics_are_refused(place: KafkaPlace, config: dict[str, str], says: str) -> None:
    make(place, **config)
    with pytest.raises(Misconfigured, match=says):
        KafkaLog.open(place, partitions=2)


@real
def test_a_topic_made_again_is_another_firehose(place: KafkaPlace) -> None:
    first = KafkaLog.open(place, partitions=2)
    first.close()
    admin(place).delete_topics([place.topic])[place.topic].result()
    deadline = time.monotonic() + 20
    while True:
        try:
            KafkaLog.open(place, create=False).close()
        except NotFound:
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = KafkaLog.open(place, partitions=2)
    assert second.identity != first.identity
    second.close()


@real
def test_retention_that_passed_is_named_with_its_floor(place: KafkaPlace, log: KafkaLog) -> None:
    from confluent_kafka import TopicPartition

    log.append([(0, b"%d" % number) for number in range(20)])
    assert log.read(0, 3, 1, 100)[0].frame == b"3"
    gone = TopicPartition(place.topic, 0, 10)
    admin(place).delete_records([gone])[gone].result()
    assert log.begin_offsets() == [10, 0]
    other = KafkaLog.open(place)
    with pytest.raises(RetentionPassed) as caught:
        other.read(0, 5, 1, 100)
    assert caught.value.extra["floor"] == 10
    assert other.read(0, 10, 1, 100)[0].frame == b"10"
    assert other.offsets_at(0) == [10, 0], "clamped to the oldest kept"
    assert other.oldest_ms() == [other.read(0, 10, 1, 100)[0].time_ms, -1]
    other.close()


@real
def test_reads_of_many_partitions_in_turn_lose_nothing(place: KafkaPlace) -> None:
    log = KafkaLog.open(kafka_broker.new_place(), partitions=7)
    for number in range(40):
        log.append([(partition, b"%d" % number) for partition in range(7)] * 10)
    at = [0] * 7
    while any(offset < 400 for offset in at):
        for partition, offset in enumerate(at):
            records = log.read(partition, offset, 37, 10_000)
            assert [record.offset for record in records] == list(
                range(offset, offset + len(records))
            )
            at[partition] += len(records)
    assert log.read(3, 7, 5, 10_000)[0].frame == b"0", "and backwards"
    log.release()
    assert [record.offset for record in log.read(3, 398, 5, 10_000)] == [398, 399]
    log.close()


@real
def test_a_group_with_members_is_not_moved(place: KafkaPlace, log: KafkaLog) -> None:
    from confluent_kafka import Consumer

    log.append([(0, b"x")])
    settings = {"bootstrap.servers": place.servers, "group.id": f"busy.{place.topic}"}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest"})
    consumer.subscribe([place.topic])
    deadline = time.monotonic() + 20
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    with pytest.raises(Precondition, match="stop its members"):
        log.commit(f"busy.{place.topic}", {0: 1})
    consumer.close()
    log.commit(f"busy.{place.topic}", {0: 1})
    assert log.committed(f"busy.{place.topic}") == {0: 1}


@real
def test_a_rewind_over_many_partitions_asks_each_question_once(
    place: KafkaPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked partition by partition: 4.9 s for 32 of them."""
    log = KafkaLog.open(place, partitions=32)
    frame = encode(post(7, "x"))
    log.append([(partition, frame) for partition in range(32) for _ in range(3)])
    log.append([(0, frame)] * 1_000)
    log.commit("g", dict(enumerate(log.end_offsets())))
    asked: list[int] = []
    ask = log._topic._ask_once

    def counted(specs: Any) -> Any:
        asked.append(len(specs))
        return ask(specs)

    monkeypatch.setattr(log._topic, "_ask_once", counted)
    now_ms = int(time.time() * 1_000)
    started = time.perf_counter()
    plan = groups_rewind.plan(log, "g", RewindIn(to_datetime="7d"), now_ms)
    seconds = time.perf_counter() - started
    assert plan.events == 1_096 and not any(part.clamped for part in plan.partitions)
    assert all(part.oldest for part in plan.partitions)
    assert asked.count(32) == 6, "begins, ends twice, the oldest times; ends and offsets by time"
    assert len(asked) <= 9, "beside them, one partition is read from"
    assert seconds < 1
    log.close()
