"""A real Kafka for tests: booted once per run by `ops.stack_run`, or the one that
FIRECELL_TEST_KAFKA (host:port) names, which must be a development server.

Tests that ask for it are skipped, in one line, where the client library or Java is missing.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from engine.errors import FirecellError
from tests.conftest import ROOT
from topics.urls import KafkaPlace

GIVEN = os.environ.get("FIRECELL_TEST_KAFKA", "")  # conftest clears the environment of tests
CACHE = Path(os.environ.get("FIRECELL_STACK_CACHE") or ROOT / ".cache" / "stack")


def missing() -> str:
    """Why no Kafka can be had here; empty when one can."""
    for module in ("confluent_kafka", "faust"):
        # `find_spec` fails on a module that is imported already and has put another in its place.
        if module not in sys.modules and importlib.util.find_spec(module) is None:
            return f"needs Kafka and its clients: {module} is not installed"
    if GIVEN:
        return ""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            return f"needs Kafka, which needs {program}: not on this machine"
    return ""


@cache
def servers() -> str:
    """host:port of the broker; booted at the first call. Skips the test where there is none."""
    if why := missing():
        pytest.skip(why)
    if GIVEN:
        return GIVEN
    from ops.stack_run import Stack

    folder = Path(tempfile.mkdtemp(prefix="firecell-kafka-"))
    stack = Stack(folder, ports="free", servers=("kafka",), cache=CACHE)

    def end() -> None:
        stack.down(0)  # nobody needs the data
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    try:
        stack.up(tied=True)
    except FirecellError as error:
        pytest.fail(f"Kafka did not start: {error.message}")
    return f"127.0.0.1:{stack.ports['kafka']}"


def new_place() -> KafkaPlace:
    """A topic that nobody has used."""
    return KafkaPlace(servers(), f"test-{uuid.uuid4().hex[:12]}", 1)


@cache
def admin(servers: str) -> Any:
    """An admin client; kept, for one that goes away takes its unanswered questions with it."""
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": servers})


def delete_below(place: KafkaPlace, floors: Sequence[int]) -> None:
    """Delete the records below an offset of each partition, as retention does."""
    from confluent_kafka import TopicPartition

    wanted = [TopicPartition(place.topic, partition, at) for partition, at in enumerate(floors)]
    for future in admin(place.servers).delete_records(wanted).values():
        future.result(20)


def forget_group(place: KafkaPlace, group: str) -> None:
    """Delete a group, with its positions."""
    for future in admin(place.servers).delete_consumer_groups([group]).values():
        future.result(20)
