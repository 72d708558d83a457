"""The graph's snapshot file: comes back the same, or not at all."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from cells.graph import Graph
from engine.errors import Corruption, DiskFull, Unavailable
from engine.homing import partition_of
from engine.limits import U64_MAX


@pytest.fixture
def graph():
    made = Graph(4)
    generator = np.random.default_rng(2)
    for offset in range(1, 400):
        author, reader = (int(user) for user in generator.integers(0, 40, 2))
        author = U64_MAX - author
        change = made.unfollow if offset % 5 == 0 else made.follow
        change(partition_of(author, 4), author, reader, offset)
    assert made.follow(0, 7, U64_MAX, 2**40)  # one partition with wide offsets
    return made


def answers(graph):
    authors = [U64_MAX - user for user in range(40)] + [7]
    readers = [*range(40), U64_MAX]
    return (
        [graph.followers(author, -1, 100) for author in authors],
        [graph.interval_from(reader, authors).tolist() for reader in readers],
        [graph.follower_count(author) for author in authors],
        graph.edges,
        graph.readers,
    )


def test_what_was_saved_is_loaded_restart(graph, tmp_path):
    before, path = answers(graph), tmp_path / "graph"
    size = graph.save(path, [9, 500, 501, 502], stamp="cell a")
    assert answers(graph) == before, "saving changes no answer"
    assert path.stat().st_size == size and os.listdir(tmp_path) == ["graph"]
    loaded, positions = Graph.load(path, stamp="cell a")
    assert positions == [9, 500, 501, 502]
    assert answers(loaded) == before
    assert loaded.end == [max(pair) for pair in zip(graph.end, positions, strict=True)]
    assert not loaded.follow(1, 3, 4, 499), "covered by the snapshot"
    assert loaded.follow(1, 3, 4, 500) and loaded.follow(2, 3, 1_000_000, 600)
    assert loaded.readers == graph.readers + 1


def test_an_empty_graph_and_a_second_save_restart(tmp_path):
    path = tmp_path / "graph"
    Graph(3).save(path, [0, 0, 0])
    graph, positions = Graph.load(path)
    assert (graph.edges, positions, graph.end) == (0, [0, 0, 0], [0, 0, 0])
    graph.follow(2, 5, 6, 7)
    graph.save(path, [1, 2, 8])
    again, positions = Graph.load(path)
    assert positions == [1, 2, 8] and again.follower_count(5) == (partition_of(5, 3) == 2)


def test_a_frozen_graph_stays_as_it_was_while_the_live_one_goes_on(graph, tmp_path):
    from cells import graph_file

    before = answers(graph)
    frozen = graph.freeze([1, 2, 3, 4])
    for offset in range(10_000, 13_000):
        graph.follow(offset % 4, offset % 11, offset, offset)
    graph_file.write(tmp_path / "graph", frozen)
    loaded, _ = Graph.load(tmp_path / "graph")
    assert answers(loaded) == before


def test_every_damaged_byte_is_found_fuzz(graph, tmp_path, caplog):
    path = tmp_path / "graph"
    graph.save(path, [0] * 4)
    whole = path.read_bytes()
    generator = np.random.default_rng(4)
    places = {*range(200), *generator.integers(0, len(whole), 300).tolist(), len(whole) - 1}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        assert Graph.load(path) is None, place
    assert "of no use" in caplog.text
    path.write_bytes(whole)
    assert Graph.load(path) is not None


def test_a_torn_file_is_found_powerloss(graph, tmp_path):
    path = tmp_path / "graph"
    graph.save(path, [0] * 4)
    whole = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert Graph.load(path) is None, length
    path.write_bytes(whole + b"\0")
    assert Graph.load(path) is None
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    assert Graph.load(path) is None


def test_no_file_another_stamp_and_another_version_are_no_answer(graph, tmp_path, caplog):
    path = tmp_path / "graph"
    assert Graph.load(path) is None and not caplog.text
    graph.save(path, [0] * 4, stamp="cell a")
    assert Graph.load(path, stamp="cell b") is None and "cell a" in caplog.text
    path.write_bytes(b"FCgraph2" + path.read_bytes()[8:])
    assert Graph.load(path, stamp="cell a") is None
    assert Graph.load(tmp_path) is None, "a folder is no snapshot"


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, Unavailable)])
def test_a_failed_save_leaves_the_one_before_diskfull(graph, tmp_path, monkeypatch, number, kind):
    path = tmp_path / "graph"
    graph.save(path, [1] * 4)

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(kind, match="graph snapshot"):
            graph.save(path, [2] * 4)
    assert os.listdir(tmp_path) == ["graph"]
    _, positions = Graph.load(path)
    assert positions == [1] * 4


def test_positions_of_all_partitions_are_demanded(graph, tmp_path):
    with pytest.raises(Corruption):
        graph.save(tmp_path / "graph", [0])
