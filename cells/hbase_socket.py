"""A plain socket to HBase's Thrift 1 server, for calls that cells/hbase_frames.py lays out.

One connection belongs to one thread at a time. `call` sends one message and reads its answer; a
void answer is all that these calls have. Buffered and framed transports differ by a length in front
of each message. Several calls may be sent before the first answer is read (`call_all`).
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

from cells.hbase_frames import BOOL, EXCEPTION, I32, REPLY, STRICT_HEAD, STRING
from engine import limits

_U32 = struct.Struct(">I")
_FIELD = struct.Struct(">bh")
_NOISE = 2**12  # of a name in an answer: ours are shorter
_SIZES = {BOOL: 1, I32: 4}


class WireFault(Exception):
    """The answer was none of the protocol's: another protocol, transport or server."""


class RemoteFault(Exception):
    """The server answered with an error of its own: (kind, text)."""

    def __init__(self, kind: int, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class ThriftSocket:
    """One connection. Raises OSError, WireFault, RemoteFault; after all but the last close it."""

    def __init__(self, host: str, port: int, *, framed: bool, timeout_ms: int) -> None:
        self._framed = framed
        self._socket = socket.create_connection((host, port), timeout_ms / 1_000)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._used = time.monotonic()

    def is_stale(self) -> bool:
        """Whether it was idle for so long that the server may have closed it."""
        return time.monotonic() - self._used > limits.HBASE_IDLE_S

    def call(self, message: bytes) -> None:
        """Send a call and wait for its void answer."""
        self.call_all([message])

    def call_all(self, messages: Sequence[bytes]) -> None:
        """Send calls one behind the other, then wait for all void answers; the server takes them
        in order. Raises the first error when all answers are in."""
        for message in messages:
            if self._framed:
                self._socket.sendall(_U32.pack(len(message)))
            self._socket.sendall(message)
        fault: RemoteFault | None = None
        for _ in messages:
            try:
                self._void_answer()
            except RemoteFault as error:
                fault = fault or error
        self._used = time.monotonic()
        if fault is not None:
            raise fault

    def close(self) -> None:
        """Idempotent."""
        self._answers.close()
        self._socket.close()

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= limits.HBASE_ANSWER_BYTES_MAX:
            raise WireFault(f"a part of {size} bytes")
        taken = self._answers.read(size)
        if len(taken) < size:
            raise ConnectionResetError("the server closed the connection")
        return taken

    def _number(self) -> int:
        number: int = _U32.unpack(self._take(4))[0]
        return number

    def _void_answer(self) -> None:
        if self._framed:
            self._take(4)
        head = self._number()
        if head & ~0xFF != STRICT_HEAD or head & 0xFF not in (REPLY, EXCEPTION):
            raise WireFault(f"an answer that begins with {head:08x}")
        size = self._number()
        if size > _NOISE:
            raise WireFault(f"a name of {size} bytes")
        self._take(size + 4)  # name and sequence id
        if head & 0xFF == EXCEPTION:
            raise RemoteFault(0, self._struct_text())
        field = self._take(1)[0]
        if not field:
            return
        kind = _FIELD.unpack(bytes([field]) + self._take(2))[1]
        text = self._struct_text()
        self._take(1)  # end of the result
        raise RemoteFault(kind, text)

    def _struct_text(self) -> str:
        """The texts of an error's struct, which is read to its end."""
        texts = []
        while field := self._take(1)[0]:
            self._take(2)
            if field == STRING:
                texts.append(self._take(self._number()).decode(errors="replace"))
            elif field in _SIZES:
                self._take(_SIZES[field])  # whether to try again; what kind of exception
            else:
                raise WireFault(f"an error with a field of type {field}")
        return " ".join(texts)
