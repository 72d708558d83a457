"""The positions of groups, kept by Kafka as committed offsets of consumer groups.

Kafka refuses single partitions without raising, so every answer is looked at and read back. It
forgets the offsets of an empty group after `offsets.retention.minutes` (7 days by default): a
cell's own durable vector is the truth, and is given back at its start.

One instance may be used from any thread: the admin client is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import BadInput, FirecellError, Unavailable
from engine.limits import KAFKA_TIMEOUT_S
from topics.catalog import check_group_name
from topics.kafka_client import base_settings, failure_of, library, result_of, when_settled
from topics.kafka_topic import KafkaTopic

_OFFSET_MAX = 2**63 - 1
_ACTIVE_STATES = frozenset({"STABLE", "PREPARING_REBALANCING", "COMPLETING_REBALANCING"})


class KafkaGroups:
    """What groups committed for one topic."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._kafka = library()
        self._topic = topic

    def commit(self, group: str, positions: Mapping[int, int]) -> None:
        """Keep next offsets of some partitions. BadInput; Precondition when the group is active;
        Unavailable when what is read back differs."""
        check_group_name(group)
        for partition, offset in positions.items():
            if not 0 <= partition < self._topic.partitions:
                raise BadInput(f"partition {partition}: the firehose has {self._topic.partitions}")
            if not 0 <= offset <= _OFFSET_MAX:
                raise BadInput(f"partition {partition}: {offset} is no offset")
        if not positions:
            return
        self.committed(group)  # so that its coordinator is there
        name = self._topic.name
        wanted = [self._kafka.TopicPartition(name, p, at) for p, at in positions.items()]
        what = f"setting the offsets of group {group}"
        asked = self._kafka.ConsumerGroupTopicPartitions(group, wanted)
        answer = when_settled(lambda: self._alter(asked, what))
        for place in answer.topic_partitions:
            if place.error is not None:
                raise failure_of(place.error, f"{what}, partition {place.partition}")
        kept = self.committed(group)
        wrong = [p for p, offset in positions.items() if kept.get(p) != offset]
        if wrong:
            raise Unavailable(
                f"Kafka: {what}: partition {wrong[0]} reads {kept.get(wrong[0])} after writing"
                f" {positions[wrong[0]]}: does somebody else move it?"
            )

    def committed(self, group: str) -> dict[int, int]:
        """Next offset per committed partition; empty for a group never seen."""
        check_group_name(group)
        places = [
            self._kafka.TopicPartition(self._topic.name, partition)
            for partition in range(self._topic.partitions)
        ]
        what = f"reading the offsets of group {group}"
        answer = when_settled(lambda: self._fetch(group, places, what))
        found: dict[int, int] = {}
        for place in answer:
            if place.error is not None:
                raise failure_of(place.error, f"{what}, partition {place.partition}")
            if place.offset >= 0:
                found[place.partition] = place.offset
        return found

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

    def members(self, group: str) -> int:
        """How many members a group has now; 0 for one that is empty or unknown."""
        what = f"describing group {group}"
        try:
            futures = self._topic.admin.describe_consumer_groups(
                [group], request_timeout=KAFKA_TIMEOUT_S
            )
            described = result_of(futures[group], what)
        except FirecellError as error:
            if "GROUP_ID_NOT_FOUND" in error.message or "not exist" in error.message:
                return 0
            raise
        active = described.state.name in _ACTIVE_STATES
        return max(len(described.members), int(active))

    def _fetch(self, group: str, places: list[Any], what: str) -> list[Any]:
        """Asked as a consumer that never joins. The admin client's question is not used: where the
        group's coordinator is still loading (a broker that has just started) it ends the process
        by a segmentation fault (confluent-kafka 2.16)."""
        settings = base_settings(self._topic.servers) | {"group.id": group}
        consumer = self._kafka.Consumer(settings | {"enable.auto.commit": False})
        try:
            fetched: list[Any] = consumer.committed(places, timeout=KAFKA_TIMEOUT_S)
            return fetched
        except self._kafka.KafkaException as error:
            raise failure_of(error, what) from None
        finally:
            consumer.close()

    def _alter(self, asked: Any, what: str) -> Any:
        try:
            alter = self._topic.admin.alter_consumer_group_offsets
            futures = alter([asked], request_timeout=KAFKA_TIMEOUT_S)
        except self._kafka.KafkaException as error:
            raise failure_of(error, what) from None
        return result_of(futures[asked.group_id], what)
