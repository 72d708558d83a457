"""The positions of groups, kept by Kafka as committed offsets of consumer groups.

Kafka refuses single partitions without raising, so every answer is looked at and read back. It
forgets the offsets of an empty group after `offsets.retention.minutes` (7 days by default): a
cell's own durable vector is the truth, and is given back at its start.

Asked and written by a consumer that never joins. The admin client's questions to a group's
coordinator (list, alter, describe) are banned: while a broker starts or goes away they end the
whole process (confluent-kafka 2.16: a segmentation fault where the coordinator still loads the
group, a failed assertion of librdkafka where the connection is lost meanwhile).

One instance may be used from any thread: each call makes a consumer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from engine.errors import BadInput, Unavailable
from engine.limits import KAFKA_FENCED_STEP_S, KAFKA_TIMEOUT_S
from topics.catalog import check_group_name
from topics.kafka_client import base_settings, failure_of, library, result_of, when_settled
from topics.kafka_topic import KafkaTopic

_OFFSET_MAX = 2**63 - 1


class KafkaGroups:
    """What groups committed for one topic."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._kafka = library()
        self._topic = topic

    def commit(
        self,
        group: str,
        positions: Mapping[int, int],
        fence: Callable[[], None] | None = None,
    ) -> None:
        """Keep next offsets of some partitions. BadInput; Precondition when the group is active;
        Unavailable when what is read back differs. `fence` is called right before each attempt,
        which then is under way for KAFKA_FENCED_S at most; what it raises prevents it."""
        check_group_name(group)
        for partition, offset in positions.items():
            if not 0 <= partition < self._topic.partitions:
                raise BadInput(f"partition {partition}: the firehose has {self._topic.partitions}")
            if not 0 <= offset <= _OFFSET_MAX:
                raise BadInput(f"partition {partition}: {offset} is no offset")
        if not positions:
            return
        name = self._topic.name
        wanted = [self._kafka.TopicPartition(name, p, at) for p, at in positions.items()]
        what = f"setting the offsets of group {group}"

        def alter() -> list[Any]:
            if fence is not None:
                fence()
            return self._alter(consumer, wanted, what)

        if fence is not None:
            fence()  # whose time is over need not wait for a broker
        within_s = KAFKA_TIMEOUT_S if fence is None else KAFKA_FENCED_STEP_S
        with self._outsider(group, within_s) as consumer:
            self._fetch(consumer, group)  # so that its coordinator is there
            for place in when_settled(alter):
                if place.error is not None:
                    raise failure_of(place.error, f"{what}, partition {place.partition}")
            kept = self._fetch(consumer, group)
        wrong = [p for p, offset in positions.items() if kept.get(p) != offset]
        if wrong:
            raise Unavailable(
                f"Kafka: {what}: partition {wrong[0]} reads {kept.get(wrong[0])} after writing"
                f" {positions[wrong[0]]}: does somebody else move it?"
            )

    def committed(self, group: str) -> dict[int, int]:
        """Next offset per committed partition; empty for a group never seen."""
        check_group_name(group)
        with self._outsider(group) as consumer:
            return self._fetch(consumer, group)

    def groups(self) -> list[str]:
        """Names of the groups that have a position in this topic, sorted."""
        what = "listing groups"
        listed = result_of(
            self._topic.admin.list_consumer_groups(request_timeout=KAFKA_TIMEOUT_S), what
        )
        names: list[str] = []
        for listing in listed.valid:
            try:
                if self.committed(listing.group_id):
                    names.append(listing.group_id)
            except BadInput:  # a name that is none of ours
                continue
        return sorted(names)

    @contextmanager
    def _outsider(self, group: str, within_s: int = KAFKA_TIMEOUT_S) -> Iterator[Any]:
        """A consumer that never joins the group."""
        settings = base_settings(self._topic.servers) | {
            "group.id": group,
            "enable.auto.commit": False,
            # What bounds a commit: how long a coordinator is waited for, and an answer.
            "session.timeout.ms": within_s * 1_000,
            "socket.timeout.ms": within_s * 1_000,
        }
        consumer = self._kafka.Consumer(settings)
        try:
            yield consumer
        finally:
            consumer.close()

    def _fetch(self, consumer: Any, group: str) -> dict[int, int]:
        """Next offset per committed partition, asked until the coordinator is settled."""
        places = [
            self._kafka.TopicPartition(self._topic.name, partition)
            for partition in range(self._topic.partitions)
        ]
        what = f"reading the offsets of group {group}"
        found: dict[int, int] = {}
        for place in when_settled(lambda: self._ask(consumer, places, what)):
            if place.error is not None:
                raise failure_of(place.error, f"{what}, partition {place.partition}")
            if place.offset >= 0:
                found[place.partition] = place.offset
        return found

    def _ask(self, consumer: Any, places: list[Any], what: str) -> list[Any]:
        try:
            answer: list[Any] = consumer.committed(places, timeout=KAFKA_TIMEOUT_S)
            return answer
        except self._kafka.KafkaException as error:
            raise failure_of(error, what) from None

    def _alter(self, consumer: Any, wanted: list[Any], what: str) -> list[Any]:
        try:
            answer: list[Any] = consumer.commit(offsets=wanted, asynchronous=False)
            return answer
        except self._kafka.KafkaException as error:
            raise failure_of(error, what) from None
