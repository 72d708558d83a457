"""The HTTP parser with bounds: header bytes, time for headers, connections, requests in line, time
for what a closed connection still has to take. One per connection, in the event loop's thread.

uvicorn's httptools protocol bounds neither the bytes of a header nor the time that a client takes
to send it, so 2,000 silent connections would shut everybody out. Nor does it bound the requests
that a client sends before the answers (`receive` of the one in hand reads on), nor how long a
connection, even a closed one, waits for a client that takes nothing: only streams park.

An app with `answer_quickly` (topics/http.py) is asked at the end of a plain GET's head, before
there is a task or an ASGI message, and its page leaves in one write, which wakes its reader once.
What a connection sends is the same every time, but for the target: bytes that the parser has seen
behind a target, and that were answered quickly, are not parsed again.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from engine.errors import TooLarge
from engine.limits import (
    HTTP_CONNECTIONS_MAX,
    HTTP_HEADER_BYTES_MAX,
    HTTP_HEADER_WAIT_S,
    HTTP_PARSE_BYTES,
    HTTP_PIPELINE_MAX,
    HTTP_TAKE_WAIT_S,
)
from topics.http_body import Headers
from topics.http_streaming import CONNECTION

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 18\r\nconnection: close\r\n\r\n"
    b"headers too large\n"
)
_HEAD = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_GET, _END = b"GET ", b"\r\n\r\n"
_PLAIN = re.compile(rb"GET ([!-~]+)").fullmatch  # a target without blanks and control characters
_Quickly = Callable[[bytes, Headers], bytes | None]
_SPARE_CONNECTIONS = 64  # above the bound these still get a 503; beyond them the door is shut


class _Flow(FlowControl):
    """FlowControl that reads nothing while it is held, whoever asks."""

    held = False

    def hold(self) -> None:
        """Read no more."""
        self.pause_reading()
        self.held = True

    def release(self) -> None:
        """Read on."""
        self.held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self.held:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """HttpToolsProtocol that closes what is too large, too slow or too many."""

    flow: _Flow

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_open = True  # between requests, or inside of a request's head
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False  # a head has begun and not ended
        self._quick: _Quickly | None = getattr(self.app, "answer_quickly", None)
        self._may_be_quick = False
        self._answered = False  # the request in hand, quickly
        self._piece = b""  # what came last
        self._known_end = b""  # of a request that was answered quickly: all behind its target
        self._known_headers: Headers = []
        self._known_at = -math.inf  # when such a one was last answered, by the loop's clock
        self._unread = b""  # what came, and is not parsed while too many requests are in line
        self._parks = False  # the answer in hand is a stream: its client may take its time
        self._rest_timer: asyncio.TimerHandle | None = None  # of a client that must take something
        self._rest_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse beyond the bound; start the clock for the first head."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        if len(self.connections) > HTTP_CONNECTIONS_MAX + _SPARE_CONNECTIONS:
            transport.abort()
            return
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_timer()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        self._unread = b""
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """A client that has no more to say. It gets what was written; a stream, which would write
        on for as long as that is not taken, ends."""
        super().eof_received()
        cycle = self.cycle
        if self._parks and cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.close()
        self._watch_rest()

    def data_received(self, data: bytes) -> None:
        """Parse it piece by piece, and no more of it while too many requests are in line."""
        if self._known_end and data.endswith(self._known_end) and self._answer_known(data):
            return
        # known can only become what the parser meets from its first byte on, between two requests
        begins = self._head_open and not self._in_head and not (self._head_bytes or self._unread)
        self._piece = data if begins else b""
        self._may_be_quick = self._quick is not None
        self._unread += data
        if not self.flow.held:
            self._parse()

    def _parse(self) -> None:
        data, self._unread = self._unread, b""
        for first in range(0, len(data), HTTP_PARSE_BYTES):
            if self.transport.is_closing():
                return
            if len(self.pipeline) > HTTP_PIPELINE_MAX:
                self._unread = data[first:]
                break
            self._feed(data[first : first + HTTP_PARSE_BYTES])
        if len(self.pipeline) > HTTP_PIPELINE_MAX:
            self._stop_timer()  # a head that is not whole waits for us now
            self.flow.hold()

    def _feed(self, data: bytes) -> None:
        """Count the bytes of an open head: a header without an end never reaches a callback. A
        head that is not whole yet has its clock."""
        self._head_bytes += len(data)  # of heads, trailers, chunks' extensions: a body resets it
        super().data_received(data)
        idle = self.cycle is None or self.cycle.response_complete
        if self._in_head or (idle and self.timeout_keep_alive_task is None):
            self._start_timer()  # uvicorn's own ended with the first byte of whatever came
        if self._head_bytes > HTTP_HEADER_BYTES_MAX:
            if self._head_open:
                self._refuse()
            else:
                self.transport.abort()

    def on_response_complete(self) -> None:
        """The next one in line; read on when few are left."""
        if self._parks and not self.transport.is_closing():
            self.transport.set_write_buffer_limits()
        self._parks = False
        super().on_response_complete()
        closing = self.transport.is_closing()
        if self.flow.held and not closing and len(self.pipeline) <= HTTP_PIPELINE_MAX:
            self.flow.release()
            self.loop.call_soon(self._parse)
        self._watch_rest()

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        super().pause_writing()
        self._watch_rest()

    def _park(self) -> None:
        """A stream begins. Whoever waits for room waits until the kernel has taken everything:
        what a stream has sent by then counts as taken."""
        self._parks = True
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=0)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers come here too, and are nobody's."""
        if self._head_open:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """What a body may bring is bounded by whoever reads it."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()
        transport = self.transport
        functions: dict[object, object] = {
            "abort": transport.abort,
            "untaken": transport.get_write_buffer_size,
            "park": self._park,
        }
        self.scope["extensions"] = {CONNECTION: functions}  # for clients that take nothing

    def on_headers_complete(self) -> None:
        """A head ends: refuse one that came too large in a single piece; answer a quick one."""
        self._stop_timer()
        self._in_head = False
        size = len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers])
        if size > HTTP_HEADER_BYTES_MAX:
            self._refuse()
            raise TooLarge("headers too large")  # stops the parser; uvicorn closes
        self._head_open, self._head_bytes = False, 0
        self._answered = self._may_be_quick and self._answer_quickly()
        if not self._answered:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head may begin."""
        self._head_open, self._head_bytes = True, 0
        if not self._answered:
            super().on_message_complete()

    def _answer_quickly(self) -> bool:
        """Answer a plain GET at once; False leaves it to uvicorn. Once per piece of data: of many
        requests in one piece the others wait for their turn on the loop."""
        self._may_be_quick = False
        parser = self.parser
        if (
            parser.get_method() != b"GET"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or parser.get_http_version() != "1.1"
            or not self._may_answer()
        ):
            return False
        body = self._quick(self.url, self.headers) if self._quick is not None else None
        if body is None:
            return False
        self._write_page(body)
        self.on_response_complete()
        begin = _GET + self.url
        if self._piece.startswith(begin) and self._piece.find(_END) == len(self._piece) - len(_END):
            self._known_end, self._known_headers = self._piece[len(begin) :], self.headers
        return True

    def _answer_known(self, data: bytes) -> bool:
        """Answer a request whose end is the known one; False leaves it to the parser."""
        target = _known_target(data, self._known_end)
        if (
            target is None
            or not self._head_open  # a body is on its way, whatever it looks like
            or self._in_head
            or self._head_bytes
            or self._unread
            or self.flow.held
            or not self._may_answer()
            or self._quick is None
        ):
            return False
        body = self._quick(target, self._known_headers)
        if body is None:
            return False
        self._write_page(body)
        self.server_state.total_requests += 1
        self._known_at = self.loop.time()  # the clock of an idle connection begins anew
        return True

    def _write_page(self, body: bytes) -> None:
        more = b"".join([b"%b: %b\r\n" % pair for pair in self.server_state.default_headers])
        self.transport.write(_HEAD % (more, len(body)) + body)

    def _may_answer(self) -> bool:
        """Whether a page may go out now: no other answer is in hand, the client takes what is
        written, and uvicorn would not answer 503."""
        cycle, most = self.cycle, self.limit_concurrency
        crowded = most is not None and max(len(self.connections), len(self.tasks)) >= most
        return not (
            crowded
            or self.flow.write_paused
            or self.transport.is_closing()
            or (cycle is not None and not cycle.response_complete)
        )

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
            self._watch_rest()

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP."""
        super().send_400_response(msg)
        self._watch_rest()

    # --- clocks ---

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HTTP_HEADER_WAIT_S, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self.timeout_keep_alive_handler()

    def timeout_keep_alive_handler(self) -> None:
        """Close, unless pages went out meanwhile; what was written is still sent, while the client
        takes it."""
        left_s = self._known_at + self.timeout_keep_alive - self.loop.time()
        if left_s > 0 and self._head_timer is None and not self._in_head:
            self.timeout_keep_alive_task = self.loop.call_later(
                left_s, self.timeout_keep_alive_handler
            )
            return
        super().timeout_keep_alive_handler()
        self._watch_rest()

    def _must_take(self) -> bool:
        """Whether its client has to take something: a closed connection, or an answer that can't
        be written, would wait for it for ever."""
        return self.transport.is_closing() or (self.flow.write_paused and not self._parks)

    def _watch_rest(self) -> None:
        if self._rest_timer is None and self._must_take():
            self._rest_bytes = self.transport.get_write_buffer_size()
            if self._rest_bytes:
                self._rest_timer = self.loop.call_later(HTTP_TAKE_WAIT_S, self._look_at_rest)

    def _look_at_rest(self) -> None:
        self._rest_timer = None
        if self._must_take() and self.transport.get_write_buffer_size() >= self._rest_bytes:
            self.transport.abort()
        else:
            self._watch_rest()


def _known_target(data: bytes, end: bytes) -> bytes | None:
    """The target of a GET of one piece with this end; None when it is something else."""
    found = _PLAIN(data, 0, len(data) - len(end))
    return found[1] if found is not None else None
