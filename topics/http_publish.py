"""Publishing over HTTP: one JSON event, or NDJSON with a result line per input line, in order.

Decoding a batch is done in a thread; the events of a request share one synced commit. Handlers run
on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

import msgspec
from starlette.responses import Response

from engine import wire
from engine.errors import FirecellError, Unavailable
from engine.events import Event
from engine.limits import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    BATCHES_AT_ONCE_MAX,
    EVENT_BYTES_MAX,
    ID_COUNT_MAX,
    PUBLISH_TROUBLE_S,
    PUBLISH_WAIT_S,
)
from engine.times import format_ms
from topics.http import Call, json_response
from topics.http_body import JSON_TYPE, NDJSON_TYPE, require_line, split_lines
from topics.http_problem import problem_of
from topics.http_query import integer
from topics.metrics import HttpMetrics
from topics.publish import Published

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Publishing(Protocol):
    """What is needed of `topics.publish.Publisher`."""

    def submit(self, events: Sequence[Event]) -> Future[list[Published | FirecellError]]:
        """The results of `events`, in order, once those that are kept are durable. May block."""


class TakesIds(Protocol):
    """What is needed of `topics.nodes.IdSource`."""

    def take(self, count: int) -> list[int]:
        """Post ids that nobody else gets; blocks for a clock that went back."""


class PublishHandlers:
    """POST /v1/events and GET /v1/ids."""

    def __init__(self, publisher: Publishing, ids: TakesIds, metrics: HttpMetrics) -> None:
        self._publisher = publisher
        self._ids = ids
        self._metrics = metrics
        self._trouble = ("", 0.0)  # the last failed append and when; empty after a success
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE_MAX)

    def trouble(self) -> str:
        """Why publishing does not work now, as far as the last append tells; empty when it does."""
        cause, since = self._trouble
        return cause if time.monotonic() - since < PUBLISH_TROUBLE_S else ""

    async def events(self, call: Call) -> Response:
        """One event -> 201 once durable; NDJSON -> 200."""
        media = call.body.content_type((JSON_TYPE, NDJSON_TYPE))
        if media == NDJSON_TYPE:
            return await self._batch(await call.body.read(BATCH_BYTES_MAX))
        raw = await call.body.read(EVENT_BYTES_MAX)
        results = await self._durable([wire.parse_event(raw)])
        if isinstance(results[0], FirecellError):
            raise results[0]
        return json_response(_shape(results[0]), 201)

    async def ids(self, call: Call) -> Response:
        """Fresh post ids."""
        count = integer(call.query, "count", default=1, low=1, high=ID_COUNT_MAX)
        taken = await asyncio.to_thread(self._ids.take, count)
        return json_response({"ids": [str(number) for number in taken]})

    async def _batch(self, raw: bytes) -> Response:
        async with self._batches:
            parsed = await asyncio.to_thread(_parse_lines, raw)
            good = [entry for entry in parsed if not isinstance(entry, FirecellError)]
            results = await self._durable(good) if good else []
            lines = await asyncio.to_thread(_result_lines, parsed, results)
        self._metrics.published["refused"] += len(parsed) - len(good)
        return Response(lines, media_type=NDJSON_TYPE)

    async def _durable(self, events: Sequence[Event]) -> list[Published | FirecellError]:
        """Results once durable. In a thread, since making ids may wait for the clock or a sync;
        shielded: the publisher finishes what it took, though its caller may be gone."""
        pending = asyncio.wrap_future(await asyncio.to_thread(self._publisher.submit, events))
        try:
            async with asyncio.timeout(PUBLISH_WAIT_S):
                results = await asyncio.shield(pending)
        except TimeoutError:
            self._trouble = ("the last commit hangs", time.monotonic())
            raise Unavailable(
                f"not durable after {PUBLISH_WAIT_S} s, and it may become so yet: publish the same"
                " author and id again, that changes nothing twice"
            ) from None
        failed = [result for result in results if isinstance(result, Unavailable)]
        self._trouble = (failed[0].message if failed else "", time.monotonic())
        refused = sum(isinstance(result, FirecellError) for result in results)
        self._metrics.published["refused"] += refused
        self._metrics.published["accepted"] += len(results) - refused
        return results


def _parse_lines(raw: bytes) -> list[Event | FirecellError]:
    """Per line its event, or why there is none. TooLarge for too many lines."""
    parsed: list[Event | FirecellError] = []
    for line in split_lines(raw, BATCH_EVENTS_MAX):
        try:
            parsed.append(wire.parse_event(require_line(line)))
        except FirecellError as error:
            parsed.append(error)
    return parsed


def _result_lines(
    parsed: Sequence[Event | FirecellError], results: Sequence[Published | FirecellError]
) -> bytes:
    """One JSON line per parsed line; `results` are those of the good lines, in order."""
    remaining = iter(results)
    lines: list[bytes] = []
    for entry in parsed:
        outcome = entry if isinstance(entry, FirecellError) else next(remaining)
        if isinstance(outcome, FirecellError):
            lines.append(_encode({"error": problem_of(outcome)}))
        else:
            lines.append(_encode(_shape(outcome)))
    lines.append(b"")
    return b"\n".join(lines)


def _shape(done: Published) -> wire.Published:
    return wire.Published(
        id=None if done.id is None else str(done.id),
        position=f"{done.partition}:{done.offset}",
        at=format_ms(done.at_ms),
    )
