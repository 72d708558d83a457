"""The one rule of read markers (I7): they only grow, and seen means at or below the marker."""

from __future__ import annotations


def advance(current: int | None, post: int) -> int:
    """The marker in force after a device reports `post`: the maximum, whatever the order."""
    return post if current is None else max(current, post)


def is_seen(post: int, marker: int | None) -> bool:
    """Whether a post id lies at or below the marker."""
    return marker is not None and post <= marker
