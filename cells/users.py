"""Users: u64 id <-> dense u32 index, in the order of their first appearance; never forgotten.

An open-addressing hash (linear probing over mix64) of 4-byte slots, and one array of ids: some 16
bytes a user. One thread creates; any thread may look up beside it without a lock, because each
kernel is one atomic step (cells/graph_kernels.py). Long lists are worked through in slices, so that
the interpreter's lock is never held for long.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cells.graph_kernels import USERS_COUNT, find_user, grow_users, index_users
from engine import limits
from engine.errors import invariant

U64s = npt.NDArray[np.uint64]
U32s = npt.NDArray[np.uint32]


class Users:
    """The table of users. `head` is what the kernels take: addresses and sizes, i64 (5,)."""

    def __init__(self, ids: U64s | None = None) -> None:
        """Empty, or with `ids` at the indexes 0, 1, ... (Corruption when one comes twice)."""
        self.head = np.zeros(5, dtype=np.int64)
        self._slots = np.zeros(0, dtype=np.uint32)
        self._ids = np.zeros(0, dtype=np.uint64)
        self._grow(max(limits.GRAPH_USERS_FIRST, 0 if ids is None else len(ids)))
        if ids is not None:
            indexes = self.index_many(ids, create=True)
            invariant(len(self) == len(ids) == len(indexes), "each user has one index")

    def __len__(self) -> int:
        return int(self.head[USERS_COUNT])

    @property
    def ids(self) -> U64s:
        """Index -> id, u64 (len(self),): a view that stays as it is when users are added."""
        count = len(self)  # before the array: a table that grows between keeps at least these
        return self._ids[:count]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, room for growth included."""
        return int(self.head.nbytes + self._slots.nbytes + self._ids.nbytes)

    def index(self, user: int) -> int:
        """The index of `user`, or -1."""
        return int(find_user(self.head, user))

    def index_many(self, users: U64s, create: bool) -> U32s:
        """Indexes of `users` (u64), u32; who is not there is added, or gets 2^32-1."""
        users = np.require(users, dtype=np.uint64, requirements=["C", "A"])
        indexes = np.empty(len(users), dtype=np.uint32)
        done = 0
        while done < len(users):
            stop = min(done + limits.GRAPH_SLICE_USERS, len(users))
            count = index_users(self.head, users[done:stop], indexes[done:stop], create)
            done += count
            if done < stop:
                self.grow()
        return indexes

    def grow(self) -> None:
        """More room, for the thread that creates."""
        self._grow(int(len(self._ids) * limits.GRAPH_USERS_GROWTH) + 1)

    def _grow(self, room: int) -> None:
        room = min(room, limits.U32_MAX - 1)
        invariant(room > len(self), "a cell has at most 2^32 - 2 users: split it")
        slot_count = 1 << (int(room / limits.GRAPH_USERS_LOAD_MAX) - 1).bit_length()
        slots = np.zeros(slot_count, dtype=np.uint32)
        ids = np.zeros(room, dtype=np.uint64)
        grown = [slots.ctypes.data, slot_count - 1, ids.ctypes.data, len(self), room]
        grow_users(self.head, np.array(grown, dtype=np.int64))
        self._slots, self._ids = slots, ids  # only now may the old arrays go
