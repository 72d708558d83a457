"""Faust's consumer with less work per message: what is handed on at once, and what has to wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cells.faust_consumer import AtOnce, Begun


async def begin(body: Callable[[], Awaitable[Any]]) -> Any:
    """Begin a coroutine as the consumer does, then wait for the rest of it."""
    coroutine: Any = body()
    try:
        blocked = coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    return await asyncio.ensure_future(Begun(coroutine, blocked))


def test_what_was_begun_goes_on_to_its_end() -> None:
    async def body() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def waits() -> int:
            first = await future
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return first + 1

        asyncio.get_running_loop().call_later(0.01, future.set_result, 41)
        assert await begin(waits) == 42

    asyncio.run(body())


def test_errors_and_cancelling_reach_what_was_begun() -> None:
    seen: list[str] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        broken: asyncio.Future[None] = loop.create_future()
        never: asyncio.Future[None] = loop.create_future()

        async def fails() -> None:
            try:
                await broken
            except ValueError:
                seen.append("value")
                raise KeyError("other") from None

        async def cancelled() -> None:
            try:
                await never
            finally:
                seen.append("ended")

        loop.call_soon(broken.set_exception, ValueError())
        with pytest.raises(KeyError):
            await begin(fails)
        task = asyncio.create_task(begin(cancelled))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
    assert seen == ["value", "ended"]


def test_a_message_is_handed_on_at_once_or_waited_for() -> None:
    mode = pytest.importorskip("mode", reason="needs Faust")

    class Probe(AtOnce, mode.Service):  # type: ignore[misc,name-defined]
        """A service of Faust's kind."""

    async def body() -> None:
        consumer = Probe()
        handed: list[int] = []
        room = asyncio.Event()

        async def at_once() -> str:
            handed.append(1)
            return "one"

        async def when_there_is_room() -> str:
            await room.wait()
            handed.append(2)
            return "two"

        before = len(asyncio.all_tasks())
        await consumer.wait_first(at_once(), asyncio.Event().wait())
        assert handed == [1]
        assert len(asyncio.all_tasks()) == before
        waiting = asyncio.create_task(
            consumer.wait_first(when_there_is_room(), asyncio.Event().wait())
        )
        await asyncio.sleep(0.01)
        assert handed == [1]
        room.set()
        assert (await waiting).results == ["two"]
        assert handed == [1, 2]
        suspended = asyncio.Event()
        suspended.set()
        room.clear()
        found = await consumer.wait_first(when_there_is_room(), suspended.wait())
        assert found.results == [True], "a rebalance ends the waiting"
        assert handed == [1, 2]

        async def fails() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await consumer.wait_first(fails(), asyncio.Event().wait())

    asyncio.run(body())
