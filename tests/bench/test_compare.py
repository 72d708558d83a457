"""`bench compare`: what is measured is what was written, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import compare, compare_measure, compare_paths, report
from bench.compare_input import FIRST_MS, POSTS_PER_MS, Input, ids_of
from bench.compare_measure import Path_, Usage, measure, windows
from bench.figures import render
from bench.workload import Workload
from engine.errors import BadInput, Corruption, Unavailable
from engine.ids import make_id
from engine.keys import parse_inbox_keys
from tests import real_parts
from tests.conftest import ROOT
from tests.redis_server import RedisServer

_SIZES = ("--readers", "3000", "--edges", "45000", "--authors", "300", "--largest", "1000")


@pytest.fixture(scope="module")
def source() -> Input:
    return Input(Workload.power_law(7, readers=3_000, edges=45_000, authors=300, largest=1_000), 7)


# --- measuring ------------------------------------------------------------------------------------


def test_windows_end_with_the_first_answer_behind_them_and_the_rest_is_left_out() -> None:
    marks = [(10.0, 100), (11.0, 200), (12.5, 600), (14.5, 1_600), (15.0, 9_999)]
    assert windows(marks, 2.0) == [200.0, 500.0]
    assert windows(marks[:2], 2.0) == [100.0], "less than one window is better than nothing"


def _steps(step_s: float, closed: list[bool]) -> Path_:
    try:
        done = 0
        while True:
            yield done
            time.sleep(step_s)
            done += 10
    finally:
        closed.append(True)


def test_the_warm_up_does_not_count_and_the_path_is_closed() -> None:
    closed: list[bool] = []
    seen: list[float] = []
    used = iter([Usage(5.0, {"hbase": 1.0}), Usage(7.5, {"hbase": 2.0, "new": 0.5})])
    found = measure(_steps(0.01, closed), 0.2, 0.1, lambda: next(used), seen.append)
    assert found.marks[0][1] > 0 and found.seconds >= 0.2 and closed == [True]
    assert seen[0] == 0 and seen[-1] >= 0.3
    document = found.document()
    assert document["inbox_writes"] == found.marks[-1][1] - found.marks[0][1]
    assert document["client_cpu_seconds"] == 2.5
    assert document["server_cpu_seconds_by_server"] == {"hbase": 1.0, "new": 0.5}
    assert document["server_cpu_seconds"] == 1.5


def test_a_path_that_ends_early_is_no_measurement() -> None:
    with pytest.raises(Unavailable):
        measure(iter_path([0, 1, 2]), 5, 0, Usage)


def iter_path(marks: list[int]) -> Path_:
    yield from marks


def test_processor_seconds_are_those_of_children_too(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as child:
        try:
            assert child.pid in compare_measure.children()
            before = Usage.now(tmp_path)
            time.sleep(0.6)
            assert Usage.now(tmp_path).since(before).clients > 0.05
        finally:
            child.kill()


# --- what is written ------------------------------------------------------------------------------


def test_pairs_are_the_followers_of_each_post_in_the_order_of_posts(source: Input) -> None:
    pairs = next(source.pairs())
    again = next(source.pairs())
    assert (pairs.readers == again.readers).all() and (pairs.posts == again.posts).all()
    index = {author: place for place, author in enumerate(source.workload.authors.tolist())}
    for post in np.unique(pairs.posts)[:20]:
        here = pairs.posts == post
        author = int(pairs.authors[here][0])
        followers = source.workload.followers_of(index[author])
        assert (pairs.readers[here] == followers).all()
    assert (np.diff(pairs.posts.astype(np.int64)) >= 0).all()


def test_ids_are_those_of_posts_at_a_steady_rate() -> None:
    numbers = np.array([0, 9, 10, 12_345], dtype=np.uint64)
    expected = [
        make_id(FIRST_MS + n // POSTS_PER_MS, 0, n % POSTS_PER_MS) for n in (0, 9, 10, 12_345)
    ]
    assert ids_of(numbers).tolist() == expected


def test_the_worker_writes_the_pairs_and_authors_their_own(source: Input, tmp_path: Path) -> None:
    store = compare_paths.store_of(tmp_path / "cell", "embedded:./store")
    sample = source.workload.sample_readers(40)
    path = compare_paths.firecell(store, source.graph(), source, bulk=False, sample=sample)
    assert next(path) == 0
    written = next(path)
    wanted = source.expected(sample, 1_000)
    for reader in sorted(sample)[:10]:
        readers, posts, authors = parse_inbox_keys(store.inbox_older(reader, b"", 10_000))
        oldest = list(zip(posts.tolist(), authors.tolist(), strict=True))[::-1]
        assert oldest[: len(wanted[reader])] == wanted[reader][::-1]
        assert set(readers.tolist()) <= {reader}
    assert written >= compare_paths.limits.WORKER_KEYS_AIM
    path.close()


def test_an_inbox_that_lacks_a_key_fails_the_run(source: Input, tmp_path: Path) -> None:
    store = compare_paths.store_of(tmp_path / "cell", "embedded:./store")
    try:
        sample = source.workload.sample_readers(40)
        worker = compare_paths.pushing_worker(store, source.graph())
        records = next(source.records(200))
        assert worker.apply(records) == 200
        compare_paths.check(store, source, 200, sample)
        with pytest.raises(Corruption):
            compare_paths.check(store, source, 400, sample)
    finally:
        store.close()


def test_feeds_on_redis_are_trimmed(
    source: Input, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(tmp_path / "redis")
    monkeypatch.setattr(compare_paths, "FEED_ENTRIES", 5)
    try:
        stack: Any = SimpleNamespace(urls={"redis": server.url})
        path = compare_paths.redis_pipelines(stack, source)
        counts = [next(path) for _ in range(6)]
        assert counts == [0, 1_000, 2_000, 3_000, 4_000, 5_000]
        client = compare_paths.library("redis").Redis.from_url(server.url)
        pairs = next(source.pairs())
        readers, posts = pairs.readers[:5_000], pairs.posts[:5_000]
        for reader in np.unique(readers)[:30].tolist():
            newest = sorted(posts[readers == reader].tolist())[-5:]
            assert [int(post) for post in client.zrange(f"feed:{reader}", 0, -1)] == newest
        client.close()
        path.close()
    finally:
        server.stop()


def _talking(*lines: str, then: str) -> subprocess.Popen[str]:
    script = f"[print(line, flush=True) for line in {lines!r}]\n{then}"
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def test_performance_evaluation_counts_the_rows_of_all_its_threads() -> None:
    lines = (
        "Timed test starting in thread TestClient-0",
        "row [start=0, current=20000, last=500], latency [mean=1.0]",
        "row [start=20000000, current=20060000, last=40000000], latency [mean=1.0]",
        "row [start=0, current=40000, last=500], latency [mean=1.0]",
    )
    with _talking(*lines, then="import time; time.sleep(60)") as process:
        path = compare_paths._reported(process)
        assert [next(path) for _ in range(3)] == [20_000, 80_000, 100_000]
        process.kill()


@pytest.mark.parametrize("lines", [("TableNotFound: no such table",), ()])
def test_performance_evaluation_that_ends_by_itself_is_an_error(lines: tuple[str, ...]) -> None:
    with (
        _talking(*lines, *["\tat somewhere"][: len(lines)], then="raise SystemExit(3)") as process,
        pytest.raises(Unavailable, match=lines[0] if lines else "code 3"),
    ):
        list(compare_paths._reported(process))


def test_performance_evaluation_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_paths, "PE_SILENCE_S", 0.2)
    with (
        _talking("Started", then="import time; time.sleep(60)") as process,
        pytest.raises(Unavailable, match="code -9: Started"),
    ):
        list(compare_paths._reported(process))


# --- comparing ------------------------------------------------------------------------------------


def _found(**rates: float) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "title": name.title(),
            "how": "so",
            "inbox_writes_per_second": rate,
            "client_cpu_seconds": 1.0,
            "server_cpu_seconds": 30.0,
            "seconds": 20.0,
        }
        for name, rate in rates.items()
    }


def test_ratios_are_to_what_was_measured_in_the_same_run(tmp_path: Path) -> None:
    found = _found(happybase=50_000.0, pe_random=100_000.0, firecell_puts=150_000.0)
    document = {"paths": found, **compare.compared(found), "command": "python -m bench.compare"}
    assert found["firecell_puts"]["ratios"] == {"happybase": 3.0, "pe_random": 1.5}
    assert document["targets_of_puts"]["happybase"] == {"at_least": 2.5, "is": 3.0}
    assert document["targets_of_puts"]["pe_random"] == {"at_least": 1.2, "is": 1.5}
    report.write_result("compare", document, tmp_path)
    text = render(tmp_path)
    assert "| Firecell_Puts (so) | **150,000** inbox writes/s; 3.00 x happybase; 1.50 x Per" in text
    assert "| target: puts at least 1.2 x PerformanceEvaluation | 1.50 x |" in text
    assert "./run firecell bench compare" in text
    alone = _found(redis=1.0)
    assert compare.compared(alone) == {"targets_of_puts": {}} and alone["redis"]["ratios"] == {}


def test_an_unknown_path_is_refused_before_anything_starts() -> None:
    with pytest.raises(BadInput, match="happybase"):
        compare.chosen(["hapybase"])
    assert compare.chosen([]) == list(compare.WAYS)
    assert [way.name for way in compare.chosen(["redis"])] == ["redis"]


# --- the whole way --------------------------------------------------------------------------------


def _command(folder: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-P", "-m", "bench.compare", *arguments, *_SIZES, "--json",
        "--cache", str(real_parts.CACHE), "--keep", str(folder / "keep"),
        "--results", str(folder / "results"),
    ]  # fmt: skip


def _processes_of(folder: Path) -> Iterator[str]:
    """The names of those that work in the stack's folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            place, name = (path / "cwd").readlink(), (path / "comm").read_text().strip()
        except OSError:
            continue
        if str(place).startswith(str(folder / "keep" / "compare-")):
            yield name


def _is_gone(folder: Path) -> bool:
    deadline = time.monotonic() + 20
    while list(_processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not list(_processes_of(folder)) and not list((folder / "keep").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind_restart(tmp_path: Path, number: int) -> None:
    RedisServer(tmp_path / "probe").stop()  # skips where there is none
    arguments = ("--only", "redis", "--seconds", "120", "--warm-seconds", "0")
    process = subprocess.Popen(
        _command(tmp_path, *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "all up" in line:
                break
        assert "redis-server" in _processes_of(tmp_path)
        process.send_signal(number)
        assert process.wait(30) != 0
        assert _is_gone(tmp_path)
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.real
def test_paths_are_measured_in_one_run_and_nothing_is_left(tmp_path: Path) -> None:
    if reason := real_parts.missing():
        pytest.skip(reason)
    names = ("happybase", "pe_random", "redis", "firecell_puts", "firecell_bulk")
    only = [word for name in names for word in ("--only", name)]
    done = subprocess.run(
        _command(tmp_path, "--seconds", "1", "--warm-seconds", "0", "--sample", "20", *only),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert tuple(document["paths"]) == names
    for name, path in document["paths"].items():
        assert path["inbox_writes_per_second"] > 0 and path["seconds"] >= 1, name
        assert path["client_cpu_seconds"] > 0, name
        on_hbase = path["server_cpu_seconds_by_server"]["hbase"]
        assert (on_hbase > 0.3) == next(way.hbase for way in compare.WAYS if way.name == name), name
        assert path["title"] in done.stderr
    assert set(document["targets_of_puts"]) == {"happybase", "pe_random"}
    assert _is_gone(tmp_path)
