"""The bounds fit each other and the public contract; the formats' numbers never move."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine import limits, limits_stack
from engine.codec import encode
from engine.events import Post
from engine.timeline import Cursor

FILES = (limits, limits_stack)
CONSTANTS = {
    name: value for each in FILES for name, value in vars(each).items() if name.isupper()
}


def test_numbers_of_the_formats_golden():
    """Never change these: they are on disk."""
    assert limits.U16_MAX == 0xFFFF
    assert limits.U32_MAX == 0xFFFF_FFFF
    assert limits.U64_MAX == 0xFFFF_FFFF_FFFF_FFFF
    assert limits.POST_ID_MAX == 0x7FFF_FFFF_FFFF_FFFF
    assert limits.FLOOR_NONE == 0x8000_0000_0000_0000
    assert limits.FORMAT_VERSION == 1


def test_numbers_of_the_public_contract():
    assert limits.TEXT_BYTES_MAX == 65_536
    assert (limits.TAGS_MAX, limits.TAG_CHARACTERS_MAX) == (32, 140)
    assert (limits.MEDIA_MAX, limits.MEDIA_BYTES_MAX) == (16, 2_048)
    assert limits.MENTIONS_MAX == 50
    assert limits.EVENT_BYTES_MAX == 131_072
    assert limits.BATCH_BYTES_MAX == 8 * 1_048_576
    assert limits.ID_AHEAD_MS_MAX == 60_000
    assert (limits.BACKFILL_POSTS_MAX, limits.BACKFILL_AGE_MS_MAX) == (100, 30 * 86_400_000)
    assert (limits.PAGE_POSTS_DEFAULT, limits.PAGE_POSTS_MAX) == (20, 200)
    assert limits.SETTLE_MARGIN_MS == 5_000
    assert limits.PARTITIONS_DEFAULT == 32
    assert limits.RETENTION_MS_DEFAULT == 7 * 86_400_000


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_every_bound_is_a_number_above_zero(name):
    value = CONSTANTS[name]
    numbers = value if isinstance(value, tuple) else (value,)
    assert all(type(number) in (int, float) and number > 0 for number in numbers)


def test_every_bound_is_defined_once():
    source = "\n".join(Path(each.__file__).read_text(encoding="utf-8") for each in FILES)
    names = re.findall(r"^([A-Z][A-Z0-9_]*) = ", source, re.MULTILINE)
    assert len(names) == len(set(names))
    assert set(names) == set(CONSTANTS)


def test_a_coordinating_gateway_has_time_for_a_checkpoint_between_two_confirmations():
    valid_s = limits.KAFKA_LEADER_SESSION_S - limits.KAFKA_LEADER_MARGIN_S
    assert valid_s > limits.KAFKA_FENCED_S + 2 * limits.KAFKA_LEADER_CONFIRM_S
    assert 3 * limits.KAFKA_FENCED_STEP_S <= limits.KAFKA_FENCED_S
    assert 2 * limits.KAFKA_LEADER_HEARTBEAT_S < limits.KAFKA_LEADER_SESSION_S


def test_the_fullest_post_fits_into_a_frame():
    """So a post that obeys every field's bound is never refused for its size."""
    wide = "\U0001f600"
    fullest = Post(
        author=limits.U64_MAX,
        id=limits.POST_ID_MAX,
        at_ms=limits.AT_MS_MAX,
        text=wide * (limits.TEXT_BYTES_MAX // 4),
        tags=(wide * limits.TAG_CHARACTERS_MAX,) * limits.TAGS_MAX,
        media=("m" * limits.MEDIA_BYTES_MAX,) * limits.MEDIA_MAX,
        mentions=(limits.U64_MAX,) * limits.MENTIONS_MAX,
        reblog_of=limits.POST_ID_MAX,
        reblog_author=limits.U64_MAX,
        reply_to=limits.POST_ID_MAX,
        reply_author=limits.U64_MAX,
    )
    assert len(encode(fullest)) < limits.EVENT_BYTES_MAX


def test_the_longest_cursor_is_accepted_by_its_own_bound():
    longest = str(Cursor(limits.POST_ID_MAX, limits.U64_MAX))
    assert len(longest) <= limits.CURSOR_CHARACTERS_MAX


def test_bounds_that_contain_each_other():
    assert limits.FLOOR_NONE > limits.POST_ID_MAX  # no post reaches it
    assert limits.PAGE_SCAN_KEYS_MAX > limits.PAGE_POSTS_MAX
    assert limits.PAGE_POSTS_DEFAULT <= limits.PAGE_POSTS_MAX
    assert limits.BACKFILL_POSTS_MAX <= limits.OUTBOX_SCAN_KEYS
    assert limits.EVENT_BYTES_MAX <= limits.BATCH_BYTES_MAX <= limits.WORKER_BYTES_MAX
    assert limits.EVENT_BYTES_MAX <= limits.READ_BYTES_MAX
    assert limits.RUN_KEYS_MIN < limits.WORKER_KEYS_AIM
    assert limits.PARTITIONS_DEFAULT <= limits.PARTITIONS_MAX <= limits.U16_MAX + 1
    assert limits.RETENTION_MS_MIN <= limits.SEGMENT_MS <= limits.RETENTION_MS_DEFAULT
    assert limits.RETRY_FIRST_MS <= limits.RETRY_MS_MAX
    assert limits.AFTER_WAIT_MS_DEFAULT <= limits.AFTER_WAIT_MS_MAX
