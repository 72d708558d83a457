"""Workloads: a follow graph and posts on it, seeded, the same on every machine.

A graph is made from (seed, FORMAT_VERSION) by integer arithmetic, division and square roots only
(which IEEE 754 rounds exactly), with counter-based randomness, so neither numpy's version nor the
machine changes an edge. The shape of `power_law` and why:

- 20,000,000 edges over 100,000 authors are a mean of 200 followers an author. Posts are drawn
  evenly over the authors, so 200 is also the mean fan-out of a post; of some 100,000 posts drawn,
  over 60,000 authors have posted. (With 50,000 authors the mean would be 400.)
- Followers by rank are truncated Zipf, `largest * (1 + shift) // (rank + shift)`: a tail whose
  density falls with the square, as social networks' do, cut at `largest` (16,000: below the push
  limit, so everything is pushed). `shift` is found so that the edges come out exactly.
- Readers are drawn with density falling as the cube root of the rank: the busiest follow some
  1,700, and every reader at least one. Authors are readers too; no self-follow, no duplicate.
- User ids are `mix64` of a counter: scattered over u64, distinct, related to nothing.

Everything is arrays: no Python object per edge or post. One thread.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.churn import Mix, Placed, Random, Timed, churn, place
from engine import events
from engine.errors import BadInput
from engine.homing import mix64, mix64_many

__all__ = [
    "FORMAT_VERSION",
    "Mix",
    "Placed",
    "Timed",
    "Workload",
    "churn",
    "place",
    "text",
]

FORMAT_VERSION = 1  # of what a seed means: raise it when any edge or draw changes
BATCH_EDGES = 1_000_000
BATCH_POSTS = 8_192
LARGEST_FOLLOWERS = 16_000
_STEP = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64's increment
_UNIFORM_ROUNDS = 4  # after this many redraws of duplicates, readers are drawn evenly

U64s = npt.NDArray[np.uint64]
I64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Workload:
    """A follow graph by author. Sizes: A authors, U users, E edges."""

    name: str
    seed: int
    users: U64s  # (U,) all user ids, distinct; not sorted
    authors: U64s  # (A,) the ids of those who post, distinct; not sorted
    starts: I64s  # (A + 1,) the followers of author a are followers[starts[a]:starts[a + 1]]
    followers: npt.NDArray[np.uint32]  # (E,) indexes into `users`, ascending within an author
    post_ends: I64s  # (A,) cumulative weight of the authors' posts

    @classmethod
    def power_law(
        cls,
        seed: int,
        *,
        readers: int = 1_000_000,
        edges: int = 20_000_000,
        authors: int = 100_000,
        largest: int = LARGEST_FOLLOWERS,
    ) -> Workload:
        """The graph that the module describes. Every reader follows somebody, the first author
        has `largest` followers, there are exactly `edges` edges.

        Raises BadInput, which names the number, when no such graph exists or would be dense.
        """
        counts = _follower_counts(authors, edges, largest)
        if not authors <= readers <= edges:
            raise BadInput(f"{readers} readers: give {authors}..{edges}", "readers")
        if int(counts.max()) > readers // 2:
            raise BadInput(f"largest {largest}: at most half of {readers} readers", "largest")
        salt = _salt(seed, 0)
        users = mix64_many(np.arange(readers, dtype=np.uint64) + salt)
        own = np.argsort(_draws(_salt(seed, 1), 0, readers), kind="stable")[:authors]
        keys = _draw_edges(seed, counts, own, readers)
        starts = np.concatenate(([0], np.cumsum(counts)))
        post_ends = np.arange(1, authors + 1, dtype=np.int64)  # evenly
        followers = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        return cls("power-law", seed, users, users[own], starts, followers, post_ends)

    @classmethod
    def from_file(cls, path: str | Path, seed: int = 0) -> Workload:
        """The graph of a file with a line `reader author` per edge, plain or gzip, ids as they
        are there. Repeated edges and self-follows are dropped. An author's share of the posts is
        their share of the edges, so the mean fan-out is weighted by followers.

        Raises BadInput when a line is not two u64.
        """
        path = Path(path)
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        readers, authors = _parse_edges(raw, path.name)
        keep = readers != authors
        users = np.unique(np.concatenate((readers[keep], authors[keep])))
        reader_index = np.searchsorted(users, readers[keep]).astype(np.uint64)
        author_index = np.searchsorted(users, authors[keep]).astype(np.uint64)
        keys = np.unique((author_index << np.uint64(32)) | reader_index)
        own, counts = np.unique(keys >> np.uint64(32), return_counts=True)
        post_ends = np.cumsum(counts)
        starts = np.concatenate(([0], post_ends))
        followers = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        authors = users[own.astype(np.int64)]
        return cls(path.name, seed, users, authors, starts, followers, post_ends)

    # --- the graph --------------------------------------------------------------------------------

    @property
    def edges(self) -> int:
        """Number of follow edges."""
        return len(self.followers)

    @property
    def follower_counts(self) -> I64s:
        """(A,) followers per author."""
        return np.diff(self.starts)

    def readers(self) -> U64s:
        """The ids of all who follow somebody, ascending by their index in `users`."""
        follows = np.zeros(len(self.users), dtype=np.bool_)
        follows[self.followers] = True
        return self.users[follows]

    def followers_of(self, author_index: int) -> U64s:
        """The ids of the followers of `authors[author_index]`."""
        return self.users[self.followers[self.starts[author_index] : self.starts[author_index + 1]]]

    def mean_fanout(self) -> float:
        """The expected number of followers of a post's author, as `posts` draws them."""
        weights = np.diff(self.post_ends, prepend=0)
        return float((weights * self.follower_counts).sum() / self.post_ends[-1])

    def follow_edges(self, batch: int = BATCH_EDGES) -> Iterator[tuple[U64s, U64s]]:
        """All edges as (reader ids, author ids) of at most `batch` each, author by author."""
        for first in range(0, self.edges, batch):
            places = np.arange(first, min(first + batch, self.edges))
            index = np.searchsorted(self.starts, places, side="right") - 1
            yield self.users[self.followers[places]], self.authors[index]

    def follow_events(self, batch: int = BATCH_POSTS) -> Iterator[list[events.Event]]:
        """All edges as follow events, in the order of `follow_edges`."""
        for readers, authors in self.follow_edges(batch):
            pairs = zip(readers.tolist(), authors.tolist(), strict=True)
            yield [events.Relation(events.FOLLOW, reader, author) for reader, author in pairs]

    def sample_readers(self, count: int, seed: int = 0) -> set[int]:
        """`count` different readers (all, if there are fewer), drawn evenly."""
        readers = self.readers()
        order = np.argsort(_draws(_salt(self.seed ^ mix64(seed), 6), 0, len(readers)))
        return set(readers[order[:count]].tolist())

    # --- the posts --------------------------------------------------------------------------------

    def posts(self, count: int, seed: int = 0, batch: int = BATCH_POSTS) -> Iterator[U64s]:
        """The authors of `count` posts, u64 arrays of at most `batch`; ids are taken on publish.

        The stream does not depend on `batch`, and a longer one begins with a shorter one.
        """
        salt = _salt(self.seed ^ mix64(seed), 5)
        total = np.uint64(self.post_ends[-1])
        for first in range(0, count, batch):
            # The remainder is even but for total / 2^64: nothing.
            drawn = _draws(salt, first, min(batch, count - first)) % total
            yield self.authors[np.searchsorted(self.post_ends, drawn.astype(np.int64), "right")]

    def describe(self) -> dict[str, Any]:
        """Numbers for a result file."""
        counts = self.follower_counts
        following = np.bincount(self.followers, minlength=len(self.users))
        return {
            "workload": self.name,
            "workload_version": FORMAT_VERSION,
            "seed": self.seed,
            "users": len(self.users),
            "readers": int((following > 0).sum()),
            "authors": len(self.authors),
            "edges": self.edges,
            "largest_followers": int(counts.max(initial=0)),
            "largest_following": int(following.max(initial=0)),
            "expected_mean_fanout": round(self.mean_fanout(), 2),
        }


# --- making a graph -------------------------------------------------------------------------------


def _salt(seed: int, purpose: int) -> np.uint64:
    """Where the randomness for one purpose begins."""
    return np.uint64(mix64(mix64(seed % 2**64) ^ (FORMAT_VERSION << 32) ^ purpose))


def _draws(salt: np.uint64, first: int, count: int) -> U64s:
    """Elements `first`.. of the random stream `salt`, u64."""
    return mix64_many(np.arange(first + 1, first + 1 + count, dtype=np.uint64) * _STEP + salt)


def _fractions(draws: U64s) -> npt.NDArray[np.float64]:
    """u64 -> [0, 1), by their 53 upper bits: exact."""
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _follower_counts(authors: int, edges: int, largest: int) -> I64s:
    """(A,) followers by rank, descending but for rounding, with the exact sum `edges`."""
    ranks = np.arange(authors, dtype=np.int64)

    def at(shift: int) -> I64s:
        return np.maximum(largest * (1 + shift) // (1 + ranks + shift), 1)

    low, high = 0, max(2 * authors, 1) * max(largest, 1)
    if authors < 2 or not int(at(low).sum()) <= edges <= authors * largest:
        raise BadInput(
            f"{edges} edges: for {authors} authors, the largest with {largest} followers, give"
            f" {int(at(low).sum())}..{authors * largest}",
            "edges",
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if int(at(middle).sum()) <= edges else (low, middle)
    counts = at(low)
    # What rounding left goes to those with the fewest, who are furthest from `largest`.
    lacking = edges - int(counts.sum())
    while lacking > 0:
        below = np.flatnonzero(counts < largest)[::-1][:lacking]
        counts[below] += 1
        lacking -= len(below)
    return counts


def _draw_edges(seed: int, counts: I64s, own: I64s, readers: int) -> U64s:
    """E distinct keys `author index << 32 | reader index`, ascending; no author follows itself.

    counts: (A,) followers per author. own: (A,) the authors' indexes as readers.
    """
    edges = int(counts.sum())
    author = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
    reader = _draw_readers(_draws(_salt(seed, 2), 0, edges), readers)
    # One edge of each reader is given, spread evenly over all edges: nobody follows nobody.
    given = (np.arange(readers, dtype=np.int64) * edges) // readers
    reader[given] = _spread_readers(seed, own[author[given]], readers)
    keys = (author.astype(np.uint64) << np.uint64(32)) | reader
    del author, reader
    keys.sort()
    for round_ in range(1, 1_000):
        bad = np.concatenate(([False], keys[1:] == keys[:-1]))
        index = (keys >> np.uint64(32)).astype(np.int64)
        bad |= (keys & np.uint64(0xFFFFFFFF)).astype(np.int64) == own[index]
        del index
        if not bad.any():
            return keys
        again = keys[bad] >> np.uint64(32)
        draws = _draws(_salt(seed, 1_000 + round_), 0, len(again))
        even = round_ > _UNIFORM_ROUNDS
        fresh = draws % np.uint64(readers) if even else _draw_readers(draws, readers)
        # Nearly sorted, so a stable (merging) sort is quicker than another whole one.
        keys = np.concatenate((keys[~bad], np.sort((again << np.uint64(32)) | fresh)))
        keys.sort(kind="stable")
    raise BadInput(f"{edges} edges among {readers} readers are too dense to draw", "edges")


def _draw_readers(draws: U64s, readers: int) -> U64s:
    """u64 draws -> reader indexes; index x comes with density x^(-1/3)."""
    fraction = _fractions(draws)
    return (fraction * np.sqrt(fraction) * readers).astype(np.uint64)


def _spread_readers(seed: int, forbidden: I64s, readers: int) -> U64s:
    """(U,) each reader index once, in random order, and never forbidden[i] at place i."""
    order = np.argsort(_draws(_salt(seed, 3), 0, readers), kind="stable")
    random = Random(seed)
    while len(clashes := np.flatnonzero(order == forbidden)):
        for place_ in clashes.tolist():
            other = random.below(readers)
            order[[place_, other]] = order[[other, place_]]
    return order.astype(np.uint64)


def _parse_edges(raw: bytes, name: str) -> tuple[U64s, U64s]:
    lines = [line for line in raw.splitlines() if line.strip()]
    words = raw.split()
    if len(words) != 2 * len(lines):
        for number, line in enumerate(raw.splitlines(), 1):
            if len(line.split()) not in (0, 2):
                raise BadInput(f"{name}: line {number} is not `reader author`", "line")
    try:
        pairs = np.array(words, dtype=np.uint64).reshape(-1, 2)
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{name}: every line is two u64, `reader author`: {error}", "line") from None
    return pairs[:, 0].copy(), pairs[:, 1].copy()


# --- texts ----------------------------------------------------------------------------------------

_CONSONANTS, _VOWELS = "bdfghklmnprstvwz", "aeiou"
_TEXTS = 4_093  # a prime: consecutive numbers do not fall into step with anything


def _make_text(number: int) -> str:
    """20 to 220 characters of something like words; 120 in the mean."""
    random = Random(number)
    length, words, have = 20 + random.below(201), list[str](), 0
    while have < length:
        word = ""
        for _ in range(1 + random.below(4)):
            word += random.choice(_CONSONANTS) + random.choice(_VOWELS)
        words.append(word)
        have += len(words[-1]) + 1
    return " ".join(words)[:length].strip()


_texts: list[str] = []


def text(number: int) -> str:
    """The text of post `number`: about 120 bytes, distinct, and cheap (under a microsecond)."""
    if not _texts:
        _texts.extend(_make_text(n) for n in range(_TEXTS))
    return f"{_texts[number % _TEXTS]} {number}"
