"""URLs of the parts: what they mean, and what is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from topics.urls import (
    EmbeddedPlace,
    HBasePlace,
    KafkaPlace,
    MemoryPlace,
    RedisPlace,
    parse_cache,
    parse_firehose,
    parse_store,
)

BASE = Path("/base")


def test_what_they_mean() -> None:
    assert parse_firehose("embedded:a/b", BASE) == EmbeddedPlace(BASE / "a" / "b")
    assert parse_firehose("kafka://h/t.x_y-1", BASE) == KafkaPlace("h:9092", "t.x_y-1", 1)
    assert parse_firehose("kafka://[::1]:1,b:2/t", BASE) == KafkaPlace("[::1]:1,b:2", "t", 1)
    assert parse_store("hbase://h/c1", BASE) == HBasePlace("h", 9090, "c1", "h:2181")
    framed = parse_store("hbase://h:1/c1?zookeeper=z&transport=framed", BASE)
    assert framed == HBasePlace("h", 1, "c1", "z:2181", "framed")
    assert framed.url == "hbase://h:1/c1?zookeeper=z:2181&transport=framed"
    assert parse_store(framed.url, BASE) == framed
    assert parse_cache("memory:") == MemoryPlace()
    assert parse_cache("redis://h") == RedisPlace("redis://h:6379/0")
    assert parse_cache("redis://me:word@h:1/15") == RedisPlace("redis://me:word@h:1/15")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kafka://h:9092/..", "topic"),
        ("kafka://h:9092/a/b", "topic"),
        ("kafka://h:9092/" + "a" * 201, "topic"),
        ("kafka://h:0/t", "host:port"),
        ("kafka://h:65536/t", "host:port"),
        ("kafka://,h/t", "host:port"),
        ("kafka:///t", "no such URL"),
        ("kafka://h/t#x", "no such URL"),
        ("kafka://h/t?replication=0", "from 1 to"),
        ("kafka://h/t?replication=1&replication=2", "once each"),
        ("kafka://h/t?acks=0", "known are replication"),
        ("kafka://h/t?x", "no name=value"),
        ("confluent://h/t", "kafka://"),
        ("", "embedded:FOLDER"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_firehose(text, BASE)


def test_no_cell_is_named_like_a_copy() -> None:
    """Verify of c1 would have dropped its tables."""
    for name in ("c1-copy", "c1-copy.x", "-copy"):
        with pytest.raises(BadInput, match="verify's copies" if name[0] == "c" else "name"):
            parse_store(f"hbase://h/{name}", BASE)
    assert isinstance(parse_store("hbase://h/c1-copy2", BASE), HBasePlace)


def test_stores_and_caches_refuse_too() -> None:
    for text in ("hbase://h/", "hbase://h/a b", "hbase://h/c?transport=http", "hbase://h:x/c"):
        with pytest.raises(BadInput):
            parse_store(text, BASE)
    for text in ("redis://", "redis://h/1/2", "redis://h/0?db=1", "rediss://h", "memory"):
        with pytest.raises(BadInput):
            parse_cache(text)


@given(st.text(max_size=40), st.sampled_from(["kafka://", "hbase://", "redis://", "embedded:", ""]))
def test_any_text_is_taken_or_refused_fuzz(text: str, scheme: str) -> None:
    for parse in (parse_firehose, parse_store, lambda text, base: parse_cache(text)):
        try:
            parse(scheme + text, BASE)
        except BadInput as error:
            assert error.message
