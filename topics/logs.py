"""The firehose of a configuration: embedded or Kafka, by its URL. The one place that knows both.

The Kafka part is imported only when a URL asks for it, so nothing here needs its extra.
"""

from __future__ import annotations

from typing import Protocol

from engine.ports import Log
from topics.log_embedded import EmbeddedLog
from topics.urls import EmbeddedPlace, FirehosePlace


class Firehose(Log, Protocol):
    """A log that also tells numbers about itself."""

    retention_ms: int

    def stats(self) -> dict[str, int]:
        """For metrics."""

    def forget(self, group: str) -> None:
        """Drop a group's place; synced. Precondition where the log does that by itself."""


class FirehoseSettings(Protocol):
    """What is needed of the settings' [firehose]."""

    @property
    def place(self) -> FirehosePlace:
        """Where it is."""

    @property
    def partitions(self) -> int:
        """How many it has."""

    @property
    def retention_ms(self) -> int:
        """How long events are kept."""


def open_log(settings: FirehoseSettings, *, create: bool = True) -> Firehose:
    """Open the firehose, made when missing and `create`.

    Misconfigured (other partitions, unfit topic, extra not installed), NotFound (missing, not
    `create`), Precondition (lock held), Unavailable, DiskFull, Corruption.
    """
    return open_place(
        settings.place,
        partitions=settings.partitions,
        retention_ms=settings.retention_ms,
        create=create,
    )


def open_place(
    place: FirehosePlace, *, partitions: int | None, retention_ms: int, create: bool = True
) -> Firehose:
    """`open_log` by its parts; `partitions` None: as it was made."""
    if isinstance(place, EmbeddedPlace):
        return EmbeddedLog.open(
            place.folder, partitions=partitions, retention_ms=retention_ms, create=create
        )
    from topics.log_kafka import KafkaLog

    return KafkaLog.open(place, partitions=partitions, retention_ms=retention_ms, create=create)
