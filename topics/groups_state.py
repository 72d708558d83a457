"""One living group: its members, who has which partition, what was given, taken and acknowledged.

    acked <= taken <= given      per partition, next offsets

`acked` is the checkpoint. With ack=manual a member says it; with ack=auto it is what its living
connection took GROUP_SETTLE_S ago, or at a clean end; behind another gateway that is its client's
connection there, by that gateway's word (topics/stream_passage.py). A partition that is to move is
given no more of; it moves once all that was given is acknowledged, or its member has gone. What
goes on elsewhere goes on at `acked`: at least once, never a skip (I9).

No I/O and no clock (`now`: seconds, monotonic): everything runs on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.errors import BadInput, Conflict, FirecellError, Precondition
from engine.limits import GROUP_SETTLE_S, GROUP_TICK_S, STREAM_UNACKED_MAX
from topics.filters import Filter
from topics.groups_assign import assign
from topics.groups_lock import Tenure
from topics.stream_passage import Passage
from topics.stream_reader import Page


class Share:
    """One partition of a group."""

    __slots__ = ("acked", "given", "goes_to", "last_line", "member", "taken", "trail")

    def __init__(self, offset: int) -> None:
        self.member: Member | None = None
        self.goes_to: Member | None = None  # given no more of, until it can move there
        self.acked = self.taken = self.given = offset
        self.last_line = offset  # behind the last line that was given: the rest was filtered out
        self.trail: deque[tuple[float, int]] = deque()  # ack=auto: (when, next offset taken)

    def back_to(self, offset: int) -> None:
        """Nobody has it: give again from `offset` on."""
        self.acked = self.taken = self.given = self.last_line = offset
        self.trail.clear()

    def acknowledge(self, offset: int) -> None:
        """Forward only. Behind the last line there is nothing to acknowledge any more."""
        self.acked = max(self.acked, offset)
        if self.acked >= self.last_line:
            self.acked = self.given


class Member:
    """One connection of a group, and its feed: what topics/stream.py asks for places."""

    def __init__(
        self, state: GroupState, session: str, *, manual: bool, lease_s: float, client: str
    ) -> None:
        self.state = state
        self.session = session
        self.manual = manual
        self.lease_s = lease_s
        self.client = client
        self.wake = asyncio.Event()
        self.notices: list[dict[str, Any]] = []
        self.ended: FirecellError | None = None
        self.shares: dict[int, Share] = {}
        self.progress_at = 0.0  # last acknowledgement, or when there was something to acknowledge
        self.sending_since: float | None = None
        self.leaving = False  # its stream has ended; it may still acknowledge
        self.abort: Callable[[], None] | None = None  # ends a connection that takes nothing
        self.passage: Passage | None = None  # its client is another gateway's

    def places(self) -> dict[int, int]:
        """Partition -> next offset, of what may be given now."""
        if self.leaving or not self.state.tenure.holds():
            return {}
        return {
            partition: share.given
            for partition, share in self.shares.items()
            if share.goes_to is None
            and (not self.manual or share.given - share.acked < STREAM_UNACKED_MAX)
        }

    def positions(self) -> dict[int, int]:
        """Partition -> next offset, of all that it has."""
        return {p: share.given for p, share in self.shares.items() if share.goes_to is None}

    def give(self, page: Page, now: float) -> bool:
        """Whether `page` may be sent: it is still this member's, and comes next."""
        share = self.shares.get(page.partition)
        if share is None or share.goes_to is not None or share.given != page.first:
            return False
        if self.ended is not None or self.leaving or not self.state.tenure.holds():
            return False
        if not self.unacknowledged():
            self.progress_at = now
        done = share.acked == share.given
        share.given = page.next
        if page.offsets:
            share.last_line = page.offsets[-1] + 1
        elif done:
            share.acked = share.taken = page.next
        return True

    def took(self, pages: Sequence[Page], now: float) -> None:
        """The connection has taken what was sent."""
        places = {page.partition: page.next for page in pages}
        if self.passage is not None:
            self.passage.hold(places)
        else:
            self.passed(places, now)

    def passed(self, places: Mapping[int, int], now: float) -> None:
        """Its client's connection has taken all below these next offsets."""
        for partition, following in places.items():
            share = self.shares.get(partition)
            if share is None or share.given < following:
                continue
            share.taken = max(share.taken, following)
            if not self.manual and share.acked < following:
                moment = now - now % GROUP_TICK_S + GROUP_TICK_S
                if share.trail and share.trail[-1][0] == moment:
                    share.trail.pop()
                share.trail.append((moment, following))

    def skip(self, partition: int, floor: int) -> None:
        """Go on at `floor`: the retention has dropped what was before."""
        share = self.shares.get(partition)
        if share is not None and share.given < floor:
            share.back_to(floor)

    def unacknowledged(self) -> bool:
        """Whether there is anything that was given and not acknowledged."""
        return any(share.acked < share.given for share in self.shares.values())

    def overdue(self, now: float) -> bool:
        """Whether its lease has ended."""
        if self.manual:
            return self.unacknowledged() and now - self.progress_at > self.lease_s
        since = self.sending_since if self.passage is None else self.passage.waiting_since
        return since is not None and now - since > self.lease_s

    def cut_if_stuck(self) -> None:
        """Why its stream ends would wait behind what its client has not taken: then it is cut."""
        behind = self.passage is not None and self.passage.untaken() > 0
        if self.abort is not None and (self.sending_since is not None or behind):
            self.abort()


class GroupState:
    """A group while it has members, or a checkpoint that is not kept yet; no longer than this
    gateway's `tenure`."""

    def __init__(
        self, name: str, wanted: Filter, vector: Mapping[int, int], tenure: Tenure
    ) -> None:
        self.name = name
        self.tenure = tenure
        self.filter = wanted
        self.members: dict[str, Member] = {}
        self.shares = {partition: Share(offset) for partition, offset in vector.items()}
        self.kept = dict(vector)  # what the log has of `acked`
        self.keeping = asyncio.Lock()  # held while checkpoints are written

    def join(self, member: Member, now: float) -> None:
        """A new member: its partitions come as they become free."""
        self.members[member.session] = member
        member.progress_at = now
        self.rebalance(now)

    def leave(self, member: Member, *, clean: bool) -> None:
        """The member has gone. A clean end acknowledges what an ack=auto connection took."""
        if self.members.pop(member.session, None) is None:
            return
        for share in member.shares.values():
            if clean and not member.manual:
                share.acknowledge(share.taken)
            share.member = share.goes_to = None
            share.back_to(share.acked)
        member.shares = {}

    def end(self, error: FirecellError) -> None:
        """Every stream ends with `error`, and nothing more is kept."""
        for member in self.members.values():
            member.ended = member.ended or error
            member.wake.set()
            member.cut_if_stuck()

    def rebalance(self, now: float) -> None:
        """Aim for an even share; move what can move now."""
        staying = [session for session, member in self.members.items() if not member.leaving]
        owners = {p: s.member.session for p, s in self.shares.items() if s.member is not None}
        target = assign(len(self.shares), staying, owners)
        before = {session: member.positions() for session, member in self.members.items()}
        for partition, share in self.shares.items():
            wanted = self.members.get(target.get(partition, ""))
            share.goes_to = None if share.member in (None, wanted) else wanted
            if share.member is None and wanted is not None:
                self._hand(partition, share, wanted, now)
        self._move_free(now)
        self._tell(before)

    def tick(self, now: float) -> list[Member]:
        """Let time pass: checkpoints of ack=auto, moves; the members whose lease has ended."""
        for share in self.shares.values():
            while share.trail and share.trail[0][0] + GROUP_SETTLE_S <= now:
                share.acknowledge(share.trail.popleft()[1])
        before = {session: member.positions() for session, member in self.members.items()}
        if self._move_free(now):
            self._tell(before)
        return [member for member in self.members.values() if member.overdue(now)]

    def acknowledge(self, session: str, positions: Mapping[int, int], now: float) -> Member:
        """A member's word. Conflict for a session or partition that is not (any more) its own;
        BadInput beyond what was given. All or nothing."""
        member = self.members.get(session)
        if member is None or member.ended is not None:
            raise Conflict(
                f"session {session[:64]!r} is none of group {self.name!r} now: its lease has ended"
                " or its connection is gone; connect again"
            )
        if not member.manual:
            raise Precondition(f"session {session} acknowledges by itself: connect with ack=manual")
        for partition, offset in positions.items():
            share = member.shares.get(partition)
            if share is None:
                if offset > self.shares[partition].acked:
                    raise Conflict(f"partition {partition} is not session {session}'s")
                continue  # it has moved on, with this acknowledged
            if offset > share.given:
                raise BadInput(
                    f"positions: {offset} lies beyond what was delivered of partition {partition},"
                    f" {share.given}",
                    "positions",
                )
        for partition, offset in positions.items():
            if partition in member.shares:
                member.shares[partition].acknowledge(offset)
        member.progress_at = now
        member.wake.set()
        before = {one: other.positions() for one, other in self.members.items()}
        if self._move_free(now):
            self._tell(before)
        return member

    def unkept(self) -> dict[int, int]:
        """Checkpoints that the log does not have yet."""
        return {p: s.acked for p, s in self.shares.items() if s.acked != self.kept.get(p)}

    def _move_free(self, now: float) -> bool:
        """Move what has nothing unacknowledged; whether anything moved."""
        moved = False
        for partition, share in self.shares.items():
            if share.goes_to is not None and share.acked >= share.given:
                wanted = share.goes_to
                if share.member is not None:
                    del share.member.shares[partition]
                self._hand(partition, share, wanted, now)
                moved = True
        return moved

    def _hand(self, partition: int, share: Share, member: Member, now: float) -> None:
        share.member, share.goes_to = member, None
        share.back_to(share.acked)
        member.shares[partition] = share
        member.wake.set()

    def _tell(self, before: Mapping[str, dict[int, int]]) -> None:
        """A rebalance record for each member that has other partitions than `before`."""
        for session, member in self.members.items():
            if member.positions().keys() != before.get(session, {}).keys():
                moving = {str(p): s.given for p, s in member.shares.items() if s.goes_to}
                member.notices.append({"control": "rebalance", "moving": moving})
                member.wake.set()
