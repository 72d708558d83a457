"""Times as people write them: ISO 8601 UTC, durations (`90s`, `15m`, `2h`, `7d`), and back.

Inside, a time is an int: Unix milliseconds. `now_ms` is always a parameter.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from engine.errors import BadInput
from engine.limits import AT_MS_MAX

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")


@lru_cache(maxsize=128)
def _day(days: int) -> str:
    return datetime.fromtimestamp(days * 86_400, UTC).strftime("%Y-%m-%d")


def format_ms(ms: int) -> str:
    """ISO 8601 with milliseconds and `Z`. On the way of every cold post, so days are kept."""
    days, rest = divmod(ms, 86_400_000)
    seconds, thousandths = divmod(rest, 1_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{_day(days)}T{hour:02d}:{minute:02d}:{second:02d}.{thousandths:03d}Z"


def parse_duration_ms(text: str, field: str) -> int:
    """`2h` -> 7,200,000. BadInput names `field`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadInput(f"{field}: {text!r} is no duration; write 90s, 15m, 2h or 7d", field)
    return int(match[1]) * _UNIT_MS[match[2]]


def parse_time_ms(text: str, field: str, now_ms: int | None = None) -> int:
    """ISO 8601 (UTC unless it has an offset) or, with `now_ms`, a duration ago -> Unix ms.

    A duration that reaches back beyond 1970 means 1970. BadInput names `field`.
    """
    if now_ms is not None and _DURATION.fullmatch(text):
        return max(now_ms - parse_duration_ms(text, field), 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(
            f"{field}: {text[:40]!r} is no time; write 2026-01-31T12:00:00Z", field
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    ms = round(moment.timestamp() * 1_000)
    if not 0 <= ms <= AT_MS_MAX:
        raise BadInput(f"{field}: {text!r} is outside 1970..9999", field)
    return ms
