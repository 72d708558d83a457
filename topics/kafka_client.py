"""The Kafka client library: found or named as missing, set up with our bounds, its errors as ours.

Everything else of topics/kafka_*.py reaches `confluent_kafka` through here, so that this package
can be imported where the extra is not installed. Safe from any thread.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import ModuleType
from typing import Any, TypeVar

from engine.errors import (
    DiskFull,
    FirecellError,
    Misconfigured,
    NotFound,
    Precondition,
    TooLarge,
    Unavailable,
)
from engine.limits import KAFKA_TIMEOUT_S, WAIT_STEP_S

_log = logging.getLogger("firecell.kafka")
Answer = TypeVar("Answer")

# librdkafka's names of errors, by what they mean to us.
_FULL = frozenset({"KAFKA_STORAGE_ERROR", "LOG_DIR_NOT_FOUND"})
_MISSING = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"})
_ACTIVE = frozenset({"UNKNOWN_MEMBER_ID", "NON_EMPTY_GROUP", "REBALANCE_IN_PROGRESS"})
_MOVING = frozenset(
    {
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "FENCED_LEADER_EPOCH",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "COORDINATOR_NOT_AVAILABLE",
        "NOT_COORDINATOR",
    }
)
_LARGE = frozenset({"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"})
_REFUSED = frozenset(
    {
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "INVALID_REPLICATION_FACTOR",
        "INVALID_CONFIG",
        "POLICY_VIOLATION",
    }
)


def library(name: str = "confluent_kafka") -> ModuleType:
    """A module of the extra; Misconfigured when it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Misconfigured(
            f"kafka:// needs {error.name}, which is not installed: install firecell[kafka], or type"
            " FIRECELL_EXTRAS=1 in front of ./run once"
        ) from None


def base_settings(servers: str) -> dict[str, Any]:
    """What every client of ours sets: short patience, and its log through ours."""
    return {
        "bootstrap.servers": servers,
        "client.id": "firecell",
        "socket.keepalive.enable": True,
        "socket.connection.setup.timeout.ms": KAFKA_TIMEOUT_S * 1_000 // 2,
        "reconnect.backoff.max.ms": 1_000,
        "log.connection.close": False,
        "logger": _log,
    }


def failure_of(error: Any, what: str) -> FirecellError:
    """A KafkaError or KafkaException as an error of ours; `what` says what was being done."""
    kafka_error = error.args[0] if isinstance(error, Exception) and error.args else error
    name = kafka_error.name() if hasattr(kafka_error, "name") else ""
    said = kafka_error.str() if hasattr(kafka_error, "str") else str(kafka_error)
    text = f"Kafka: {what}: {said or name}"
    if name in _FULL:
        return DiskFull(f"{text}; look at the broker's disk")
    if name in _MISSING:
        return NotFound(f"{text}; `firecell up` or `firecell gateway` makes the topic")
    if name in _ACTIVE:
        return Precondition(f"{text}; the group is active: stop its members first")
    if name in _LARGE:
        return TooLarge(f"{text}; raise the topic's max.message.bytes")
    if name in _REFUSED:
        return Misconfigured(f"{text}; check the broker's settings and rights")
    if name in _MOVING:
        return Unavailable(f"{text}; try again in a moment", moving=True)
    return Unavailable(f"{text}; is the broker running, and is its address right?")


def is_moving(error: FirecellError) -> bool:
    """Whether an error of `failure_of` says that a partition's leader or a group's coordinator is
    changing, or that a new topic is not known everywhere yet: it passes in a moment."""
    return isinstance(error, NotFound) or bool(error.extra.get("moving"))


def when_settled(ask: Callable[[], Answer]) -> Answer:
    """What `ask` answers; asked again for a while as long as it fails with what passes."""
    deadline = time.monotonic() + KAFKA_TIMEOUT_S
    while True:
        try:
            return ask()
        except FirecellError as error:
            if not is_moving(error) or time.monotonic() > deadline:
                raise
        time.sleep(WAIT_STEP_S)


def result_of(future: Future[Any], what: str) -> Any:
    """What an admin call answers, waited for; its error as ours."""
    exception = library().KafkaException
    try:
        return future.result(KAFKA_TIMEOUT_S + 1)
    except exception as error:
        raise failure_of(error, what) from None
    except TimeoutError:
        raise Unavailable(f"Kafka: {what}: no answer within {KAFKA_TIMEOUT_S} s") from None


def results_of(futures: Mapping[Any, Future[Any]] | Iterable[Any], what: str) -> dict[Any, Any]:
    """`result_of` for each of a mapping of futures."""
    pairs = futures.items() if isinstance(futures, Mapping) else list(futures)
    return {key: result_of(future, what) for key, future in pairs}
