"""Churn: seeded streams that hold everything, within the contract, in an order that time allows."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import fields

import pytest

from bench.churn import START_MS, Mix, Placed, churn, place
from engine import codec, events, limits
from engine.errors import BadInput
from engine.homing import partition_of
from engine.ids import id_ms

COUNT = 8_000


def stream(seed: int = 1, **options: int) -> list[Placed]:
    return list(place(churn(seed, count=COUNT, **options), 8))


def only(**weights: int) -> Mix:
    """A mix of nothing else."""
    nothing = {knob.name: 0 for knob in fields(Mix)}
    return Mix(**{**nothing, **weights})


def test_a_seed_means_the_same_stream_for_ever_golden() -> None:
    digest = hashlib.sha256()
    for placed in stream():
        digest.update(repr(placed[:3]).encode() + codec.encode(placed.event))
    assert digest.hexdigest()[:16] == "d666cc40b313d201"


def test_seeds_differ_and_a_longer_stream_begins_with_a_shorter() -> None:
    assert stream(1) != stream(2)
    assert list(churn(1, count=100)) == list(churn(1, count=COUNT))[:100]


def test_every_kind_of_event_is_there_and_within_the_contract() -> None:
    kinds: Counter[int] = Counter()
    for placed in stream():
        assert codec.decode(codec.encode(placed.event)) == placed.event
        kinds[placed.event.kind] += 1
    assert set(kinds) == set(events.KIND_NAMES)
    assert min(kinds.values()) > 20
    assert sum(kinds.values()) == COUNT


def test_places_are_a_firehose_s() -> None:
    offsets = [0] * 8
    last_ms = START_MS
    for placed in stream():
        assert placed.partition == partition_of(placed.event.account, 8)
        assert placed.offset == offsets[placed.partition]
        assert placed.time_ms >= last_ms
        offsets[placed.partition] += 1
        last_ms = placed.time_ms
    assert min(offsets) > 0


def test_the_junk_is_there() -> None:
    posts: dict[tuple[int, int], int] = {}  # (author, id) -> times
    authors: dict[int, set[int]] = {}  # id -> authors
    found: Counter[str] = Counter()
    following: set[tuple[int, int]] = set()
    for _, _, time_ms, event in stream():
        if isinstance(event, events.Post):
            key = (event.author, event.id)
            ahead_ms = id_ms(event.id) - time_ms
            found["again"] += key in posts
            found["future"] += ahead_ms > limits.ID_AHEAD_MS_MAX
            found["old"] += ahead_ms < -limits.BACKFILL_AGE_MS_MAX
            found["reblog"] += event.reblog_of is not None
            found["reply"] += event.reply_to is not None
            posts[key] = time_ms
            authors.setdefault(event.id, set()).add(event.author)
            found["shared"] += len(authors[event.id]) > 1
        elif isinstance(event, events.Edit | events.Delete):
            name = events.KIND_NAMES[event.kind]
            mine = (event.author, event.post) in posts
            found[f"{name} of one's own"] += mine
            found[f"{name} of another's"] += not mine and event.post in authors
            found[f"{name} of nothing yet"] += event.post not in authors
        elif isinstance(event, events.Relation):
            pair = (event.reader, event.author)
            found["towards oneself"] += pair[0] == pair[1]
            found["follow while following"] += event.kind == events.FOLLOW and pair in following
            if event.kind == events.FOLLOW:
                following.add(pair)
            elif event.kind == events.UNFOLLOW:
                following.discard(pair)
    assert len(found) == 14
    assert min(found.values()) >= 10, found


def test_a_future_id_is_too_far_ahead_of_its_own_append_time() -> None:
    for time_ms, event in churn(3, count=500, mix=only(future_id=1), step_ms=60_000):
        assert isinstance(event, events.Post)
        assert id_ms(event.id) > time_ms + limits.ID_AHEAD_MS_MAX


@pytest.mark.parametrize("knob", [knob.name for knob in fields(Mix)])
def test_every_knob_alone_makes_a_stream(knob: str) -> None:
    """What lacks something to be done to becomes a post."""
    weights = {knob: 1} if knob != "pause" else {"pause": 1, "post": 1}
    made = list(churn(1, count=200, users=5, mix=only(**weights)))
    assert len(made) == 200
    assert all(codec.decode(codec.encode(event)) == event for _, event in made)


def test_pauses_make_posts_too_old_for_a_backfill() -> None:
    times = [time_ms for time_ms, _ in churn(1, count=4_000)]
    assert times[-1] - times[0] > 30 * 24 * 3_600_000
    calm = [time_ms for time_ms, _ in churn(1, count=2_000, mix=Mix(pause=0), step_ms=0)]
    assert set(calm) == {START_MS}


def test_a_graph_comes_first_and_its_authors_are_at_work_as_they_are_followed() -> None:
    graph = [(reader, 1_000) for reader in range(1, 400)] + [(5, 1_001)]
    made = list(churn(1, count=3_000, graph=graph))
    assert len(made) == 3_400
    first = [event for _, event in made[:400]]
    assert [(event.reader, event.author) for event in first] == graph  # type: ignore[union-attr]
    posts = Counter(event.author for _, event in made if isinstance(event, events.Post))
    assert set(posts) <= {*range(1, 400), 1_000, 1_001}
    assert posts[1_000] > sum(posts.values()) / 5 > 100


def test_impossible_knobs_are_refused() -> None:
    with pytest.raises(BadInput, match="at least 2"):
        churn(1, count=1, users=1)
    with pytest.raises(BadInput, match="mix of nothing"):
        churn(1, count=1, mix=only())
