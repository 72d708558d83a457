"""Answers without an end: which of them count as whole."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.topics.http_fakes import Deployment
from tests.topics.memory_log import MemoryLog
from topics.http_streaming import CONNECTION, StreamResponse, Write


class Client:
    """The server's side of one request, as uvicorn does it: `send` waits while the client takes
    nothing; once it has gone, whatever is sent is thrown away in silence."""

    def __init__(self, query: bytes = b"", room: int = 2**30) -> None:
        self.left = asyncio.Event()
        self.room = asyncio.Event()
        self.taken = b""
        self.untaken = 0
        self.aborted = False
        self._room = room
        self._asked = False
        self.scope: dict[str, Any] = {
            "type": "http", "method": "GET", "path": "/v1/firehose", "query_string": query,
            "headers": [(b"host", b"127.0.0.1:8080")], "raw_path": b"/v1/firehose",
            "extensions": {CONNECTION: {"untaken": lambda: self.untaken, "abort": self.abort}},
        }  # fmt: skip

    async def receive(self) -> dict[str, Any]:
        """The request, then nothing until the client leaves."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Waits for room."""
        if len(self.taken) > self._room:
            await self.room.wait()
        if not self.left.is_set():
            self.taken += message.get("body", b"")

    def abort(self) -> None:
        """Its connection is cut."""
        self.aborted = True
        self.die()

    def die(self) -> None:
        """What `connection_lost` does: it wakes who waits for a message, and who waits for room."""
        self.left.set()
        self.room.set()


def ended_of(act: Any, *, room: int, untaken: int = 0) -> list[bool]:
    """What `ended` was told of a stream that writes twice, while `act(client)` happens."""
    found: list[bool] = []

    async def run(write: Write) -> None:
        await write(b"first")
        await write(b"last")

    async def scenario() -> None:
        client = Client(room=room)
        client.untaken = untaken
        response = StreamResponse(run, found.append, "text/plain", None)
        task = asyncio.create_task(response(client.scope, client.receive, client.send))
        await asyncio.sleep(0.05)
        act(client)
        await asyncio.wait_for(task, 5)

    asyncio.run(scenario())
    return found


def test_a_stream_that_was_taken_is_whole():
    assert ended_of(lambda client: None, room=100) == [True]


def test_a_client_that_dies_before_its_last_bytes_is_no_clean_end():
    """The server says nothing of it, so the stream came to its end as if all had been taken."""
    assert ended_of(Client.die, room=len(b"firs")) == [False]
    assert ended_of(Client.die, room=len(b"first") + 1) == [False]


def test_last_bytes_that_were_not_taken_are_waited_for():
    assert ended_of(Client.die, room=100, untaken=9) == [False]

    def take(client: Client) -> None:
        client.untaken = 0

    assert ended_of(take, room=100, untaken=9) == [True]


def test_a_client_that_takes_the_last_bytes_never_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("topics.http_streaming.HTTP_TAKE_WAIT_S", 0.1)
    clients: list[Client] = []
    assert ended_of(clients.append, room=100, untaken=9) == [False]
    assert clients[0].aborted


@pytest.mark.parametrize("dies", [True, False])
def test_events_that_a_dead_client_never_took_are_not_acknowledged(dies: bool):
    """ack=auto with `until`: the end of the stream acknowledged what it had sent to nobody."""
    log = MemoryLog()

    async def scenario() -> None:
        world = Deployment(log=log)
        log.say(0, "one", "two", "three")
        log.now_ms += 60_000
        client = Client(b"group=g&since=earliest&until=5s")
        client.untaken = 500  # written, and none of it taken
        task = asyncio.create_task(world.app(client.scope, client.receive, client.send))
        await asyncio.sleep(0.2)
        assert b'"until"' in client.taken
        if dies:
            client.die()
        else:
            client.untaken = 0
        await asyncio.wait_for(task, 5)
        await world.streams.groups.keep_all()
        await world.streams.close()

    asyncio.run(scenario())
    assert log.committed("g")[0] == (0 if dies else 3)
