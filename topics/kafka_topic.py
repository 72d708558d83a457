"""A firehose's topic: made once with the settings that it needs, checked at every open, looked up.

The firehose's identity is the id that Kafka gave the topic when it was made: it survives restarts
and upgrades, and a topic that was deleted and made again has another, so no second record of it can
be lost, torn or out of step. The number of partitions is the topic's own.

One `KafkaTopic` may be used from any thread: the admin client is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.errors import Misconfigured, NotFound, Unavailable
from engine.limits import (
    EVENT_BYTES_MAX,
    KAFKA_LEADERS_S,
    KAFKA_MESSAGE_BYTES_DEFAULT,
    KAFKA_SEGMENT_MS,
    KAFKA_SETTLE_S,
    KAFKA_TIMEOUT_S,
    PARTITIONS_DEFAULT,
    PARTITIONS_MAX,
    WAIT_STEP_S,
)
from topics.kafka_client import (
    base_settings,
    failure_of,
    library,
    result_of,
    results_of,
    when_settled,
)
from topics.urls import KafkaPlace

_log = logging.getLogger("firecell.kafka")


class _Place(NamedTuple):
    """What Kafka answers about one partition; both -1 where there is nothing. The timestamp comes
    only with look-ups by time."""

    offset: int
    timestamp: int


class KafkaTopic:
    """The topic `place.topic`; `identity` and `partitions` are the firehose's."""

    def __init__(self, place: KafkaPlace) -> None:
        self._kafka = library()
        self._admin_module = library("confluent_kafka.admin")
        self.name = place.topic
        self.servers = place.servers
        self.identity = ""
        self.partitions = 0
        self.admin = self._admin_module.AdminClient(base_settings(place.servers))

    def open(
        self, partitions: int | None, retention_ms: int, *, create: bool, replication: int
    ) -> None:
        """Find the topic, make it when missing and `create`, and check it.

        NotFound when missing; Misconfigured when it has another number of partitions or settings
        that would lose or reorder events; Unavailable when no broker answers.
        """
        found = self._describe()
        if found is None and not create:
            raise NotFound(
                f"no topic {self.name!r} at {self.servers}: check [firehose] url, or start"
                " `firecell up` first"
            )
        if found is None:
            self._create(partitions or PARTITIONS_DEFAULT, retention_ms, replication)
            found = self._settled()
        self.partitions = len(found.partitions)
        self.identity = _hexadecimal(found.topic_id)
        if partitions is not None and partitions != self.partitions:
            raise Misconfigured(
                f"topic {self.name!r} at {self.servers} has {self.partitions} partitions, the"
                f" configuration says {partitions}. The number can never change: set [firehose]"
                f" partitions = {self.partitions}, or use another topic for a new firehose"
            )
        if self.partitions > PARTITIONS_MAX:
            raise Misconfigured(f"topic {self.name!r} has more than {PARTITIONS_MAX} partitions")
        self._check_settings(retention_ms, change=create)

    def ends(self) -> list[int]:
        """Per partition the next offset to be appended; one question for all of them."""
        return self._offsets(self._admin_module.OffsetSpec.latest())

    def begins(self) -> list[int]:
        """Per partition the oldest kept offset."""
        return self._offsets(self._admin_module.OffsetSpec.earliest())

    def end(self, partition: int) -> int:
        """One partition's next offset."""
        return self._ask({partition: self._admin_module.OffsetSpec.latest()})[partition].offset

    def begin(self, partition: int) -> int:
        """One partition's oldest kept offset."""
        return self._ask({partition: self._admin_module.OffsetSpec.earliest()})[partition].offset

    def offsets_at(self, time_ms: int) -> list[int]:
        """Per partition the first offset appended at `time_ms` or later. Kafka says -1 where there
        is none: that is the end; before the oldest kept it says the oldest (clamped)."""
        ends = self.ends()  # before: what is appended meanwhile lies behind them
        found = self._offsets(self._since(time_ms))
        return [end if at < 0 else at for at, end in zip(found, ends, strict=True)]

    def oldest_ms(self) -> list[int]:
        """Per partition the append time of the oldest kept record; -1 where there is none."""
        return [place.timestamp for place in self._places(self._since(0))]

    def _since(self, time_ms: int) -> Any:
        return self._admin_module.OffsetSpec.for_timestamp(min(max(time_ms, 0), 2**62))

    def _offsets(self, spec: Any) -> list[int]:
        return [place.offset for place in self._places(spec)]

    def _places(self, spec: Any) -> list[_Place]:
        found = self._ask(dict.fromkeys(range(self.partitions), spec))
        return [found[partition] for partition in range(self.partitions)]

    def _ask(self, specs: Mapping[int, Any]) -> dict[int, _Place]:
        """Ask the leaders; while those are changing, again and again for a while."""
        return when_settled(lambda: self._ask_anew(specs))

    def _ask_anew(self, specs: Mapping[int, Any]) -> dict[int, _Place]:
        """Ask the leaders. The client keeps who leads for minutes, and a broker that was started
        again refuses whoever knows it from before: after a failure it is asked who leads now."""
        try:
            return self._ask_once(specs)
        except Unavailable:
            try:
                self.admin.list_topics(self.name, timeout=KAFKA_LEADERS_S)
            except self._kafka.KafkaException:
                pass  # it is away: the first error says so
            else:
                return self._ask_once(specs)
            raise

    def _ask_once(self, specs: Mapping[int, Any]) -> dict[int, _Place]:
        what = f"looking up offsets of {self.name!r}"
        asked = {self._kafka.TopicPartition(self.name, p): spec for p, spec in specs.items()}
        try:
            futures = self.admin.list_offsets(asked, request_timeout=KAFKA_TIMEOUT_S)
        except self._kafka.KafkaException as error:
            raise failure_of(error, what) from None
        answers = results_of(futures, what)
        return {
            place.partition: _Place(answer.offset, answer.timestamp)
            for place, answer in answers.items()
        }

    # --- how it was made ---

    def _describe(self) -> Any:
        """The topic's description; None when there is no such topic."""
        names = self._kafka.TopicCollection([self.name])
        what = f"describing topic {self.name!r} at {self.servers}"
        try:
            futures = self.admin.describe_topics(names, request_timeout=KAFKA_TIMEOUT_S)
            return result_of(futures[self.name], what)
        except NotFound:
            return None

    def _create(self, partitions: int, retention_ms: int, replication: int) -> None:
        wanted = self._admin_module.NewTopic(
            self.name,
            num_partitions=partitions,
            replication_factor=replication,
            config={
                "cleanup.policy": "delete",
                "message.timestamp.type": "LogAppendTime",
                "retention.ms": str(retention_ms),
                "retention.bytes": "-1",
                "segment.ms": str(min(KAFKA_SEGMENT_MS, retention_ms)),
                "min.insync.replicas": "2" if replication > 2 else "1",
                "unclean.leader.election.enable": "false",
            },
        )
        what = f"making topic {self.name!r}"
        try:
            result_of(self.admin.create_topics([wanted])[self.name], what)
        except Unavailable as error:
            if "already exists" not in error.message:  # another process was faster
                raise
        _log.info("topic %s: made with %d partitions", self.name, partitions)

    def _settled(self) -> Any:
        """The description, once every partition of a new topic has a leader."""
        deadline = time.monotonic() + KAFKA_SETTLE_S
        while True:
            found = self._describe()
            if found is not None and all(p.leader is not None for p in found.partitions):
                return found
            if time.monotonic() > deadline:
                raise Unavailable(f"topic {self.name!r} has no leaders after {KAFKA_SETTLE_S} s")
            time.sleep(WAIT_STEP_S)

    def _check_settings(self, retention_ms: int, *, change: bool) -> None:
        resource = self._admin_module.ConfigResource(
            self._admin_module.ConfigResource.Type.TOPIC, self.name
        )
        what = f"reading the settings of topic {self.name!r}"
        entries = result_of(self.admin.describe_configs([resource])[resource], what)
        settings = {name: entry.value for name, entry in entries.items()}
        for name, needed, why in (
            ("message.timestamp.type", "LogAppendTime", "times decide, and clients' may be wrong"),
            ("cleanup.policy", "delete", "compaction takes events out of the middle"),
        ):
            if settings.get(name) != needed:
                raise Misconfigured(
                    f"topic {self.name!r} has {name}={settings.get(name)}: {why}; a firehose needs"
                    f" {needed}. Use a topic that Firecell made"
                )
        largest = int(settings.get("max.message.bytes", KAFKA_MESSAGE_BYTES_DEFAULT))
        if largest < 2 * EVENT_BYTES_MAX:
            raise Misconfigured(
                f"topic {self.name!r} has max.message.bytes={settings['max.message.bytes']}; an"
                f" event may have {EVENT_BYTES_MAX} bytes: raise it to at least"
                f" {2 * EVENT_BYTES_MAX}"
            )
        if settings.get("retention.ms") != str(retention_ms) and change:
            self._set_retention(resource, retention_ms)

    def _set_retention(self, resource: Any, retention_ms: int) -> None:
        """As on the embedded firehose, the retention is the setting of whoever opens it."""
        module = self._admin_module
        for name, value in (
            ("retention.ms", retention_ms),
            ("segment.ms", min(KAFKA_SEGMENT_MS, retention_ms)),
        ):
            resource.add_incremental_config(
                module.ConfigEntry(
                    name, str(value), incremental_operation=module.AlterConfigOpType.SET
                )
            )
        what = f"setting the retention of topic {self.name!r}"
        result_of(self.admin.incremental_alter_configs([resource])[resource], what)
        _log.info("topic %s: retention.ms is %d now", self.name, retention_ms)


def _hexadecimal(topic_id: Any) -> str:
    """32 hexadecimal digits of a topic's 128-bit id."""
    high, low = topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits()
    return f"{high % 2**64:016x}{low % 2**64:016x}"
