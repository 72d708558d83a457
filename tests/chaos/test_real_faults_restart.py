"""Each real part alone stopped, or killed and started again, under load, on the whole: Kafka, HBase
on HDFS, Thrift, Redis, two cells. Nothing acknowledged is lost, nothing doubled, no page is wrong.

The load runs through all of it; the last test compares everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

from bench import check
from bench.oracle import Oracle
from cells.cell import open_cell
from cells.settings import load_settings
from engine.keys import parse_inbox_keys, post_key
from tests import real_parts
from tests.chaos.real_run import CELLS, RealRun
from topics.logs import open_log

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(bool(real_parts.missing()), reason=real_parts.missing()),
]
RECOVERED_S = 60.0  # after the part's return
SERVED_S = 180.0  # for HBase's own recovery, which is not ours
STOPPED_S, KILLED_S = 5.0, 2.0


@pytest.fixture(autouse=True)
def no_child_left() -> None:
    """`up` outlives each of these tests; `run` ends it, and the stack's end sees to the rest."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRun]:
    run = RealRun(real_parts.rough(), tmp_path_factory.mktemp("faults"))
    try:
        run.start()
        yield run
    finally:
        run.halt()
        run.up.stop()


def tell(run: RealRun, what: str, took: float) -> None:
    pages = sorted(run.page_s)
    longest = f"{pages[-1]:.2f} s" if pages else "none"
    print(f"{what}: back in {took:.1f} s; pages {run.statuses}, the longest {longest}")
    run.statuses.clear()
    run.page_s.clear()
    assert run.wrong == [], run.wrong[:10]


@pytest.mark.parametrize("part", ["redis", "kafka", "thrift", "hbase", "datanode", "namenode"])
def test_a_part_is_stopped_and_goes_on(part: str, run: RealRun) -> None:
    run.must_serve = part in ("redis", "kafka")  # pages need neither
    run.stack.pause(part)
    try:
        time.sleep(STOPPED_S)
    finally:
        run.stack.resume(part)
    took = run.recovered(RECOVERED_S)
    run.must_serve = False
    tell(run, f"{part} stopped for {STOPPED_S} s", took)


@pytest.mark.parametrize("part", ["redis", "kafka", "thrift", "datanode", "namenode", "hbase"])
def test_a_part_is_killed_and_started_restart(part: str, run: RealRun) -> None:
    run.must_serve = part in ("redis", "kafka")
    run.stack.kill(part)
    time.sleep(KILLED_S)
    started = time.monotonic()
    run.stack.start(part)
    answered = time.monotonic() - started
    if part == "hbase":
        answered += run.served(SERVED_S)
    took = run.recovered(RECOVERED_S)
    run.catch_up()  # `status` tells of the firehose's ends too: no connection is stale
    run.must_serve = False
    tell(run, f"{part} killed, answering {answered:.1f} s after its start", took)


def test_flushall_at_any_moment_changes_no_answer(run: RealRun) -> None:
    run.must_serve = True
    client = redis.Redis.from_url(run.stack.urls["redis"])
    for _ in range(100):
        client.flushall()
        time.sleep(0.02)
    client.close()
    took = run.recovered(RECOVERED_S)
    run.must_serve = False
    tell(run, "FLUSHALL 100 times", took)


def test_in_the_end_everything_is_there_once(run: RealRun) -> None:
    run.halt()
    run.catch_up()
    for numbers in run.stats():
        assert numbers["quarantined_total"] == 0 and numbers["gaps"] == 0
    settings = load_settings(run.config, environment={})
    oracle, kept = Oracle(), set()
    firehose = open_log(settings.firehose, create=False)
    try:
        check.feed(oracle, firehose, firehose.begin_offsets())
        ends = firehose.end_offsets()
    finally:
        firehose.close()
    assert len(set(run.acknowledged)) == len(run.acknowledged) > 1_000
    kept = {f"{p}:{offset}" for p, end in enumerate(ends) for offset in range(end)}
    assert set(run.acknowledged) <= kept
    found = check.compare(run.up.url, oracle, run.readers(), raw_keys=False)
    print(found.verdict())
    assert found.ok and found.pages.posts > 5_000, found.document()
    assert run.up.stop() == 0
    for name in CELLS:
        assert no_dangling_key(run, name) > 1_000


def no_dangling_key(run: RealRun, cell_name: str) -> int:
    """The number of inbox keys, each with its post's row (I3), each once (I4)."""
    cell = open_cell(load_settings(run.config, environment={}), cell_name)
    try:
        total = 0
        for reader in run.readers():
            _, posts, authors = parse_inbox_keys(cell.store.inbox_older(reader, b"", 10_000))
            keys = [(int(p), int(a)) for p, a in zip(posts, authors, strict=True)]
            assert len(set(keys)) == len(keys)
            for start in range(0, len(keys), 500):
                rows = cell.store.post_rows([post_key(*key) for key in keys[start : start + 500]])
                assert None not in rows
            total += len(keys)
        return total
    finally:
        cell.close()
