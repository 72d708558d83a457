"""Queries, strictly: unknown and repeated parameters are errors that name them.

Pure functions, safe from any thread. Values stay text; `integer` and `position` read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from urllib.parse import unquote_to_bytes

from engine.errors import BadInput
from engine.limits import CURSOR_CHARACTERS_MAX, PARTITIONS_MAX, U64_MAX

_DIGITS_MAX = len(str(U64_MAX))


def parse_query(raw: bytes, allowed: Collection[str]) -> dict[str, str]:
    """`a=1&b=2` -> its parameters, percent-decoded. BadInput names an unknown, repeated or
    malformed one."""
    if not raw:
        return {}
    found: dict[str, str] = {}
    for part in raw.split(b"&"):
        name, equals, value = part.partition(b"=")
        key = _text(name)
        if key not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise BadInput(f"unknown parameter {key[:40]!r}; known here: {known}", key[:40])
        if not equals:
            raise BadInput(f"{key}: a parameter without a value", key)
        if key in found:
            raise BadInput(f"{key}: given more than once", key)
        found[key] = _text(value)
    return found


def _text(raw: bytes) -> str:
    if b"%" in raw or b"+" in raw:
        raw = unquote_to_bytes(raw.replace(b"+", b" "))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadInput("a parameter that is not UTF-8") from None


def integer(query: Mapping[str, str], name: str, *, default: int, low: int, high: int) -> int:
    """An integer parameter within [low, high]."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise BadInput(f"{name}: {text[:32]!r} is no integer in {low}..{high}", name)
    number = int(text)
    if not low <= number <= high:
        raise BadInput(f"{name}: {number} is not in {low}..{high}", name)
    return number


def cursor(query: Mapping[str, str], name: str) -> str | None:
    """A cursor, not longer than any can be; the reader checks the rest."""
    text = query.get(name)
    if text is not None and not 0 < len(text) <= CURSOR_CHARACTERS_MAX:
        raise BadInput(f"{name}: no cursor of ours; take it from a page", name)
    return text


def position(text: str, name: str, partitions: int = PARTITIONS_MAX) -> tuple[int, int]:
    """`<partition>:<offset>` -> (partition, offset)."""
    left, colon, right = text.partition(":")
    digits = left + right
    if not (colon and left and right and digits.isascii() and digits.isdigit()):
        raise BadInput(f"{name}: {text[:32]!r} is no position; write partition:offset", name)
    if len(digits) > 2 * _DIGITS_MAX or int(left) >= partitions or int(right) > U64_MAX:
        raise BadInput(f"{name}: {text[:48]!r} names no place in {partitions} partitions", name)
    return int(left), int(right)


def wants_all(query: Mapping[str, str]) -> bool:
    """Whether /readyz is asked about every cell: `all=1`."""
    text = query.get("all")
    if text not in (None, "1"):
        raise BadInput("all: write all=1, or leave it out", "all")
    return text is not None
