"""The directory is written once, is the same for everybody, and never moves a user silently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cells import directory as module
from cells.directory import Directory, load_directory
from engine.errors import Corruption, Misconfigured
from engine.homing import HomeRange, mix64
from engine.limits import U64_MAX

ROOT = Path(module.__file__).parent.parent


# --- homes ---


def test_one_cell_has_everybody():
    directory = Directory.from_shares({"c1": 1})
    assert {directory.home(user) for user in (0, 1, 7, U64_MAX)} == {"c1"}


@pytest.mark.parametrize("shares", [{"a": 1, "b": 2}, {f"c{i}": 1 for i in range(100)}], ids=len)
def test_home_is_the_one_cell_whose_range_has_the_user(shares):
    directory = Directory.from_shares(shares)
    for user in [*range(500), U64_MAX]:
        homes = [name for name, home in directory.ranges.items() if user in home]
        assert homes == [directory.home(user)]


def test_both_edges_of_a_range_are_inside():
    at = mix64(42)
    below = Directory({"a": HomeRange(0, at), "b": HomeRange(at + 1, U64_MAX)})
    above = Directory({"a": HomeRange(0, at - 1), "b": HomeRange(at, U64_MAX)})
    assert (below.home(42), above.home(42)) == ("a", "b")


def test_ranges_follow_the_names_not_the_configurations_order():
    one = Directory.from_shares({"b": 1, "a": 3})
    assert one.document() == Directory.from_shares({"a": 3, "b": 1}).document()
    assert one.ranges["a"].first == 0
    assert one.ranges["b"].last == U64_MAX


def test_the_document_golden():
    """Never change it: it is on disk."""
    assert Directory.from_shares({"east": 1, "west": 1}).document() == {
        "format": 1,
        "version": 1,
        "cells": {
            "east": {"first": "0", "last": "9223372036854775807"},
            "west": {"first": "9223372036854775808", "last": "18446744073709551615"},
        },
    }


def test_a_hole_is_corruption():
    half = Directory({"a": HomeRange(0, 2**63 - 1)})
    users = {user: mix64(user) < 2**63 for user in range(20)}
    for user, covered in users.items():
        if covered:
            assert half.home(user) == "a"
        else:
            with pytest.raises(Corruption, match=r"restore directory\.json"):
                half.home(user)
    assert set(users.values()) == {True, False}


# --- the file ---


def test_written_on_first_use_and_read_ever_after(tmp_path):
    folder = tmp_path / "not" / "there" / "yet"
    made = load_directory(folder, {"a": 1, "b": 2})
    path = folder / "directory.json"
    assert json.loads(path.read_text()) == made.document()
    assert os.listdir(folder) == ["directory.json"]  # no draft stays
    before = path.stat()
    again = load_directory(folder, {"b": 2, "a": 1})
    assert again.document() == made.document()
    assert again.version == 1
    after = path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_shares_that_mean_the_same_are_the_same(tmp_path):
    load_directory(tmp_path, {"a": 1, "b": 1})
    load_directory(tmp_path, {"a": 2.5, "b": 2.5})


@pytest.mark.parametrize(
    "shares",
    [{"a": 1, "b": 2}, {"a": 1}, {"a": 1, "b": 1, "c": 1}, {"a": 1, "c": 1}, {"b": 1}],
    ids=str,
)
def test_a_configuration_that_moves_users_is_refused(tmp_path, shares):
    load_directory(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(Misconfigured, match=r"directory\.json gives users to the cells") as caught:
        load_directory(tmp_path, shares)
    assert "['a', 'b']" in caught.value.message
    load_directory(tmp_path, {"a": 1, "b": 1})  # and nothing was changed


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"\x00" * 100,
        b"null",
        b"[]",
        b"7",
        b'"cells"',
        b"{}",
        b'{"format":1,"version":1}',
        b'{"format":1,"version":1,"cells":null}',
        b'{"format":1,"version":1,"cells":[]}',  # had no `.items`: ended in an AttributeError
        b'{"format":1,"version":1,"cells":"a"}',
        b'{"format":1,"version":1,"cells":{"a":null}}',
        b'{"format":1,"version":1,"cells":{"a":{"first":"0"}}}',
        b'{"format":1,"version":1,"cells":{"a":{"first":"x","last":"1"}}}',
        b'{"format":1,"version":null,"cells":{}}',
        b'{"format":null,"version":1,"cells":{}}',
        b"[" * 100_000,
    ],
    ids=lambda damage: damage[:50].decode(errors="replace").strip("\0") or "nothing",
)
def test_a_damaged_file_is_corruption(tmp_path, damage):
    path = tmp_path / "directory.json"
    path.write_bytes(damage)
    with pytest.raises(Corruption, match="is damaged"):
        load_directory(tmp_path, {"a": 1})
    assert path.read_bytes() == damage  # kept, for whoever restores it


def test_every_torn_prefix_is_refused_powerloss(tmp_path):
    load_directory(tmp_path, {"a": 1, "b": 3})
    path = tmp_path / "directory.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(Corruption):
            load_directory(tmp_path, {"a": 1, "b": 3})


def test_a_later_format_is_refused(tmp_path):
    document = {**Directory.from_shares({"a": 1}).document(), "format": 2}
    (tmp_path / "directory.json").write_text(json.dumps(document))
    with pytest.raises(Misconfigured, match="format 2; this software reads 1"):
        load_directory(tmp_path, {"a": 1})


def test_a_later_version_of_the_same_cells_is_taken(tmp_path):
    document = {**Directory.from_shares({"a": 1}).document(), "version": 7}
    (tmp_path / "directory.json").write_text(json.dumps(document))
    assert load_directory(tmp_path, {"a": 1}).version == 7


def test_a_failed_write_leaves_nothing_diskfull(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        load_directory(tmp_path, {"a": 1})
    assert os.listdir(tmp_path) == []


# --- first creation by several at once ---


def test_threads_with_one_process_id_race(tmp_path):
    """Two containers on one data folder may have the same process id: their drafts collided."""
    for turn in range(15):
        folder = tmp_path / str(turn)
        barrier = threading.Barrier(4)
        outcomes: list[object] = []

        def create(folder=folder, barrier=barrier, outcomes=outcomes):
            barrier.wait()
            try:
                outcomes.append(load_directory(folder, {"a": 1, "b": 1}).document())
            except Exception as error:
                outcomes.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [Directory.from_shares({"a": 1, "b": 1}).document()] * 4
        assert os.listdir(folder) == ["directory.json"]


_CREATE = """
import sys, time
from pathlib import Path
from cells.directory import load_directory
from engine.errors import Misconfigured
folder, shares = Path(sys.argv[1]), eval(sys.argv[2])
(folder / ("ready" + sys.argv[3])).touch()
while not (folder / "go").exists():
    time.sleep(0.0005)
try:
    load_directory(folder / "data", shares)
    print("taken")
except Misconfigured:
    print("refused")
"""


def test_processes_with_two_configurations_race(tmp_path):
    """One configuration wins, whole; every process with the other is refused."""
    configurations = ["{'a': 1, 'b': 1}", "{'a': 1, 'b': 2}"] * 3
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CREATE, str(tmp_path), shares, str(number)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, shares in enumerate(configurations)
    ]
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("ready*"))) < len(children) and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [child.communicate(timeout=30)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    winner = "{'a': 1, 'b': 1}" if said[0] == "taken" else "{'a': 1, 'b': 2}"
    assert said == ["taken" if shares == winner else "refused" for shares in configurations]
    assert os.listdir(tmp_path / "data") == ["directory.json"]
