"""A cell on Kafka when its broker or its own process fails, for real: no acknowledged event is
lost, none shows twice, the cell goes on by itself, and what cannot go on says why.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import pytest

from cells.cell import open_cell
from cells.settings import load_settings
from engine import limits
from engine.errors import FirecellError
from engine.keys import parse_inbox_keys, post_key
from ops.children import child_command
from ops.stack_run import Stack
from tests import kafka_broker
from tests.chaos.kafka_world import PARTITIONS, READERS, Kafka, plain_faust, positions, vector
from tests.conftest import ROOT
from topics import runfiles
from topics.urls import KafkaPlace

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(bool(kafka_broker.missing()), reason=kafka_broker.missing() or "-"),
]
RECOVERY_S = 60
STEPS = ("planned", "rows", "inbox", "done")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A broker of the test's own: it is stopped and killed."""
    folder = tmp_path / "stack"
    with Stack(folder, ports="free", servers=("kafka",), cache=kafka_broker.CACHE) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Kafka]:
    """On the broker that all tests share."""
    world = Kafka(tmp_path, kafka_broker.servers())
    world.follow_all()
    yield world
    world.close()


_ASKING = """
import sys, threading
from engine.errors import FirecellError
from topics.log_kafka import KafkaLog
from topics.urls import KafkaPlace
log = KafkaLog.open(KafkaPlace(*sys.argv[1:], 1), create=False)
print("open", flush=True)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set())).start()
asked = 0
while not ended.is_set():
    try:
        log.commit("asked", {0: asked})
        asked += log.committed("asked") == {0: asked}
    except FirecellError:
        pass
print(asked)
"""


@contextmanager
def asking(world: Kafka) -> Iterator[None]:
    """A process that keeps a group's place all the time: it may be refused, and never ends. (The
    admin client's questions ended it, by a fault in C.)"""
    place = world.settings.firehose.place
    assert isinstance(place, KafkaPlace)
    child = subprocess.Popen(
        [sys.executable, "-P", "-X", "faulthandler", "-c", _ASKING, place.servers, place.topic],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        yield
        said, complaint = child.communicate(timeout=RECOVERY_S)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, complaint
    assert int(said) > 0, said


def test_the_broker_stopped_and_killed_under_load_restart(stack: Stack, tmp_path: Path) -> None:
    world = Kafka(tmp_path, f"127.0.0.1:{stack.ports['kafka']}")
    world.follow_all()
    with world.process() as cell, asking(world):
        with world.publishing():
            world.wait_applied(cell, RECOVERY_S)
            stack.pause("kafka")
            time.sleep(4)
            stack.resume("kafka")
            world.post(5)
            stopped_s = world.wait_applied(cell, RECOVERY_S)
            stack.kill("kafka")
            time.sleep(2)
            stack.start("kafka")
            world.post(5)
            killed_s = world.wait_applied(cell, RECOVERY_S)
        world.wait_applied(cell, RECOVERY_S)
        print(f"applied again after a stop: {stopped_s:.1f} s, after a kill: {killed_s:.1f} s")
        world.check(cell)
        numbers = cell.stats()
        assert numbers["quarantined_total"] == 0
        assert numbers["lag_events"] == 0
    world.close()


def test_a_worker_killed_and_drained_goes_on_where_it_was_restart(world: Kafka) -> None:
    with world.process() as cell, world.publishing():
        for _ in range(2):
            world.wait_applied(cell, RECOVERY_S)
            cell.kill()
            world.post(200)
            cell.start()
        world.wait_applied(cell, RECOVERY_S)
        assert cell.stop() < limits.DRAIN_S
        committed = world.log.committed(world.group)
        cell.start()
        durable = vector(cell, "durable")
        assert all(committed[partition] <= at for partition, at in enumerate(durable))
    with world.process() as cell:
        world.wait_applied(cell, RECOVERY_S)
        world.check(cell)
        end = positions(cell)
        assert cell.stop() < limits.DRAIN_S
    assert world.log.committed(world.group) == dict(enumerate(end)), "all acknowledged at the end"


class KillAt:
    """SIGKILL to oneself at the n-th visit of a step."""

    def __init__(self, step: str, visit: int) -> None:
        self._step = step
        self._left = visit

    def __call__(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def victim(config: Path, name: str, step: str, visit: int) -> None:
    """A cell in small batches, every second one a sorted run, until killed or nothing is left."""
    limits.RUN_KEYS_MIN = 200
    limits.WORKER_EVENTS_MAX = 25
    limits.FAUST_TAKE_EVENTS = 10
    cell = open_cell(load_settings(config, environment={}), name, crash=KillAt(step, visit))
    cell.runner.start()
    while cell.runner.failure is None and (not cell.runner.ready or cell.runner.lag_events()):
        time.sleep(0.02)
    failed = cell.runner.failure is not None
    cell.close()
    raise SystemExit(int(failed))


def test_a_worker_killed_at_every_step_with_work_in_hand_restart(world: Kafka) -> None:
    context = multiprocessing.get_context("forkserver")
    faust = ["faust", "faust.transport.drivers.aiokafka"]  # a second each, eight times
    context.set_forkserver_preload(["tests.chaos.test_kafka_faults", *faust])
    kills = dict.fromkeys(STEPS, 0)
    seen: dict[int, set[tuple[int, int]]] = {}
    try:
        for visit in (0, 2):
            for step in STEPS:
                world.post(150)
                what = (world.config, world.cell, step, visit)
                process = context.Process(target=victim, args=what)
                process.start()
                process.join(RECOVERY_S)
                assert process.exitcode == -signal.SIGKILL, f"{step}: {process.exitcode}"
                kills[step] += in_hand_after(world, seen) > 0
    finally:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    assert kills == dict.fromkeys(STEPS, 2), kills
    with world.process() as cell:
        world.wait_applied(cell, RECOVERY_S)
        world.check(cell)


def in_hand_after(world: Kafka, seen: dict[int, set[tuple[int, int]]]) -> int:
    """Open the killed cell's store: nothing dangles, nothing stored is gone, and its group is not
    ahead of it (opening refuses that). How many events are still to do."""
    cell = open_cell(world.settings, world.cell)
    try:
        for reader in READERS:
            _, posts, authors = parse_inbox_keys(cell.store.inbox_older(reader, b"", 10_000))
            keys = [(int(post), int(author)) for post, author in zip(posts, authors, strict=True)]
            assert len(set(keys)) == len(keys)
            assert None not in cell.store.post_rows([post_key(*key) for key in keys])
            assert seen.setdefault(reader, set()) <= set(keys), "a key that was stored is gone"
            seen[reader] = set(keys)
        return sum(world.log.end_offsets()) - sum(cell.worker.next_offsets)
    finally:
        cell.close()


def test_poison_in_every_partition_is_set_aside(world: Kafka) -> None:
    with world.process() as cell:
        world.post(50)
        world.log.append([(partition, b"\xc1 not an event") for partition in range(PARTITIONS)])
        world.log.append([(partition, b"") for partition in range(PARTITIONS)])
        world.post(50)
        world.wait_applied(cell, RECOVERY_S)
        assert cell.stats()["quarantined_total"] == 2 * PARTITIONS
        world.check(cell, gaps_allowed=True)
        gaps = cell.status()["gaps"]
        assert {gap["partition"] for gap in gaps} == set(range(PARTITIONS))


def test_retention_that_overtakes_a_stopped_cell_is_named_and_leaves_a_gap(world: Kafka) -> None:
    with world.process() as cell:
        world.post(50)
        world.wait_applied(cell, RECOVERY_S)
        before = positions(cell)
    world.post(100)
    floors = [at + 5 for at in before]
    kafka_broker.delete_below(world.settings.firehose.place, floors)
    code, said = run_cell_until_it_ends(world)
    assert code == 3, said
    assert "events are lost to this cell" in said
    assert "--accept-gap" in said
    with world.process("--accept-gap") as cell:
        world.wait_applied(cell, RECOVERY_S)
        gaps = cell.status()["gaps"]
        spans = sorted((gap["partition"], gap["first_offset"], gap["last_offset"]) for gap in gaps)
        assert spans == [(p, at, at + 4) for p, at in enumerate(before)]
        assert {gap["cause"] for gap in gaps} == {"retention passed"}


def test_a_group_ahead_of_its_store_and_one_without_some_positions(world: Kafka) -> None:
    world.post(50)
    world.log.commit(world.group, {1: 5})
    code, said = run_cell_until_it_ends(world)
    assert code == 3, said
    assert "older than its group" in said
    kafka_broker.forget_group(world.settings.firehose.place, world.group)
    world.log.commit(world.group, {0: 0})
    with world.process() as cell:
        world.wait_applied(cell, RECOVERY_S)
        assert cell.stats()["dropped_total"] == 0
        world.check(cell)
        end = positions(cell)
    assert world.log.committed(world.group) == dict(enumerate(end))


def test_plain_faust_serves_drains_and_is_alone_on_its_store_restart(world: Kafka) -> None:
    with plain_faust(world) as cell:
        with world.publishing():
            world.wait_applied(cell, RECOVERY_S)
            code, said = run_cell_until_it_ends(world)
            assert code == 3, said
            other = plain_faust(world)
            with pytest.raises(FirecellError, match="exit code 3"):
                other.start()
            cell.kill()
            cell.start()
            world.wait_applied(cell, RECOVERY_S)
        world.wait_applied(cell, RECOVERY_S)
        world.check(cell)
        end = positions(cell)
        assert cell.stop() < limits.DRAIN_S
    assert runfiles.find(world.settings.data.folder, "cell", world.cell) is None
    assert world.log.committed(world.group) == dict(enumerate(end))


def test_more_workers_on_an_embedded_store_are_refused(world: Kafka) -> None:
    code, said = run_cell_until_it_ends(world, "--workers", "2")
    assert code == 3
    assert "embedded store" in said


def run_cell_until_it_ends(world: Kafka, *more: str) -> tuple[int, str]:
    """(exit code, what it said) of `firecell cell c1`, which must refuse to run."""
    command = child_command("cell", world.cell, "--config", str(world.config), *more)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=world.folder, env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr
