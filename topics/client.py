"""A consumer of the firehose in Python: `for event in Consumer(url, group="g", ack="manual")`.

It connects again whenever the connection breaks, and goes on where it was: a group at its
checkpoint, else behind the last event that it gave. With ack="manual", call `ack()` once everything
that it gave so far is finished: every so often, and whenever nothing is `pending`, or the lease of
what was not acknowledged ends while the stream is quiet. One consumer belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

import httpx
import msgspec

from engine.errors import Conflict, Unavailable
from engine.limits import CLIENT_CONNECT_S, STREAM_HEARTBEAT_S
from topics.backoff import Backoff
from topics.http_errors import error_of


class Consumer:
    """The events of GET /v1/firehose; `options` are its parameters (since, until, types, authors,
    clamp, group, ack, lease_s). `controls` has what the stream told beside events, newest last."""

    def __init__(self, url: str, *, token: str = "", **options: str) -> None:
        headers = {"accept-encoding": "identity"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        # Three heartbeats without a byte: the connection is dead, though nobody said so.
        timeout = httpx.Timeout(3 * STREAM_HEARTBEAT_S, connect=CLIENT_CONNECT_S)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)
        self._options = options
        self._lines = self._all()
        self.session = ""
        self.pending = False  # more has come already than was given
        self.positions: dict[str, int] = {}  # next offsets, of what was given
        self.controls: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Events, without end unless `until` is given. FirecellError when it can't go on, and
        Unavailable when it could not even begin."""
        return map(msgspec.json.decode, self.lines())

    def lines(self) -> Iterator[bytes]:
        """The same, as JSON. One and the same iterator: leaving a loop keeps the connection."""
        return self._lines

    def _all(self) -> Generator[bytes, None, None]:
        waits = Backoff()
        while True:
            try:
                for line in self._connection():
                    waits.reset()
                    if not line.startswith(b'{"control"'):
                        self._note(line)
                        yield line
                    elif self._ends(msgspec.json.decode(line)):
                        return
            except (httpx.TransportError, Unavailable) as error:
                if not self.session:  # it never worked: a wrong address is not waited for
                    raise Unavailable(f"no stream of {self._http.base_url}: {error}") from None
                time.sleep(waits.next_s())

    def ack(self) -> None:
        """Everything given so far is finished. Conflict when the session was lost meanwhile,
        Unavailable when nobody answers: what was not acknowledged comes again, here or there."""
        body = {"session": self.session, "positions": self.positions}
        try:
            answer = self._http.post(f"/v1/groups/{self._options['group']}/ack", json=body)
        except httpx.TransportError as error:
            raise Unavailable(f"the acknowledgement was not answered: {error}") from None
        if answer.is_error:
            raise error_of(answer.status_code, answer.content)

    def close(self) -> None:
        """Leave."""
        self._lines.close()
        self._http.close()

    def _connection(self) -> Iterator[bytes]:
        options = dict(self._options)
        if self.positions and "group" not in options:
            options["since"] = ",".join(f"{p}:{offset}" for p, offset in self.positions.items())
        elif self.session:
            options.pop("since", None)  # it has placed the group already
        with self._http.stream("GET", "/v1/firehose", params=options) as answer:
            if answer.is_error:
                raise error_of(answer.status_code, answer.read())
            rest = b""
            for piece in answer.iter_raw():
                *lines, rest = (rest + piece).split(b"\n")
                for left, line in zip(range(len(lines))[::-1], lines, strict=True):
                    self.pending = left > 0
                    yield line

    def _note(self, line: bytes) -> None:
        """Remember the place behind an event."""
        partition, _, offset = line[line.rindex(b'"position":"') + 12 : -2].partition(b":")
        self.positions[partition.decode()] = int(offset) + 1

    def _ends(self, record: dict[str, Any]) -> bool:
        """Take a control record; whether the stream has come to its end."""
        self.controls = [*self.controls[-99:], record]
        self.session = record["session"]
        if record["control"] == "error":
            error = error_of(record["problem"]["status"], msgspec.json.encode(record["problem"]))
            if isinstance(error, Conflict):  # the lease has ended: join again
                raise Unavailable(error.message)
            raise error
        if record["control"] == "hello":
            self.positions = {}
        self.positions |= record["positions"]
        return bool(record["control"] == "end" and record["cause"] == "until")
