"""Whom a reader does not see: blocked, muted, or blocking them. A bounded cache over the store.

Filled by readers, forgotten by the worker after a change is durable; the epoch keeps a filler that
read before the change from bringing the old state back.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from engine.limits import RELATIONS_CACHE_READERS_MAX
from engine.ports import Store

_NOBODY: frozenset[int] = frozenset()


class RelationsCache:
    """reader -> authors whose posts they do not see."""

    def __init__(self, store: Store, readers_max: int = RELATIONS_CACHE_READERS_MAX) -> None:
        self._store = store
        self._readers_max = readers_max
        self._hidden: OrderedDict[int, frozenset[int]] = OrderedDict()
        self._lock = threading.Lock()
        self._epoch = 0

    def hidden(self, reader: int) -> frozenset[int]:
        """Authors that the rule hides from `reader` for a block or a mute."""
        known = self._hidden.get(reader)
        if known is not None:
            return known
        epoch = self._epoch
        others = [other for _, other in self._store.relations_of(reader)]
        found = frozenset(others) if others else _NOBODY
        with self._lock:
            if self._epoch == epoch:
                self._hidden[reader] = found
                if len(self._hidden) > self._readers_max:
                    self._hidden.popitem(last=False)
        return found

    def forget(self, owner: int) -> None:
        """After a relation of `owner` changed, durably."""
        with self._lock:
            self._epoch += 1
            self._hidden.pop(owner, None)
