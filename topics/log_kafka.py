"""The port `Log` on Kafka: a topic is a firehose, its partitions are the firehose's.

| what | where |
| --- | --- |
| identity, partitions, ends, look-ups by time | kafka_topic |
| reads by partition and offset | kafka_reader |
| positions of groups | kafka_groups |
| appends | here |

An append is answered when every broker in sync has it (`acks=all`), and every delivery report is
looked at. The producer is idempotent: its own retries neither repeat nor reorder. There are no
transactions: their markers take offsets, and a firehose's offsets have no holes. So an append that
fails may have kept a part of it, and says so: publishing the same again changes nothing where
posts bring their ids.

Several processes and threads may append and read at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.errors import BadInput, FirecellError, Precondition, TooLarge, Unavailable, invariant
from engine.limits import (
    APPEND_BYTES_MAX,
    EVENT_BYTES_MAX,
    GROUP_COMMIT_ENTRIES_MAX,
    KAFKA_APPEND_S,
    KAFKA_BATCH_BYTES,
    KAFKA_LINGER_MS,
    KAFKA_POLL_S,
    KAFKA_SEND_BYTES_MAX,
    KAFKA_SEND_ENTRIES_MAX,
    READ_BYTES_MAX,
    READ_RECORDS_MAX,
    RETENTION_MS_DEFAULT,
)
from engine.ports import Record
from topics import catalog
from topics.kafka_client import base_settings, failure_of, library
from topics.kafka_groups import KafkaGroups
from topics.kafka_reader import KafkaReader
from topics.kafka_topic import KafkaTopic
from topics.urls import KafkaPlace

_log = logging.getLogger("firecell.kafka")


class KafkaLog:
    """A firehose in Kafka; see the module. Any thread, any number of processes."""

    def __init__(self, topic: KafkaTopic, retention_ms: int) -> None:
        """Use `KafkaLog.open`."""
        self.identity = topic.identity
        self.partitions = topic.partitions
        self.retention_ms = retention_ms
        self._topic = topic
        self._groups = KafkaGroups(topic)
        self._append_lock = threading.Lock()
        self._open_lock = threading.Lock()
        self._sender: _Sender | None = None
        self._reader: KafkaReader | None = None
        self._closed = False

    @classmethod
    def open(
        cls,
        place: KafkaPlace,
        *,
        partitions: int | None = None,
        retention_ms: int = RETENTION_MS_DEFAULT,
        create: bool = True,
    ) -> KafkaLog:
        """The firehose in a topic, made when missing and `create`; then its retention is set, too.

        Misconfigured when the topic has other partitions or unfit settings, or the client library
        is missing; NotFound when it is missing and not `create`; Unavailable.
        """
        catalog.check_retention_ms(retention_ms)
        if partitions is not None:
            catalog.check_partitions(partitions)
        topic = KafkaTopic(place)
        topic.open(partitions, retention_ms, create=create, replication=place.replication)
        return cls(topic, retention_ms)

    def append(self, entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
        """Append (partition, frame) pairs in order; (offset, append time in Unix ms) of each,
        acknowledged by every broker in sync.

        Raises BadInput and TooLarge (bounds): then nothing was kept. DiskFull, Unavailable: a part
        may have been kept.
        """
        self._check_open()
        if not entries:
            return []
        self._check_entries(entries)
        with self._append_lock:
            if self._sender is None:
                self._sender = _Sender(self._topic)
            try:
                return self._sender.send(entries)
            except Unavailable:
                if self._sender.failed:
                    self._sender = None  # the next append begins with a new one
                raise

    def read(self, partition: int, offset: int, records_max: int, bytes_max: int) -> list[Record]:
        """Records from `offset` on, at least one if there is any, within the two bounds (and
        READ_RECORDS_MAX, READ_BYTES_MAX).

        Empty at the end and beyond. RetentionPassed (`floor`) below the oldest kept; BadInput.
        """
        self._check_open()
        self._check_partition(partition)
        if offset < 0 or records_max < 1 or bytes_max < 1:
            raise BadInput(f"read of {records_max} records, {bytes_max} bytes from {offset}")
        with self._open_lock:
            if self._reader is None:
                self._reader = KafkaReader(self._topic)
        return self._reader.read(
            partition, offset, min(records_max, READ_RECORDS_MAX), min(bytes_max, READ_BYTES_MAX)
        )

    def begin_offsets(self) -> list[int]:
        """Per partition the oldest kept offset."""
        self._check_open()
        return self._topic.begins()

    def end_offsets(self) -> list[int]:
        """Per partition the next offset to be appended. One question to each broker."""
        self._check_open()
        return self._topic.ends()

    def offsets_at(self, time_ms: int) -> list[int]:
        """Per partition the first kept offset appended at `time_ms` or later; the end where there
        is none. Two questions to each broker."""
        self._check_open()
        return self._topic.offsets_at(time_ms)

    def oldest_ms(self) -> list[int]:
        """Per partition the append time of the oldest kept event, Unix ms; -1 where there is none.
        One question to each broker."""
        self._check_open()
        return self._topic.oldest_ms()

    def commit(
        self,
        group: str,
        positions: Mapping[int, int],
        fence: Callable[[], None] | None = None,
    ) -> None:
        """Keep next offsets of some partitions for a group. BadInput; Precondition while the group
        has members; Unavailable; what `fence`, called right before the write, raises."""
        self._check_open()
        self._groups.commit(group, positions, fence)

    def committed(self, group: str) -> dict[int, int]:
        """The group's kept next offsets; empty for a group never seen."""
        self._check_open()
        return self._groups.committed(group)

    def groups(self) -> list[str]:
        """Names of all groups that have a position here."""
        self._check_open()
        return self._groups.groups()

    def forget(self, group: str) -> None:
        """Precondition: a group of Kafka may have places in other topics, and ends by itself."""
        raise Precondition(
            f"group {group!r}: Kafka forgets what nobody has used for offsets.retention.minutes by"
            " itself; its own tools delete a group at once"
        )

    def apply_retention(self, now_ms: int) -> int:
        """Kafka does it by itself: 0."""
        self._check_open()
        return 0

    def stats(self) -> dict[str, int]:
        """For metrics: `records` kept."""
        return {"records": sum(self.end_offsets()) - sum(self.begin_offsets())}

    def release(self) -> None:
        """Give back what reads have opened; the next read opens it again."""
        with self._open_lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    def close(self) -> None:
        """Give everything back. Idempotent; an append under way ends first."""
        with self._append_lock:
            self._closed = True
            self._sender = None
        self.release()

    def _check_open(self) -> None:
        if self._closed:
            raise Precondition("this firehose was closed; open it again")

    def _check_partition(self, partition: int) -> None:
        if not 0 <= partition < self.partitions:
            raise BadInput(
                f"partition {partition}: the firehose has 0..{self.partitions - 1}", "partition"
            )

    def _check_entries(self, entries: Sequence[tuple[int, bytes]]) -> None:
        if len(entries) > GROUP_COMMIT_ENTRIES_MAX:
            raise TooLarge(f"{len(entries)} entries at once; at most {GROUP_COMMIT_ENTRIES_MAX}")
        lengths = [len(frame) for _, frame in entries]
        if sum(lengths) > APPEND_BYTES_MAX or max(lengths) > EVENT_BYTES_MAX:
            raise TooLarge(
                f"{sum(lengths)} bytes at once, {max(lengths)} in one frame; at most"
                f" {APPEND_BYTES_MAX} and {EVENT_BYTES_MAX}"
            )
        for partition in {partition for partition, _ in entries}:
            self._check_partition(partition)


class _Sender:
    """One idempotent producer. One `send` at a time. `failed`: it can't be used any more."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._kafka = library()
        self._topic = topic
        self._producer = self._kafka.Producer(_settings(topic.servers))
        self.failed = False

    def send(self, entries: Sequence[tuple[int, bytes]]) -> list[tuple[int, int]]:
        """(offset, append time) of every entry, or the first error."""
        placed: dict[int, deque[tuple[int, int]]] = {partition: deque() for partition, _ in entries}
        errors: list[Any] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                errors.append(error)
            else:
                placed[message.partition()].append((message.offset(), message.timestamp()[1]))

        deadline = time.monotonic() + KAFKA_APPEND_S
        try:
            for partition, frame in entries:
                self._produce(partition, frame, delivered, deadline)
            left = self._producer.flush(max(deadline - time.monotonic(), KAFKA_POLL_S))
            if left:
                raise Unavailable(f"Kafka: {left} messages were not taken in {KAFKA_APPEND_S} s")
        except Unavailable as error:
            self._give_up()
            raise _partly(errors[0] if errors else error, self._topic.name) from None
        if errors:
            self._give_up()
            raise _partly(errors[0], self._topic.name)
        invariant(sum(map(len, placed.values())) == len(entries), "a message without a report")
        return [placed[partition].popleft() for partition, _ in entries]

    def _produce(self, partition: int, frame: bytes, delivered: Any, deadline: float) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic.name, frame, partition=partition, on_delivery=delivered
                )
                return
            except BufferError:  # full: what was sent has to be taken first
                if time.monotonic() > deadline:
                    raise Unavailable(f"Kafka took nothing for {KAFKA_APPEND_S} s") from None
                self._producer.poll(KAFKA_POLL_S)
            except self._kafka.KafkaException as error:
                raise Unavailable(failure_of(error, "appending").message) from None

    def _give_up(self) -> None:
        """Messages that were not taken must not follow later: drop them, and this producer."""
        self.failed = True
        self._producer.purge()
        self._producer.flush(KAFKA_POLL_S)


def _partly(error: Any, topic: str) -> FirecellError:
    what = f"appending to {topic}"
    found = error if isinstance(error, FirecellError) else failure_of(error, what)
    if not isinstance(found, Unavailable):
        found = Unavailable(found.message)
    found.message += "; a part of this append may have been kept: publish it again"
    return found


def _settings(servers: str) -> dict[str, Any]:
    return base_settings(servers) | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": KAFKA_LINGER_MS,
        "batch.size": KAFKA_BATCH_BYTES,
        "compression.type": "lz4",
        "message.timeout.ms": KAFKA_APPEND_S * 1_000,
        "request.timeout.ms": KAFKA_APPEND_S * 1_000 // 2,
        "queue.buffering.max.kbytes": KAFKA_SEND_BYTES_MAX // 1024,
        "queue.buffering.max.messages": KAFKA_SEND_ENTRIES_MAX,
    }
