"""All living groups of a firehose: who joins and leaves, checkpoints into the log, leases.

One gateway per firehose does this (topics/groups_lock.py), for as long as its tenure holds: then
the streams end, what is known of groups is dropped, and nothing is kept any more. Checkpoints lie
in the log's own group positions, so plain tools see every group, and a successor goes on where this
one was. A checkpoint is kept before an acknowledgement is answered, and before a group that is
placed anew gets its first event: whatever dies, nothing is skipped (I9).

Lives on one event loop; the log is asked in threads.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from engine.errors import Conflict, FirecellError, NotFound, Precondition, Unavailable
from engine.limits import GROUP_COMMIT_S, GROUP_MEMBERS_MAX, GROUP_TICK_S, GROUPS_MAX
from topics.catalog import check_public_group_name
from topics.filters import Filter
from topics.groups_lock import Leadership
from topics.groups_state import GroupState, Member
from topics.groups_tenure import LOST
from topics.stream_since import CHECKPOINT, LATEST, Placed, Start, StreamLog, checked, place

_log = logging.getLogger("firecell.groups")


class Joining(NamedTuple):
    """What a connection says about its membership."""

    group: str
    start: Start | None
    wanted: Filter
    manual: bool
    lease_s: float
    clamp: bool
    client: str


class Coordinator:
    """See the module. `now_ms`: Unix ms, for places by time; `clock`: seconds, monotonic."""

    def __init__(
        self,
        log: StreamLog,
        now_ms: Callable[[], int],
        leadership: Leadership,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._firehose = log
        self._leadership = leadership
        self._now_ms = now_ms
        self.clock = clock
        self._states: dict[str, GroupState] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._ticker: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._trouble = ""

    # --- members ---

    async def join(self, asked: Joining) -> Member:
        """A new member of a group, which it places anew when nobody lives in it.

        BadInput (a reserved name), Conflict (another filter), NotFound (no checkpoint),
        RetentionPassed, Unprocessable, Unavailable.
        """
        check_public_group_name(asked.group)
        async with self._lock(asked.group):
            self._drop_lost()
            state = self._states.get(asked.group)
            gaps: list[dict[str, Any]] = []
            if state is not None:
                self._end_leaving(state)
            if state is None or not state.members:
                state, gaps = await self._placed(asked, state)
            if state.filter != asked.wanted:
                raise Conflict(
                    f"group {asked.group!r} lives with another filter: filters belong to the group",
                    filter=state.filter.text(),
                )
            if len(state.members) >= GROUP_MEMBERS_MAX:
                raise Unavailable(f"group {asked.group!r} has {GROUP_MEMBERS_MAX} members already")
            member = Member(
                state,
                secrets.token_hex(8),
                manual=asked.manual,
                lease_s=asked.lease_s,
                client=asked.client,
            )
            state.join(member, self.clock())
            # `hello` tells what it begins with, so its own first rebalance is no news.
            member.notices = [{"control": "gap", "gaps": gaps}] if gaps else []
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.create_task(self._tick())
        return member

    def _end_leaving(self, state: GroupState) -> None:
        """Who joins takes over from sessions whose streams have ended: they are waited for only
        while nobody else wants their partitions."""
        for member in [member for member in state.members.values() if member.leaving]:
            state.leave(member, clean=False)

    async def _placed(
        self, asked: Joining, state: GroupState | None
    ) -> tuple[GroupState, list[dict[str, Any]]]:
        """The group's state at the place where it is to begin, kept in the log."""
        if state is None and len(self._states) >= GROUPS_MAX:
            raise Unavailable(f"{GROUPS_MAX} groups live already")
        if state is not None:
            await self._keep(state)
        tenure = self._leadership.tenure()  # before its places are read: nobody moves them then
        before = await asyncio.to_thread(self._firehose.committed, asked.group)
        placed = await asyncio.to_thread(self._place, asked, before)
        state = GroupState(asked.group, asked.wanted, placed.vector, tenure)
        state.kept = before
        await self._keep(state)
        self._states[asked.group] = state
        return state, placed.gaps

    def _place(self, asked: Joining, before: Mapping[int, int]) -> Placed:
        """In a thread."""
        start = asked.start
        if start is None:
            start = Start(word=CHECKPOINT if before else LATEST)
        if start.word != CHECKPOINT:
            return place(self._firehose, start, self._now_ms(), clamp=asked.clamp)
        if not before:
            raise NotFound(
                f"group {asked.group!r} has no checkpoint: begin it with since=earliest, latest, a"
                " time or a vector"
            )
        begins, ends = self._firehose.begin_offsets(), self._firehose.end_offsets()
        full = {p: before.get(p, begin) for p, begin in enumerate(begins)}
        return checked(full, begins, ends, clamp=asked.clamp)

    def leave(self, member: Member, *, clean: bool) -> None:
        """The connection has ended. After a clean end an ack=manual member may still acknowledge
        what it was given, until its lease ends or somebody joins."""
        if clean and member.manual and member.ended is None and member.unacknowledged():
            member.leaving = True
            member.progress_at = self.clock()
        else:
            member.state.leave(member, clean=clean)
        member.state.rebalance(self.clock())

    async def acknowledge(
        self, group: str, session: str, positions: Mapping[int, int]
    ) -> dict[int, int]:
        """Keep what a member has finished; its checkpoints, durable. NotFound for a group that
        nobody lives in, else as GroupState.acknowledge."""
        check_public_group_name(group)
        self._drop_lost()
        state = self._states.get(group)
        if state is None or not state.members:
            if group in await asyncio.to_thread(self._firehose.groups):
                raise Conflict(f"nobody lives in group {group!r}: connect again")
            raise NotFound(f"there is no group {group!r}")
        member = state.acknowledge(session, positions, self.clock())
        await self._keep(state)
        return {partition: share.acked for partition, share in member.shares.items()}

    # --- checkpoints and time ---

    async def _keep(self, state: GroupState) -> None:
        """Commit what the log does not have yet."""
        async with state.keeping:
            unkept = state.unkept()
            if unkept:
                fence = state.tenure.fence
                await asyncio.to_thread(self._firehose.commit, state.name, unkept, fence)
                state.kept.update(unkept)

    async def _tick(self) -> None:
        kept_at = self.clock()
        while self._states:
            await asyncio.sleep(GROUP_TICK_S)
            now = self.clock()
            self._drop_lost()
            for state in list(self._states.values()):
                self._look_at(state, now)
            for name, state in list(self._states.items()):
                if not state.members and not state.unkept():
                    del self._states[name]
            # Beside this: a log that is away answers late, and leases and tenures end meanwhile.
            if now - kept_at >= GROUP_COMMIT_S and (self._keeping is None or self._keeping.done()):
                kept_at = now
                self._keeping = asyncio.create_task(self.keep_all())

    def _look_at(self, state: GroupState, now: float) -> None:
        overdue = state.tick(now)
        finished = [m for m in state.members.values() if m.leaving and not m.unacknowledged()]
        for member in overdue:
            member.ended = Conflict(
                f"the lease of session {member.session} has ended: nothing was"
                f" {'acknowledged' if member.manual else 'taken'} for {member.lease_s:g} s, so its"
                " partitions went on to others. Connect again"
            )
            _log.warning("group %s: the lease of %s ended", state.name, member.client)
            member.wake.set()
            if member.abort is not None and member.sending_since is not None:
                member.abort()
        for member in [*overdue, *finished]:
            state.leave(member, clean=False)
        if overdue or finished:
            state.rebalance(now)

    def _drop_lost(self) -> None:
        """Groups that another gateway coordinates now, or soon: nothing of them is kept."""
        for name, state in list(self._states.items()):
            if not state.tenure.holds():
                _log.warning("group %s: its %d streams end", name, len(state.members))
                del self._states[name]
                state.end(Unavailable(LOST))

    async def keep_all(self) -> None:
        """Commit every checkpoint; a failure is logged, and tried again at the next turn."""
        trouble = ""
        for state in list(self._states.values()):
            try:
                await self._keep(state)
            except FirecellError as error:  # the others' are kept all the same
                trouble = error.message
        if trouble and trouble != self._trouble:
            _log.warning("checkpoints were not kept: %s", trouble)
        self._trouble = trouble

    async def close(self) -> None:
        """Keep what there is to keep."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self.keep_all()

    # --- what others ask ---

    def _lock(self, group: str) -> asyncio.Lock:
        if len(self._locks) > GROUPS_MAX:
            self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(group, asyncio.Lock())

    def living(self, group: str) -> GroupState | None:
        """The state of a group that has members."""
        self._drop_lost()
        state = self._states.get(group)
        return state if state is not None and state.members else None

    async def alone(self, group: str, act: Callable[[Callable[[], None]], Any]) -> Any:
        """What `act` gives, in a thread, while nobody can join the group; it gets the fence of what
        it writes. Precondition that says who lives in it."""
        async with self._lock(group):
            self._drop_lost()
            tenure = self._leadership.tenure()
            state = self._states.get(group)
            if state is not None and state.members:
                who = [
                    {"session": m.session, "client": m.client, "partitions": sorted(m.shares)}
                    for m in state.members.values()
                ]
                names = ", ".join(f"{m['client']} (session {m['session']})" for m in who)
                raise Precondition(
                    f"group {group!r} is active, held by {names}: end its connections first",
                    members=who,
                )
            if state is not None:
                await self._keep(state)
                self._states.pop(group, None)  # the ticker may have been first
            return await asyncio.to_thread(act, tenure.fence)

    def counts(self) -> tuple[int, int]:
        """(groups with members, members)."""
        members = [len(state.members) for state in self._states.values()]
        return sum(map(bool, members)), sum(members)
