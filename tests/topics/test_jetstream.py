"""Jetstream's events become ours: ids of record keys, each kind, what is skipped and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput, Precondition
from engine.ids import id_ms
from topics import jetstream_map
from topics.jetstream import Skip, Tally, Translator, post_id
from topics.jetstream_map import JetstreamMap, user_id

ALICE, BOB = "did:plc:alice", "did:web:bob.example"
NOW_MS = 1_795_000_000_000
DIGITS = "234567abcdefghijklmnopqrstuvwxyz"


def tid(us: int, clock: int = 0) -> str:
    """The TID of a Unix microsecond, written out by the specification: base32, 13 characters."""
    number = us << 10 | clock
    return "".join(DIGITS[number >> shift & 31] for shift in range(60, -5, -5))


KEY = tid(1_700_000_000_123_456, 7)


def line(operation: str, collection: str, key: str = KEY, record: Any = None, **more: Any) -> bytes:
    commit = {"rev": "r", "operation": operation, "collection": collection, "rkey": key}
    if record is not None:
        commit["record"] = record
    message = {"did": ALICE, "time_us": 1_700_000_000_000_000, "kind": "commit", "commit": commit}
    return json.dumps({**message, **more}).encode()


@pytest.fixture
def known(tmp_path: Path) -> Iterator[JetstreamMap]:
    made = JetstreamMap(tmp_path / "map", "firehose-1")
    yield made
    made.close()


def translate(known: JetstreamMap, *lines: bytes) -> tuple[list[dict[str, Any]], Tally]:
    tally = Tally()
    with known.batch() as batch:
        translator = Translator(batch, tally, NOW_MS)
        events = [event for each in lines if (event := translator.event(each)) is not None]
    return events, tally


def uri(did: str, key: str, collection: str = "app.bsky.feed.post") -> dict[str, str]:
    return {"uri": f"at://{did}/{collection}/{key}", "cid": "c"}


def test_ids_come_from_the_record_key_alone_golden() -> None:
    # 1,700,000,000,123 ms; 456 us; clock 7; 2010 began at 1,262,304,000,000 ms.
    assert post_id(KEY, NOW_MS) == (437_696_000_123 << 22) | (456 << 12) | (7 << 2)
    assert id_ms(post_id(KEY, NOW_MS)) == 1_700_000_000_123
    assert (
        post_id("3jzfcijpj2z2a", NOW_MS) == 1786074656982200344
    )  # the example of the TID specification


def test_ids_keep_the_order_of_keys() -> None:
    keys = [tid(1_700_000_000_000_000 + us, clock) for us in range(2_000) for clock in (0, 1_023)]
    ids = [post_id(key, NOW_MS) for key in keys]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("self", "other_keys"),
        ("", "other_keys"),
        ("3jzfcijpj2z20", "other_keys"),  # 0 is no digit
        ("zzzzzzzzzzzzz", "other_keys"),  # the top bit
        ("2222222222222", "before_2010"),
        (tid(1_262_303_999_999_999), "before_2010"),
        (tid((NOW_MS + 60_001) * 1_000), "ahead"),
    ],
)
def test_keys_that_make_no_id(key: str, reason: str, known: JetstreamMap) -> None:
    with pytest.raises(Skip, match=reason):
        post_id(key, NOW_MS)
    record = {"text": "x", "createdAt": "2024-01-01T00:00:00Z"}
    events, tally = translate(known, line("create", "app.bsky.feed.post", key, record))
    assert (events, dict(tally.skipped), tally.wrong) == ([], {reason: 1}, 0)
    assert not tally.imported


def test_the_edges_of_time_are_inside() -> None:
    assert post_id(tid(1_262_304_000_000_000), NOW_MS) == 0
    assert id_ms(post_id(tid((NOW_MS + 60_000) * 1_000), NOW_MS)) == NOW_MS + 60_000


def test_a_post_with_everything(known: JetstreamMap) -> None:
    mention = {"$type": "app.bsky.richtext.facet#mention", "did": BOB}
    record = {
        "text": "hello",
        "createdAt": "2023-11-14T22:13:20.500Z",
        "tags": ["one"],
        "facets": [
            {"features": [{"$type": "app.bsky.richtext.facet#tag", "tag": "two"}, mention]},
            {"features": [mention]},
        ],
        "reply": {"parent": uri(BOB, tid(1_600_000_000_000_000)), "root": {}},
        "embed": {"external": {"uri": "https://example.org/a"}},
    }
    [event], tally = translate(known, line("create", "app.bsky.feed.post", record=record))
    assert event == {
        "type": "post",
        "author": str(user_id(ALICE)),
        "id": str(post_id(KEY, NOW_MS)),
        "text": "hello",
        "at": "2023-11-14T22:13:20.500Z",
        "tags": ["one", "two"],
        "mentions": [str(user_id(BOB))],
        "media": ["https://example.org/a"],
        "reply_to": str(post_id(tid(1_600_000_000_000_000), NOW_MS)),
        "reply_author": str(user_id(BOB)),
    }
    assert dict(tally.imported) == {"post": 1}


def test_a_like_finds_its_post_and_its_delete_finds_the_like(known: JetstreamMap) -> None:
    like = line("create", "app.bsky.feed.like", "k1", {"subject": uri(BOB, KEY)})
    events, _ = translate(known, like, line("delete", "app.bsky.feed.like", "k1"))
    post = {"author": str(user_id(BOB)), "post": str(post_id(KEY, NOW_MS))}
    assert [event["type"] for event in events] == ["like", "unlike"]
    assert all(event["reader"] == str(user_id(ALICE)) for event in events)
    assert all(post.items() <= event.items() for event in events)


def test_reposts_edits_deletes_and_blocks(known: JetstreamMap) -> None:
    events, tally = translate(
        known,
        line("create", "app.bsky.feed.repost", record={"subject": uri(BOB, KEY)}),
        line("update", "app.bsky.feed.post", record={"text": "better"}),
        line("delete", "app.bsky.feed.post"),
        line("create", "app.bsky.graph.block", "b", {"subject": BOB}),
        line("delete", "app.bsky.graph.block", "b"),
    )
    assert [e["type"] for e in events] == ["post", "edit", "delete", "block", "unblock"]
    assert events[0]["reblog_of"] == str(post_id(KEY, NOW_MS))
    assert events[0]["reblog_author"] == str(user_id(BOB))
    assert events[1]["post"] == events[2]["post"] == str(post_id(KEY, NOW_MS))
    assert tally.wrong == 0


def test_the_same_lines_again_send_nothing_that_could_change_something(known: JetstreamMap) -> None:
    lines = [
        line("create", "app.bsky.graph.follow", "a", {"subject": BOB}),
        line("delete", "app.bsky.graph.follow", "a"),
        line("create", "app.bsky.graph.follow", "b", {"subject": BOB}),
        line("create", "app.bsky.feed.like", "c", {"subject": uri(BOB, KEY)}),
        line("update", "app.bsky.feed.post", record={"text": "better"}),
    ]
    events, _ = translate(known, *lines)
    assert [e["type"] for e in events] == ["follow", "unfollow", "follow", "like", "edit"]
    again, tally = translate(known, *lines)
    assert again == []
    assert dict(tally.skipped) == {"seen_before": 5}


def test_two_follows_of_one_user_end_with_the_second_delete(known: JetstreamMap) -> None:
    follow = {"subject": BOB}
    events, tally = translate(
        known,
        line("create", "app.bsky.graph.follow", "a", follow),
        line("create", "app.bsky.graph.follow", "b", follow),
        line("delete", "app.bsky.graph.follow", "a"),
        line("delete", "app.bsky.graph.follow", "b"),
        line("delete", "app.bsky.graph.follow", "b"),
    )
    assert [event["type"] for event in events] == ["follow", "unfollow"]
    assert dict(tally.skipped) == {"seen_before": 3}


def test_what_is_none_of_ours_is_counted(known: JetstreamMap) -> None:
    identity = json.dumps({"did": ALICE, "time_us": 1, "kind": "identity", "identity": {}}).encode()
    events, tally = translate(
        known,
        identity,
        line("create", "app.bsky.actor.profile", "self", {}),
        line("update", "app.bsky.feed.like", "k", {}),
        line("delete", "app.bsky.graph.follow", "never-seen"),
        line("create", "app.bsky.feed.like", "k", {"subject": uri(BOB, KEY, "app.bsky.feed.gen")}),
        line("create", "app.bsky.graph.follow", "k" * 300, {"subject": BOB}),
        line("create", "app.bsky.graph.follow", "k", {"subject": "bob"}),
        line("create", "app.bsky.graph.follow", "k", {}),
        line("create", "app.bsky.feed.like", "k", {"subject": {"uri": "at://x"}}),
        line("create", "app.bsky.feed.post", record={"text": "x", "facets": [{"features": 3}]}),
    )
    assert events == []
    assert tally.wrong == 0
    assert dict(tally.skipped) == {
        "other_kinds": 1,
        "other_collections": 2,
        "other_operations": 1,
        "unknown_records": 1,
        "malformed_records": 5,
    }


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"did":1,"time_us":2}', b"\xff\xfe", b"null"])
def test_bad_lines_are_counted_and_named(bad: bytes, known: JetstreamMap) -> None:
    events, tally = translate(known, bad)
    assert (events, tally.bad_lines, len(tally.examples)) == ([], 1, 1)


def test_two_names_with_one_id_are_refused(
    known: JetstreamMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    translate(known, line("delete", "app.bsky.feed.post"))
    monkeypatch.setattr(jetstream_map, "user_id", lambda did: user_id(ALICE))
    events, tally = translate(known, line("delete", "app.bsky.feed.post", did=BOB))
    assert (events, tally.collisions) == ([], 1)
    assert ALICE in tally.examples[0]
    assert BOB in tally.examples[0]


def test_the_map_is_one_importers_and_one_firehoses(known: JetstreamMap, tmp_path: Path) -> None:
    with pytest.raises(Precondition, match="another import"):
        JetstreamMap(tmp_path / "map", "firehose-1")
    known.close()
    with pytest.raises(Precondition, match="firehose-2"):
        JetstreamMap(tmp_path / "map", "firehose-2")
    JetstreamMap(tmp_path / "map", "firehose-1").close()


def test_a_batch_that_fails_is_not_remembered(known: JetstreamMap) -> None:
    follow = line("create", "app.bsky.graph.follow", "a", {"subject": BOB})
    with pytest.raises(ConnectionError), known.batch() as batch:
        assert Translator(batch, Tally(), NOW_MS).event(follow) is not None
        batch.move_cursor("wss://x", 5)
        raise ConnectionError
    assert known.cursor("wss://x") is None
    events, _ = translate(known, follow)
    assert len(events) == 1


def test_only_dids_are_users() -> None:
    for bad in ("", "alice", "did:plc:" + "a" * 3_000):
        with pytest.raises(BadInput, match="no DID"):
            user_id(bad)
    assert user_id("did:plc:alice") == 0xA304C5C525080EBF  # sha256sum
