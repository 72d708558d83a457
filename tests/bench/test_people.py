"""The demo's people: what they do is well-formed, theirs to do, and the same for a seed."""

from __future__ import annotations

import json

from bench.people import Network, People
from engine import wire

_NETWORK = Network.make(1, users=200, authors=40, follows=2_000)


def _run(seed: int, count: int) -> list[dict[str, object]]:
    """`count` events, each answered as a gateway would."""
    people = People(_NETWORK, seed)
    done: list[dict[str, object]] = []
    while len(done) < count:
        for event in people.next_events(50):
            done.append(event)
            answer = {"id": str(1_000 + len(done))} if event["type"] == "post" else {"id": None}
            people.published(event, answer)
    return done


def test_ids_are_small_and_the_star_is_user_1() -> None:
    readers = {reader for reader, _ in _NETWORK.follows}
    followers = [author for _, author in _NETWORK.follows]
    assert readers == set(range(1, 201))
    assert set(followers) <= set(range(1, 41))
    assert len(_NETWORK.follows) == len(set(_NETWORK.follows)) == 2_000
    assert followers.count(1) == max(followers.count(author) for author in set(followers))
    assert len(list(_NETWORK.follow_events())) == 2_000


def test_every_event_is_one_of_the_contract() -> None:
    events = _run(seed=3, count=5_000)
    for event in events:
        wire.parse_event(json.dumps(event).encode())
    kinds = {event["type"] for event in events}
    assert kinds == {
        "post", "edit", "delete", "follow", "unfollow", "block", "unblock", "mute", "unmute"
    }  # fmt: skip
    assert any("reply_to" in event for event in events)
    assert any("reblog_of" in event for event in events)


def test_people_edit_and_delete_only_what_is_theirs() -> None:
    owners: dict[object, object] = {}
    touched = 0
    for number, event in enumerate(_run(seed=4, count=3_000), 1):
        if event["type"] == "post":
            owners[str(1_000 + number)] = event["author"]
        elif event["type"] in ("edit", "delete"):
            touched += 1
            assert owners[event["post"]] == event["author"]
    assert touched > 50


def test_a_seed_decides_everything() -> None:
    assert _run(seed=5, count=500) == _run(seed=5, count=500)
    assert _run(seed=5, count=500) != _run(seed=6, count=500)
