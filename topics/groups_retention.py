"""Tells in time which groups the retention will overtake: a metric and a line in the log.

`look` runs once a minute in a thread of the gateway; `stats` may be called beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from engine.errors import FirecellError
from engine.limits import GROUP_WARN_S
from topics.catalog import RESERVED_PREFIXES
from topics.groups_rewind import group_facts
from topics.stream_since import StreamLog

_log = logging.getLogger("firecell.groups")


class RetentionWatch:
    """Looks at every group's checkpoint."""

    def __init__(self, log: StreamLog, now_ms: Callable[[], int]) -> None:
        self._firehose = log
        self._now_ms = now_ms
        self._warned: set[str] = set()
        self._left: dict[str, float] = {}

    def look(self) -> None:
        """One look; what can't be asked now is asked at the next one."""
        left: dict[str, float] = {}
        try:
            for name in self._firehose.groups():
                if name.startswith(RESERVED_PREFIXES):
                    continue  # cells and relays keep their own place, and tell it themselves
                facts = group_facts(self._firehose, name, self._now_ms())
                if facts["retention_left_seconds"] is not None:
                    left[name] = facts["retention_left_seconds"]
        except FirecellError as error:
            _log.warning("the groups' places can't be looked at: %s", error.message)
            return
        self._left = left
        for name, seconds in left.items():
            if seconds < GROUP_WARN_S and name not in self._warned:
                _log.warning(
                    "group %s: the retention drops events that it has yet to read in %.1f h:"
                    " start its consumers, or rewind it to where it should go on",
                    name,
                    seconds / 3_600,
                )
        self._warned = {name for name, seconds in left.items() if seconds < GROUP_WARN_S}

    def stats(self) -> dict[str, float]:
        """For metrics: how many groups are overtaken within GROUP_WARN_S, and the least time that
        the retention leaves to one that is behind (the whole retention when none is)."""
        return {
            "groups_near_retention": len(self._warned),
            "groups_retention_left_seconds": min(
                self._left.values(), default=self._firehose.retention_ms / 1_000
            ),
        }
