"""Consumers of the stream as tests want them: one connection each, read by a thread of its own, cut
or left unread at will."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.topics.http_fakes import Deployment, live

WAIT_S = 20


def eventually(look: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """What `look` gives, once it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return found


class Tap:
    """One GET /v1/firehose. `reading=False`: nobody reads what comes."""

    def __init__(
        self, url: str, *, reading: bool = True, headers: dict[str, str] | None = None, **query: str
    ) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        self._connection.connect()
        self._socket: socket.socket = self._connection.sock
        if not reading:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        target = f"/v1/firehose?{urlencode(query)}" if query else "/v1/firehose"
        self._connection.request("GET", target, headers=headers or {})
        self.answer = self._connection.getresponse()
        self.lines: list[bytes] = []
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        if reading:
            self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, AttributeError, ValueError):
            while line := self.answer.readline():
                self.lines.append(line.rstrip(b"\n"))
        self.ended.set()

    def records(self) -> list[dict[str, Any]]:
        """Everything that came."""
        return [json.loads(line) for line in self.lines[:]]

    def controls(self, kind: str) -> list[dict[str, Any]]:
        """Control records of one kind."""
        return [record for record in self.records() if record.get("control") == kind]

    def events(self) -> list[dict[str, Any]]:
        """What came of the firehose."""
        return [record for record in self.records() if "control" not in record]

    def texts(self) -> list[str]:
        """Texts of the posts."""
        return [event["text"] for event in self.events()]

    def wait(self, count: int) -> list[dict[str, Any]]:
        """At least so many events."""
        eventually(lambda: len(self.events()) >= count, f"{count} events; {len(self.events())}")
        return self.events()

    def until_end(self) -> Tap:
        """Wait for the stream's own end."""
        assert self.ended.wait(WAIT_S)
        self.cut()
        return self

    @property
    def session(self) -> str:
        """The session of the hello."""
        return str(eventually(lambda: self.controls("hello"), "hello")[0]["session"])

    def cut(self) -> None:
        """End the connection without a word, as a kill does."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join(WAIT_S)
        self.answer.close()
        self._connection.close()
        self._socket.close()


@contextlib.contextmanager
def gateway(**options: Any) -> Iterator[tuple[Deployment, str]]:
    """A gateway on a free port: (what it is made of, its URL)."""
    world = Deployment(**options)
    with live(world.app) as port:
        try:
            yield world, f"http://127.0.0.1:{port}"
        finally:
            world.streams.drain()
