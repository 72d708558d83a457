"""The story of a rewindable firehose (tests/ops/story.py) on every firehose and store.

FIRECELL_TEST_GRAPH names a file of real follows, FIRECELL_TEST_SHARE takes every n-th of them and
FIRECELL_TEST_EVENTS events on top; then it takes minutes, and `-s` shows how far it is.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.churn import START_MS, Mix, Timed, churn
from bench.processes import Urls
from bench.workload import Workload
from tests import hbase_backend, kafka_broker
from tests.ops.story import Story

GRAPH = os.environ.get("FIRECELL_TEST_GRAPH", "")  # conftest clears the environment of tests
SHARE = int(os.environ.get("FIRECELL_TEST_SHARE", "1"))
EVENTS = int(os.environ.get("FIRECELL_TEST_EVENTS", "12000" if GRAPH else "1500"))
pytestmark = [pytest.mark.slow] + ([pytest.mark.long] if GRAPH else [])


def history(start_ms: int) -> list[list[Timed]]:
    """Thirds; the graph's follows come with the first."""
    graph: list[tuple[int, int]] = []
    if GRAPH:
        found = Workload.from_file(GRAPH)
        for index, author in enumerate(found.authors.tolist()):
            graph += [(reader, author) for reader in found.followers_of(index).tolist()]
        graph = graph[::SHARE]
    made = list(churn(5, count=EVENTS, users=80, mix=Mix(pause=0), start_ms=start_ms, graph=graph))
    cuts = [len(graph) + EVENTS * number // 3 for number in range(4)]
    return [made[:cuts[1]], made[cuts[1] : cuts[2]], made[cuts[2] :]]


def test_replayed_rebuilt_and_healed_embedded(tmp_path: Path) -> None:
    story = Story(tmp_path, Urls(), history(START_MS))
    try:
        story.play()
    finally:
        story.log.close()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Urls]:
    backend = hbase_backend.backend()
    cell = f"story{uuid.uuid4().hex[:8]}"
    place = kafka_broker.new_place()
    firehose = f"kafka://{place.servers}/{place.topic}"
    yield Urls(firehose, backend.url(cell), helper=backend.helper_file)
    hbase_backend.drop_tables(cell)


@pytest.mark.real
def test_replayed_rebuilt_and_healed_on_kafka_and_hbase(real: Urls, tmp_path: Path) -> None:
    story = Story(tmp_path, real, history(int(time.time() * 1_000) - EVENTS * 2_000))
    try:
        story.play()
    finally:
        story.log.close()
