"""Times as people write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.limits import AT_MS_MAX
from engine.times import format_ms, parse_duration_ms, parse_time_ms
from tests.strategies import looks, times_ms

NOON = 1_769_860_800_000  # 2026-01-31T12:00:00Z


def test_format():
    assert format_ms(0) == "1970-01-01T00:00:00.000Z"
    assert format_ms(NOON + 7) == "2026-01-31T12:00:00.007Z"
    assert format_ms(AT_MS_MAX) == "9999-12-31T23:59:59.999Z"
    assert format_ms(-1) == "1969-12-31T23:59:59.999Z"


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-31T12:00:00Z", NOON),
        ("2026-01-31T12:00:00", NOON),  # UTC unless it says otherwise
        ("2026-01-31 12:00:00.25Z", NOON + 250),
        ("2026-01-31T12:00:00.0004Z", NOON),
        ("2026-01-31T14:00:00+02:00", NOON),
        ("2026-01-31T06:30:00-05:30", NOON),
        ("2026-01-31", NOON - 43_200_000),
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59.999Z", AT_MS_MAX),
    ],
)
def test_parse_time(text, ms):
    assert parse_time_ms(text, "at") == ms


def test_a_time_without_an_offset_is_utc_wherever_the_machine_stands(monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert parse_time_ms("2026-01-31T12:00:00", "at") == NOON
        assert format_ms(NOON) == "2026-01-31T12:00:00.000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "12:00",
        "2026-13-01",
        "2026-02-30T00:00:00Z",
        "2026-01-31T12:00:00Zjunk",
        "2026-01-31T12:00:00+99:00",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+00:01",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-00:01",
        "9999-12-31T23:59:59.9999Z",  # rounds to the year 10000
        "2h",  # relative times only where there is a now
        "\u0662\u0660\u0662\u0666-\u0660\u0661-\u0663\u0661",
        "2026-01-31T12:00:00\ud800",
        "1769860800",
    ],
)
def test_parse_time_refuses(text):
    with pytest.raises(BadInput) as caught:
        parse_time_ms(text, "since")
    assert caught.value.field == "since"


@looks(200)
@given(times_ms)
def test_every_millisecond_comes_back(ms):
    assert parse_time_ms(format_ms(ms), "at") == ms


@looks(150)
@given(st.text(max_size=40) | st.text("-0123456789TWZ:+. hd", max_size=32))
def test_any_text_is_a_time_or_bad_input_fuzz(text):
    try:
        ms = parse_time_ms(text, "at", now_ms=NOON)
    except BadInput as error:
        assert error.field == "at"
    else:
        assert 0 <= ms <= AT_MS_MAX
        format_ms(ms)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("250ms", 250),
        ("90s", 90_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("0s", 0),
        ("999999999999ms", 999_999_999_999),
    ],
)
def test_duration(text, ms):
    assert parse_duration_ms(text, "retention") == ms


@pytest.mark.parametrize(
    "text",
    ["", "7", "d", "-1d", "1.5h", "1 h", "1H", "1w", "1d\n", "\u0663h", "1" * 13 + "s"],
)
def test_duration_refuses(text):
    with pytest.raises(BadInput, match="is no duration; write 90s, 15m, 2h or 7d") as caught:
        parse_duration_ms(text, "retention")
    assert caught.value.field == "retention"


def test_relative_time_is_that_long_ago():
    assert parse_time_ms("2h", "since", now_ms=NOON) == NOON - 7_200_000
    assert parse_time_ms("2026-01-31T12:00:00Z", "since", now_ms=5) == NOON


def test_relative_time_beyond_1970_means_1970():
    """It gave a negative time, which no store can hold."""
    assert parse_time_ms("999999999999d", "since", now_ms=NOON) == 0
