"""Reads of a Kafka topic by partition and offset: the port's `read`, without seeking each time.

A *lane* is one partition that is being read: the consumer is assigned to it and fetches ahead, and
what came is kept until a read asks for something behind it. A read that goes on where the last one
ended is served from its lane; any other one starts the lane anew. A lane that holds its share is
parked: nothing more is fetched for it until it has run dry. (Who reads 32 partitions in turn was
sent 20 MB of each meanwhile, of which nine tenths were dropped to make room, and fetched again.)
Lanes are bounded by bytes together, too, and `_bound` says which one goes.

Assigned by hand, in no group, so nothing of Kafka's group protocol is involved. Any thread; one
read at a time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import Any

from engine.errors import RetentionPassed, Unavailable
from engine.limits import (
    KAFKA_CONSUME_RECORDS,
    KAFKA_FETCH_BYTES,
    KAFKA_FETCH_PAUSE_MS,
    KAFKA_FETCH_WAIT_MS,
    KAFKA_LANE_BYTES_MIN,
    KAFKA_POLL_S,
    KAFKA_QUEUED_BYTES_MAX,
    KAFKA_READ_AHEAD_BYTES_MAX,
    KAFKA_TIMEOUT_S,
)
from engine.ports import Record
from topics.kafka_client import base_settings, failure_of, library
from topics.kafka_records import record_of
from topics.kafka_topic import KafkaTopic

_RECORD_BYTES_OVERHEAD = 200  # of a tuple, its numbers and its bytes object
_UNPACKED_TIMES_MAX = 32  # a small record, unpacked and as an object, against its bytes in Kafka


class _Lane:
    """What was fetched of one partition: (Kafka offset, record), `next` is what comes then."""

    __slots__ = ("bytes", "next", "parked", "read_at", "records")

    def __init__(self, offset: int) -> None:
        self.next = offset
        self.records: deque[tuple[int, Record]] = deque()
        self.bytes = 0
        self.parked = False
        self.read_at = time.monotonic()

    def holds(self, offset: int) -> bool:
        first = self.records[0][0] if self.records else self.next
        return first <= offset <= self.next

    def add(self, offset: int, record: Record) -> None:
        self.records.append((offset, record))
        self.bytes += len(record.frame) + _RECORD_BYTES_OVERHEAD
        self.next = offset + 1

    def drop_below(self, offset: int) -> None:
        while self.records and self.records[0][0] < offset:
            _, record = self.records.popleft()
            self.bytes -= len(record.frame) + _RECORD_BYTES_OVERHEAD


class KafkaReader:
    """Reads one topic; see the module."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._kafka = library()
        self._topic = topic
        self._lock = threading.Lock()
        self._lanes: OrderedDict[int, _Lane] = OrderedDict()  # read longest ago first
        self._share = max(KAFKA_READ_AHEAD_BYTES_MAX // topic.partitions, KAFKA_LANE_BYTES_MIN)
        self._consumer = self._kafka.Consumer(_settings(topic))
        self._closed = False

    def read(self, partition: int, offset: int, records_max: int, bytes_max: int) -> list[Record]:
        """As the port says. Unavailable when no broker answers in time."""
        with self._lock:
            lane = self._lanes.get(partition)
            if lane is None or not lane.holds(offset):
                if offset >= self._topic.end(partition):
                    return []
                lane = self._start(partition, offset)
            self._lanes.move_to_end(partition)
            lane.read_at = time.monotonic()
            lane.drop_below(offset)
            if not _suffices(lane, records_max, bytes_max):
                self._fill(partition, lane, records_max, bytes_max)
            return _taken(lane, records_max, bytes_max)

    def close(self) -> None:
        """Leave the broker alone. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._lanes.clear()
                self._consumer.close()

    def _start(self, partition: int, offset: int) -> _Lane:
        if partition in self._lanes:
            self._drop(partition)
        self._assign(partition, offset)
        lane = self._lanes[partition] = _Lane(offset)
        return lane

    def _drop(self, partition: int) -> None:
        lane = self._lanes.pop(partition)
        if not lane.parked:
            self._unassign(partition)

    def _park_full(self, but: int | None = None) -> None:
        """Fetch no more for lanes that hold their share, but for the one that a read waits for."""
        for partition, lane in self._lanes.items():
            if lane.bytes > self._share and not lane.parked and partition != but:
                self._unassign(partition)
                lane.parked = True

    def _assign(self, partition: int, offset: int) -> None:
        place = self._kafka.TopicPartition(self._topic.name, partition, offset)
        try:
            self._consumer.incremental_assign([place])
        except self._kafka.KafkaException as error:
            raise failure_of(error, f"reading {self._topic.name!r}") from None

    def _unassign(self, partition: int) -> None:
        place = self._kafka.TopicPartition(self._topic.name, partition)
        try:
            self._consumer.incremental_unassign([place])
        except self._kafka.KafkaException as error:
            raise failure_of(error, f"reading {self._topic.name!r}") from None

    def _fill(self, partition: int, lane: _Lane, records_max: int, bytes_max: int) -> None:
        """Take what comes until the read is full or at the end of the partition as it is now."""
        end = self._topic.end(partition)
        deadline = time.monotonic() + KAFKA_TIMEOUT_S
        while lane.next < end and not _suffices(lane, records_max, bytes_max):
            if time.monotonic() > deadline:
                if lane.records:
                    return
                self._drop(partition)
                raise Unavailable(
                    f"Kafka: partition {partition} of {self._topic.name!r} gave nothing from"
                    f" {lane.next} on for {KAFKA_TIMEOUT_S} s, though it ends at {end}"
                )
            if lane.parked:
                self._assign(partition, lane.next)
                lane.parked = False
            self._pump(partition)
        self._park_full()
        self._bound(partition)

    def _pump(self, wanted: int) -> None:
        """Put what has come into its lanes. What a lane does not wait for is from before it was
        started anew."""
        messages = self._consumer.consume(1, KAFKA_POLL_S)  # asked for more, it waits for all
        messages += self._consumer.consume(KAFKA_CONSUME_RECORDS, 0)
        for message in messages:
            if message.error() is not None:
                self._trouble(message, wanted)
                continue
            lane = self._lanes.get(message.partition())
            if lane is not None and message.offset() == lane.next:
                lane.add(message.offset(), record_of(message))
        self._park_full(but=wanted)

    def _trouble(self, message: Any, wanted: int) -> None:
        """An error of one partition: out of range means that retention has passed its place. The
        library itself goes on after lost connections, so those are waited for."""
        error, partition = message.error(), message.partition()
        if error.name() not in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
            return
        lane = self._lanes.get(partition)
        if lane is None:
            return
        self._drop(partition)
        if partition == wanted:
            self.refuse_passed(partition, lane.next)
            raise Unavailable(f"Kafka: partition {partition} has lost its place at {lane.next}")

    def refuse_passed(self, partition: int, offset: int) -> None:
        """RetentionPassed when `offset` lies below the oldest kept."""
        floor = self._topic.begin(partition)
        if offset < floor:
            raise RetentionPassed(
                f"partition {partition}: offset {offset} is below the oldest kept, {floor}: the"
                " retention has passed it",
                floor=floor,
            )

    def _bound(self, keep: int) -> None:
        """Drop lanes until the rest is within the bound: first those that nobody reads any more,
        then the one read last: who reads in turn comes back to it after all the others."""
        total = sum(lane.bytes for lane in self._lanes.values())
        now = time.monotonic()
        left = [p for p, lane in self._lanes.items() if now - lane.read_at > KAFKA_TIMEOUT_S]
        for partition in [*left, *reversed(list(self._lanes)[len(left) :])]:
            if total <= KAFKA_READ_AHEAD_BYTES_MAX:
                return
            if partition != keep:
                total -= self._lanes[partition].bytes
                self._drop(partition)


def _settings(topic: KafkaTopic) -> dict[str, Any]:
    # What comes for all partitions at once has to fit into the lanes, small records' overhead
    # included: else each is dropped for another one, again and again.
    fetch_bytes = KAFKA_READ_AHEAD_BYTES_MAX // (_UNPACKED_TIMES_MAX * topic.partitions)
    return base_settings(topic.servers) | {
        "group.id": "firecell.reads",  # the library wants a name; nothing is committed to it
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": KAFKA_FETCH_WAIT_MS,
        "fetch.queue.backoff.ms": KAFKA_FETCH_PAUSE_MS,
        "fetch.message.max.bytes": min(fetch_bytes, KAFKA_FETCH_BYTES),
        "queued.max.messages.kbytes": KAFKA_QUEUED_BYTES_MAX // 1024,
        "queued.min.messages": 1,
    }


def _suffices(lane: _Lane, records_max: int, bytes_max: int) -> bool:
    """Whether the lane holds all that a read may take. Cheap first: most lanes hold far less."""
    count = len(lane.records)
    return count >= records_max or (
        lane.bytes - count * _RECORD_BYTES_OVERHEAD >= bytes_max and count > 0
    )


def _taken(lane: _Lane, records_max: int, bytes_max: int) -> list[Record]:
    """The first records of a lane within both bounds, at least one if there is any."""
    taken: list[Record] = []
    size = 0
    for _, record in lane.records:
        size += len(record.frame)
        if len(taken) == records_max or (taken and size > bytes_max):
            break
        taken.append(record)
    return taken
