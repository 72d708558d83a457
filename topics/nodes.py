"""Which node number this process makes post ids with, and the ids.

A node number is leased by a lock on `nodes/<number>`, which the kernel frees when the process
ends. The file holds the last millisecond that may have been used: written and synced before any id
of it is made, ID_RESERVE_MS ahead so that this happens once a second, and exactly at a clean close.
A successor makes nothing at or before it. So an id is never made twice, whatever kill -9, a power
loss or the clock does: a clock that is a little back is waited for, one far back is refused.

Any thread; one instance per process and node. Nothing survives a fork.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import BadInput, Corruption, Misconfigured, Precondition, Unavailable
from engine.ids import IdGenerator
from engine.limits import (
    BATCH_EVENTS_MAX,
    ID_NAP_S,
    ID_NAP_S_MAX,
    ID_NODE_MAX,
    ID_RESERVE_MS,
    ID_WAIT_S_MAX,
    SUCCESSOR_WAIT_S,
)
from topics.environments import failure_of
from topics.locks import FileLock, sync_folder
from topics.log_embedded import system_clock_ms

FOLDER = "nodes"
_CONTENT = re.compile(rb"(\d{20})\n")


class IdSource:
    """Post ids of one leased node, strictly ascending."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        node: int | None = None,
        clock: Callable[[], int] = system_clock_ms,
        wait_s: float = SUCCESSOR_WAIT_S,
    ) -> None:
        """Lease `node`, or the lowest free one, under `folder`/nodes.

        Precondition when it stays taken for `wait_s`, or when none is free; Misconfigured;
        Corruption when what is remembered cannot be read.
        """
        if node is not None and not 0 <= node <= ID_NODE_MAX:
            raise Misconfigured(f"[firehose] node = {node}; it must be 0..{ID_NODE_MAX}")
        self._clock = clock
        self._mutex = threading.Lock()
        self._process = os.getpid()
        place = Path(folder) / FOLDER
        try:
            place.mkdir(parents=True, exist_ok=True)
            self.node, self._lock = _lease(place, node, wait_s)
            sync_folder(place)
        except OSError as error:
            raise failure_of(error, place) from error
        try:
            self._reserved_ms = _remembered(self._lock)
        except BaseException:
            self._lock.release()
            raise
        self._generator = IdGenerator(self.node, self._reserved_ms)

    def take(self, count: int) -> list[int]:
        """`count` ids, ascending, all above every earlier one of this node.

        Sleeps while the millisecond is used up, the clock is a little back, or a killed
        predecessor's reserved second has not passed. BadInput; Unavailable when the clock is too
        far back or stands still; DiskFull; Precondition when closed or in the child of a fork.
        """
        if not 0 <= count <= BATCH_EVENTS_MAX:
            raise BadInput(f"{count} ids at once; at most {BATCH_EVENTS_MAX}", "count")
        ids: list[int] = []
        with self._mutex:
            if self._lock.descriptor < 0 or self._process != os.getpid():
                raise Precondition(f"the lease of node {self.node} is not this process's any more")
            deadline = time.monotonic() + ID_WAIT_S_MAX
            while len(ids) < count:
                now_ms = self._clock()
                if now_ms > self._reserved_ms:
                    self._remember(now_ms + ID_RESERVE_MS)
                taken = self._generator.take(count - len(ids), now_ms)
                ids += taken
                if not taken:
                    self._nap(now_ms, deadline)
        return ids

    def close(self) -> None:
        """Remember exactly what was used, and give the node back. Idempotent."""
        with self._mutex:
            if self._lock.descriptor >= 0 and self._process == os.getpid():
                try:
                    self._remember(self._generator.last_ms)
                finally:
                    self._lock.release()

    def _remember(self, until_ms: int) -> None:
        """Durable before any id of the time up to `until_ms` is made. 21 bytes, always in place:
        within one sector, so a power loss leaves the old ones or the new ones."""
        try:
            os.pwrite(self._lock.descriptor, b"%020d\n" % until_ms, 0)
            os.fsync(self._lock.descriptor)
        except OSError as error:
            raise failure_of(error, self._lock.path) from error
        self._reserved_ms = until_ms

    def _nap(self, now_ms: int, deadline: float) -> None:
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"no new post ids for {ID_WAIT_S_MAX} s: the clock stands at {now_ms} ms, node"
                f" {self.node} has used {self._generator.last_ms} ms. Check the machine's time"
            )
        behind_s = (self._generator.last_ms - now_ms) / 1_000
        time.sleep(min(max(behind_s, ID_NAP_S), ID_NAP_S_MAX))


def _lease(place: Path, node: int | None, wait_s: float) -> tuple[int, FileLock]:
    if node is not None:
        refusal = (
            f"node {node} is in use by another process on {place}: stop that one, or give this"
            " gateway a [firehose] node of its own"
        )
        return node, FileLock.acquire(_file(place, node), wait_s, refusal)
    for number in range(ID_NODE_MAX + 1):
        lock = FileLock.attempt(_file(place, number))
        if lock is not None:
            return number, lock
    raise Precondition(f"all {ID_NODE_MAX + 1} node numbers in {place} are in use")


def _file(place: Path, node: int) -> Path:
    return place / f"{node:04d}"


def _remembered(lock: FileLock) -> int:
    """Unix ms up to which ids may have been made; 0 for a new node."""
    content = os.pread(lock.descriptor, 64, 0)
    if not content:
        return 0
    match = _CONTENT.fullmatch(content)
    if match is None:
        raise Corruption(
            f"{lock.path} does not hold a time: write there, as 20 digits and a line feed, the"
            " Unix milliseconds of a moment after the last post of this node"
        )
    return int(match[1])
