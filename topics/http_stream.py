"""The firehose's routes: the stream, and the groups' acknowledgements, lists and rewinds.

A request about a group is answered by the gateway that coordinates the groups; any other one passes
it on to there, streams included. Streams without a group are anybody's. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.responses import Response

from engine import wire
from engine.errors import BadInput
from engine.limits import (
    GROUP_ACK_BODY_BYTES_MAX,
    GROUP_LEASE_S,
    GROUP_LEASE_S_MAX,
    GROUP_LEASE_S_MIN,
    REWIND_BODY_BYTES_MAX,
    STREAM_DRAIN_S,
)
from engine.times import parse_time_ms
from topics import groups_rewind
from topics.catalog import check_group_name, check_public_group_name
from topics.filters import Filter, parse_filter
from topics.groups_coordinator import Coordinator, Joining
from topics.groups_lock import Alone, Leadership
from topics.groups_shapes import AckIn, AckOut, RewindIn, RewindPlan
from topics.http import Call, Handler, json_response, read_json
from topics.http_body import header
from topics.http_elsewhere import FORWARDED, Elsewhere
from topics.http_query import integer
from topics.http_streaming import StreamResponse, Write
from topics.stream import Counts, Delivery, Feed, Loose, Source
from topics.stream_format import Framing, framing_of, gzip_of
from topics.stream_passage import Passage
from topics.stream_reader import Ends, PageReader
from topics.stream_since import LATEST, Start, StreamLog, parse_since, place

_MANUAL, _AUTO = "manual", "auto"


class _Asked(NamedTuple):
    """A stream as the query asks for it."""

    wanted: Filter
    framing: Framing
    start: Start | None
    until_ms: int | None
    clamp: bool
    group: str | None
    manual: bool
    lease_s: int


_ack_in = msgspec.json.Decoder(AckIn)
_rewind_in = msgspec.json.Decoder(RewindIn)


class Streams:
    """The handlers, and what they share. `draining`: streams must end now."""

    def __init__(
        self,
        log: StreamLog,
        now_ms: Callable[[], int],
        leadership: Leadership | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._firehose = log
        self._now_ms = now_ms
        self._leadership = leadership or Alone()
        self._draining = False
        self._responses: dict[Feed, StreamResponse] = {}
        self.elsewhere = Elsewhere(self._leadership)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.counts = Counts()
        self.groups = Coordinator(log, now_ms, self._leadership, clock)
        self._source = Source(
            log, PageReader(log), Ends(log), self.counts, now_ms, clock, lambda: self._draining
        )

    def handlers(self) -> dict[str, Handler]:
        """By name of route."""
        return {
            "firehose": self._stream,
            "ack": self._ack,
            "groups": self._list,
            "group": self._show,
            "group_forget": self._forget,
            "rewind": self._rewind,
        }

    def appended(self) -> None:
        """This process has appended events: they go out now. From any thread."""
        self._source.ends.nudge()

    def drain(self) -> None:
        """End every stream, cleanly; cut those whose client takes nothing. From any thread."""
        self._draining = True
        self.elsewhere.drain()
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for feed in self._responses:
            feed.wake.set()
        asyncio.get_running_loop().call_later(STREAM_DRAIN_S, self._cut_all)

    def _cut_all(self) -> None:
        for response in list(self._responses.values()):
            response.abort()

    async def close(self) -> None:
        """Keep the checkpoints, and give everything back."""
        self.drain()
        await self.groups.close()
        await asyncio.to_thread(self._source.reader.close)
        await asyncio.to_thread(self._leadership.release)

    def stats(self) -> dict[str, float]:
        """For metrics."""
        groups, members = self.groups.counts()
        return {
            "streams": self.counts.open,
            "stream_events_total": self.counts.events,
            "stream_sent_bytes_total": self.counts.sent_bytes,
            "stream_slow_total": self.counts.slow,
            "groups_living": groups,
            "group_members": members,
        }

    # --- the stream ---

    async def _stream(self, call: Call) -> Response:
        asked = self._asked(call)
        if asked.group is None:
            feed: Feed = await self._loose(asked)
            return self._response(call, asked, feed, lambda clean: None)
        elsewhere = await self.elsewhere.answer(call, reporting=True)
        if elsewhere is not None:
            return elsewhere
        client = (header(call.headers, b"user-agent") or b"a client").decode("latin-1")[:80]
        member = await self.groups.join(
            Joining(
                asked.group, asked.start, asked.wanted, asked.manual, asked.lease_s,
                asked.clamp, client,
            )
        )  # fmt: skip
        reports = header(call.headers, b"transfer-encoding") is not None
        if reports and header(call.headers, FORWARDED) is not None:
            member.passage = Passage(self.groups.clock, member.passed)
        response = self._response(
            call, asked, member, lambda clean: self.groups.leave(member, clean=clean),
            member.passage,
        )  # fmt: skip
        member.abort = response.abort
        return response

    def _response(
        self,
        call: Call,
        asked: _Asked,
        feed: Feed,
        left: Callable[[bool], None],
        passage: Passage | None = None,
    ) -> StreamResponse:
        delivery = Delivery(
            self._source, feed, asked.wanted, asked.framing,
            until_ms=asked.until_ms, clamp=asked.clamp,
        )  # fmt: skip
        self.counts.open += 1
        self._loop = asyncio.get_running_loop()

        async def run(write: Write) -> None:
            await delivery.run(write if passage is None else passage.counted(write))

        def ended(clean: bool) -> None:
            self._responses.pop(feed, None)
            self.counts.open -= 1
            left(clean and feed.ended is None)

        gzip = gzip_of(call.headers) if passage is None else None  # bytes are counted as written
        found = StreamResponse(run, ended, asked.framing.media_type, gzip, passage)
        self._responses[feed] = found
        return found

    def _asked(self, call: Call) -> _Asked:
        query, now_ms = call.query, self._now_ms()
        group = query.get("group")
        if group is not None:
            check_public_group_name(group)
        for name in ("ack", "lease_s"):
            if group is None and name in query:
                raise BadInput(f"{name}: only with group", name)
        ack = _one_of(query, "ack", (_AUTO, _MANUAL))
        until = query.get("until")
        return _Asked(
            parse_filter(query.get("types"), query.get("authors")),
            framing_of(query.get("format"), call.headers),
            self._start(call, group, now_ms),
            None if until is None else parse_time_ms(until, "until", now_ms),
            _one_of(query, "clamp", ("false", "true")) == "true",
            group,
            ack == _MANUAL,
            integer(
                query, "lease_s", default=GROUP_LEASE_S,
                low=GROUP_LEASE_S_MIN, high=GROUP_LEASE_S_MAX,
            ),
        )  # fmt: skip

    def _start(self, call: Call, group: str | None, now_ms: int) -> Start | None:
        """`Last-Event-ID` before `since`: that is how an EventSource comes back. A group's own
        place needs neither."""
        last = header(call.headers, b"last-event-id")
        partitions = self._firehose.partitions
        if last and group is not None:
            return None  # it comes back: the group goes on at its checkpoint, `since` is spent
        if last:
            return parse_since(last.decode("latin-1"), now_ms, partitions, "Last-Event-ID")
        since = call.query.get("since")
        if since is None:
            return None
        start = parse_since(since, now_ms, partitions)
        if start.word == "checkpoint" and group is None:
            raise BadInput("since: only a group has a checkpoint", "since")
        return start

    async def _loose(self, asked: _Asked) -> Loose:
        start = asked.start or Start(word=LATEST)
        now_ms = self._now_ms()
        placed = await asyncio.to_thread(
            lambda: place(self._firehose, start, now_ms, clamp=asked.clamp)
        )
        feed = Loose(secrets.token_hex(8), placed.vector)
        if placed.gaps:
            feed.notices.append({"control": "gap", "gaps": placed.gaps})
        return feed

    # --- groups ---

    async def _ack(self, call: Call) -> Response:
        elsewhere = await self.elsewhere.answer(call, GROUP_ACK_BODY_BYTES_MAX)
        if elsewhere is not None:
            return elsewhere
        group = check_public_group_name(call.parts["group"])
        body: AckIn = wire.decode_json(await read_json(call, GROUP_ACK_BODY_BYTES_MAX), _ack_in)
        positions = self._positions(body.positions)
        kept = await self.groups.acknowledge(group, body.session, positions)
        return json_response(AckOut(body.session, {str(p): at for p, at in sorted(kept.items())}))

    def _positions(self, named: Mapping[str, int]) -> dict[int, int]:
        found = {}
        for name, offset in named.items():
            known = name.isascii() and name.isdigit() and len(name) <= len("65535")
            if not known or int(name) >= self._firehose.partitions or offset < 0:
                raise BadInput(f"positions: {name[:20]!r}: {offset} is no place here", "positions")
            found[int(name)] = offset
        return found

    async def _list(self, call: Call) -> Response:
        elsewhere = await self.elsewhere.answer(call)
        if elsewhere is not None:
            return elsewhere

        def facts() -> list[dict[str, Any]]:
            found = []
            for name in self._firehose.groups():
                group = groups_rewind.group_facts(self._firehose, name, self._now_ms())
                found.append({key: value for key, value in group.items() if key != "partitions"})
            return found

        groups = await asyncio.to_thread(facts)
        for group in groups:
            state = self.groups.living(group["group"])
            group["members"] = 0 if state is None else len(state.members)
        return json_response({"groups": groups})

    async def _show(self, call: Call) -> Response:
        elsewhere = await self.elsewhere.answer(call)
        if elsewhere is not None:
            return elsewhere
        name = check_group_name(call.parts["group"])
        state = self.groups.living(name)
        if state is not None:
            await self.groups.keep_all()
        facts = await asyncio.to_thread(
            groups_rewind.group_facts, self._firehose, name, self._now_ms()
        )
        members = [] if state is None else list(state.members.values())
        facts["filter"] = {} if state is None else state.filter.text()
        facts["members"] = [
            {
                "session": member.session,
                "client": member.client,
                "ack": _MANUAL if member.manual else _AUTO,
                "lease_s": member.lease_s,
                "positions": {str(p): share.given for p, share in sorted(member.shares.items())},
            }
            for member in members
        ]
        return json_response(facts)

    async def _rewind(self, call: Call) -> Response:
        elsewhere = await self.elsewhere.answer(call, REWIND_BODY_BYTES_MAX)
        if elsewhere is not None:
            return elsewhere
        group, log = call.parts["group"], self._firehose
        asked: RewindIn = wire.decode_json(await read_json(call, REWIND_BODY_BYTES_MAX), _rewind_in)

        def planned() -> RewindPlan:
            return groups_rewind.plan(log, group, asked, self._now_ms())

        def done(fence: Callable[[], None]) -> RewindPlan:
            return groups_rewind.execute(log, planned(), fence)

        if not asked.execute:
            return json_response(await asyncio.to_thread(planned))
        return json_response(await self.groups.alone(group, done))

    async def _forget(self, call: Call) -> Response:
        elsewhere = await self.elsewhere.answer(call)
        if elsewhere is not None:
            return elsewhere
        group = check_group_name(call.parts["group"])
        await self.groups.alone(group, lambda fence: groups_rewind.forget(self._firehose, group))
        return json_response({"group": group, "forgotten": True})


def _one_of(query: Mapping[str, str], name: str, words: tuple[str, str]) -> str:
    """A parameter of two words; the first is the default."""
    word = query.get(name, words[0])
    if word not in words:
        raise BadInput(f"{name}: {word[:20]!r} is neither {words[0]} nor {words[1]}", name)
    return word
