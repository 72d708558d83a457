"""Workloads: the same from the same seed, and of the shape that they promise."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from bench.workload import Workload, text
from engine import events
from engine.errors import BadInput

HIGGS = Path(__file__).parents[3] / "shared" / "data" / "higgs-follows.txt.gz"


def small(seed: int = 1) -> Workload:
    return Workload.power_law(seed, readers=5_000, edges=60_000, authors=300, largest=1_500)


def fingerprint(workload: Workload) -> str:
    digest = hashlib.sha256()
    for readers, authors in workload.follow_edges(batch=7_777):
        digest.update(readers.astype("<u8").tobytes() + authors.astype("<u8").tobytes())
    for authors in workload.posts(1_000, seed=3):
        digest.update(authors.astype("<u8").tobytes())
    return digest.hexdigest()[:16]


def test_a_seed_means_the_same_graph_and_posts_for_ever_golden() -> None:
    """When this fails on purpose, raise FORMAT_VERSION: old results are of another workload."""
    assert fingerprint(small()) == "0e2a0eb8c96a5fc2"


def test_seeds_differ() -> None:
    assert len({fingerprint(small(seed)) for seed in (1, 2, 3, -1, 2**70)}) == 5


def test_exact_sizes_no_duplicate_no_self_follow() -> None:
    workload = small()
    pairs = [
        pair
        for readers, authors in workload.follow_edges()
        for pair in zip(readers.tolist(), authors.tolist(), strict=True)
    ]
    assert len(pairs) == len(set(pairs)) == workload.edges == 60_000
    assert all(reader != author for reader, author in pairs)
    assert len({reader for reader, _ in pairs}) == 5_000 == len(workload.readers())
    assert len({author for _, author in pairs}) == 300 == len(set(workload.authors.tolist()))
    assert workload.follower_counts.max() == 1_500


def test_authors_are_readers_too_and_ids_are_scattered() -> None:
    workload = small()
    users = set(workload.users.tolist())
    assert len(users) == 5_000
    assert set(workload.authors.tolist()) <= users
    octants = np.bincount((workload.users >> np.uint64(61)).astype(np.int64), minlength=8)
    assert octants.min() > 500  # of 625 expected


def test_followers_are_skewed_like_a_power_law() -> None:
    counts = np.sort(
        Workload.power_law(
            5, readers=20_000, edges=200_000, authors=1_000, largest=6_000
        ).follower_counts
    )[::-1]
    assert counts.sum() == 200_000
    assert counts[0] == 6_000
    assert np.median(counts) < counts.mean() / 2
    # A density that falls with the square: ten times the rank, a tenth of the followers.
    assert counts[499] == pytest.approx(counts[49] / 10, rel=0.3)


def test_readers_are_skewed_and_all_follow_somebody() -> None:
    following = np.bincount(small().followers, minlength=5_000)
    assert following.min() >= 1
    assert following.max() > 5 * following.mean()


def test_posts_are_drawn_evenly_so_the_mean_fanout_is_that_of_the_authors() -> None:
    workload = small()
    assert workload.mean_fanout() == 200.0
    drawn = np.concatenate(list(workload.posts(30_000)))
    authors, times = np.unique(drawn, return_counts=True)
    assert len(authors) == 300
    assert times.min() > 50
    assert times.max() < 160  # of 100 expected
    counts = dict(zip(workload.authors.tolist(), workload.follower_counts.tolist(), strict=True))
    assert np.mean([counts[author] for author in drawn.tolist()]) == pytest.approx(200, rel=0.05)


def test_posts_do_not_depend_on_the_batch_and_longer_begins_with_shorter() -> None:
    workload = small()
    whole = np.concatenate(list(workload.posts(2_000)))
    batches = list(workload.posts(1_500, batch=64))
    assert max(map(len, batches)) == 64
    assert np.concatenate(batches).tolist() == whole[:1_500].tolist()
    assert np.concatenate(list(workload.posts(2_000, seed=1))).tolist() != whole.tolist()


def test_followers_of_an_author_are_those_of_the_edges() -> None:
    workload = small()
    author = int(workload.authors[42])
    by_edges = [readers[authors == author] for readers, authors in workload.follow_edges(9_999)]
    assert set(np.concatenate(by_edges).tolist()) == set(workload.followers_of(42).tolist())


def test_follow_events_are_the_edges() -> None:
    workload = small()
    batches = list(workload.follow_events(batch=25_000))
    assert [len(batch) for batch in batches] == [25_000, 25_000, 10_000]
    readers, authors = next(workload.follow_edges(1))
    first = events.Relation(events.FOLLOW, int(readers[0]), int(authors[0]))
    assert batches[0][0] == first


def test_samples_are_seeded_distinct_and_all_of_them_follow() -> None:
    workload = small()
    sample = workload.sample_readers(100)
    assert len(sample) == 100
    assert sample == workload.sample_readers(100) != workload.sample_readers(100, seed=1)
    assert sample <= set(workload.readers().tolist())
    assert len(workload.sample_readers(9_999)) == 5_000


@pytest.mark.parametrize(
    ("sizes", "field"),
    [
        ({"readers": 100, "edges": 10_000, "authors": 200, "largest": 90}, "readers"),
        ({"readers": 9_000, "edges": 5_000, "authors": 200, "largest": 90}, "readers"),
        ({"readers": 1_000, "edges": 20_000, "authors": 100, "largest": 600}, "largest"),
        ({"readers": 1_000, "edges": 20_001, "authors": 100, "largest": 200}, "edges"),
        ({"readers": 1_000, "edges": 300, "authors": 100, "largest": 200}, "edges"),
        ({"readers": 1_000, "edges": 1_000, "authors": 1, "largest": 200}, "edges"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        Workload.power_law(1, **sizes)
    assert refused.value.field == field


def test_dense_graphs_come_out_exact_too() -> None:
    """Half of all possible edges: most draws are duplicates, and are drawn again."""
    workload = Workload.power_law(1, readers=100, edges=1_000, authors=20, largest=50)
    pairs = {
        (int(r), int(a))
        for rs, as_ in workload.follow_edges()
        for r, a in zip(rs, as_, strict=True)
    }
    assert len(pairs) == 1_000
    assert workload.follower_counts.tolist() == [50] * 20


# --- files ------------------------------------------------------------------------------------


LINES = b"5 7\n6 7\n\n5 8\n5 7\n9 9\n18446744073709551615 7\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_of_edges_plain_or_gzip(tmp_path: Path, pack: type[bytes]) -> None:
    path = tmp_path / "edges"
    path.write_bytes(pack(LINES))
    workload = Workload.from_file(path)
    (edges,) = workload.follow_edges()
    pairs = sorted(zip(edges[0].tolist(), edges[1].tolist(), strict=True))
    assert pairs == [(5, 7), (5, 8), (6, 7), (2**64 - 1, 7)]
    assert workload.authors.tolist() == [7, 8]
    assert sorted(workload.readers().tolist()) == [5, 6, 2**64 - 1]


def test_a_file_s_posts_are_drawn_by_followers(tmp_path: Path) -> None:
    path = tmp_path / "edges"
    path.write_bytes(LINES)
    workload = Workload.from_file(path)
    assert workload.mean_fanout() == (3 * 3 + 1 * 1) / 4
    drawn = np.concatenate(list(workload.posts(4_000))).tolist()
    assert 2_850 < drawn.count(7) < 3_150
    assert drawn.count(7) + drawn.count(8) == 4_000


@pytest.mark.parametrize("bad", [b"1 2\n3\n", b"1 2 3\n", b"a 2\n", b"-1 2\n", b"1 2\n3 2e5\n"])
def test_a_file_with_a_bad_line_is_refused(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "edges"
    path.write_bytes(bad)
    with pytest.raises(BadInput, match="edges: "):
        Workload.from_file(path)


def test_an_author_without_followers_in_the_file_is_no_author(tmp_path: Path) -> None:
    path = tmp_path / "edges"
    path.write_bytes(b"1 1\n2 3\n")
    assert Workload.from_file(path).authors.tolist() == [3]


@pytest.mark.skipif(not HIGGS.exists(), reason="the file of real follows is not on this machine")
def test_the_real_graph_has_its_known_shape() -> None:
    shape = Workload.from_file(HIGGS).describe()
    assert (shape["edges"], shape["readers"], shape["authors"]) == (328_132, 228_556, 41_426)
    assert (shape["largest_followers"], shape["largest_following"]) == (14_060, 134)
    assert round(shape["expected_mean_fanout"]) == 1_186


# --- texts ------------------------------------------------------------------------------------


def test_texts_are_distinct_seeded_and_about_120_bytes_long() -> None:
    texts = [text(number) for number in range(10_000)]
    assert len(set(texts)) == 10_000
    lengths = [len(each.encode()) for each in texts]
    assert 110 < np.mean(lengths) < 135
    assert min(lengths) >= 15
    assert max(lengths) < 240
    assert text(4) == texts[4]
    assert hashlib.sha256(texts[4].encode()).hexdigest()[:16] == "f054de8deff993ab"
