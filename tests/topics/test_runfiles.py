"""Run files name living processes only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from topics.runfiles import RunFile, find, running, start_ticks


def test_written_found_and_removed(data_folder: Path) -> None:
    file = RunFile(data_folder, "cell", "c1")
    file.write(url="http://127.0.0.1:1", version="9", cells=["a"])
    found = find(data_folder, "cell", "c1")
    assert found is not None
    assert (found.role, found.name, found.pid, found.url) == (
        "cell", "c1", os.getpid(), "http://127.0.0.1:1",
    )  # fmt: skip
    assert found.extra == {"cells": ["a"]}
    assert running(data_folder) == [found]
    assert running(data_folder, "gateway") == []
    assert [path.name for path in file.path.parent.iterdir()] == ["cell-c1.json"]
    file.remove()
    file.remove()
    assert find(data_folder, "cell", "c1") is None


def test_a_dead_process_is_passed_over_kill(data_folder: Path) -> None:
    RunFile(data_folder, "cell", "c1").write(url="u", version="1")
    path = data_folder / "run" / "cell-c1.json"
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "pid": process.pid,
                                "start_ticks": start_ticks(process.pid)}))  # fmt: skip
    assert find(data_folder, "cell", "c1") is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert find(data_folder, "cell", "c1") is None, "a zombie is dead"
    process.communicate()
    assert find(data_folder, "cell", "c1") is None


def test_a_process_id_that_was_used_again_is_another_process(data_folder: Path) -> None:
    RunFile(data_folder, "cell", "c1").write(url="u", version="1")
    path = data_folder / "run" / "cell-c1.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "start_ticks": document["start_ticks"] - 1}))
    assert find(data_folder, "cell", "c1") is None


def test_what_is_no_run_file_is_passed_over_fuzz(data_folder: Path) -> None:
    (data_folder / "run").mkdir()
    for text in (b"", b"{", b"[]", b"3", b'{"role": "cell"}', b"\xff\xfe", b'{"pid": "x"}'):
        (data_folder / "run" / "cell-c1.json").write_bytes(text)
        assert running(data_folder) == []
    assert running(data_folder / "nowhere") == []


def test_a_successor_keeps_its_file(data_folder: Path) -> None:
    old = RunFile(data_folder, "cell", "c1")
    old.write(url="u", version="1")
    document = json.loads(old.path.read_text())
    parent = os.getppid()
    old.path.write_text(json.dumps({**document, "pid": parent,
                                    "start_ticks": start_ticks(parent)}))  # fmt: skip
    old.remove()
    assert old.path.exists()
