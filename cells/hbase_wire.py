"""One connection to HBase's Thrift 1 server for calls that answer something: happybase's definition
of the service over thriftpy2's compiled protocol and transport.

A connection belongs to one thread at a time. Calls may be sent before the answers of earlier ones
are read (`send`, `receive`): the server takes them in order, so a slice of a table costs two round
trips instead of three, and many slices cost two together. After any error of FAULTS but the
server's own the connection is of no use any more.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import suppress
from importlib import import_module
from typing import Any

from engine import limits
from engine.errors import Misconfigured, invariant

_CALL, _EXCEPTION = 1, 3


class _Wire:
    """A socket as thriftpy2's transports want it."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._socket = socket.create_connection((host, port), timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, size: int) -> bytes:
        """What has come, at most `size` bytes."""
        taken = self._socket.recv(size)
        if not taken:
            raise ConnectionResetError("the server closed the connection")
        return taken

    def write(self, data: bytes) -> None:
        """All of it."""
        self._socket.sendall(data)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        """Idempotent; another thread that waits for an answer wakes up with an error."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class ThriftLibrary:
    """What is used of happybase and thriftpy2. Raises Misconfigured when they are not there."""

    def __init__(self) -> None:
        try:
            import_module("happybase")  # brings the definition of the service, `Hbase_thrift`
            self.types: Any = import_module("Hbase_thrift")
            thrift: Any = import_module("thriftpy2.thrift")
            transports: Any = import_module("thriftpy2.transport")
            protocol: Any = import_module("thriftpy2.protocol.cybin")
        except ImportError as error:
            raise Misconfigured(
                "a store on HBase needs the [hbase] extra: pip install 'firecell[hbase]'"
            ) from error
        self.service: Any = self.types.Hbase
        self.protocol: Any = protocol.TCyBinaryProtocol
        self.buffered: Any = transports.TCyBufferedTransport
        self.framed: Any = transports.TCyFramedTransport
        self.refusal: Any = thrift.TApplicationException
        self.protocol_error: type[BaseException] = protocol.ProtocolError
        self.faults: tuple[type[BaseException], ...] = (
            thrift.TException,
            protocol.ProtocolError,
            OSError,
            EOFError,
        )

    def failed_inside(self, error: BaseException) -> bool:
        """Whether the server understood a call and broke down over it: HBase's client in it threw
        what the call does not declare. That passes; a refusal of the call itself does not."""
        inside = (self.refusal.INTERNAL_ERROR, self.refusal.MISSING_RESULT)
        return isinstance(error, self.refusal) and error.type in inside


class ThriftConnection:
    """An open connection. Raises the library's `faults`."""

    def __init__(self, library: ThriftLibrary, host: str, port: int, *, framed: bool) -> None:
        self._library = library
        self._wire = _Wire(host, port, limits.HBASE_READ_MS / 1_000)
        wrapped = (library.framed if framed else library.buffered)(self._wire)
        self._protocol = library.protocol(wrapped, decode_response=False)
        self._sent: deque[str] = deque()
        self._used = time.monotonic()

    def is_stale(self) -> bool:
        """Whether it was idle for so long that the server may have closed it."""
        return time.monotonic() - self._used > limits.HBASE_IDLE_S

    def call(self, name: str, *arguments: Any) -> Any:
        """Send a call and wait for its answer."""
        self.send(name, *arguments)
        return self.receive()

    def send(self, name: str, *arguments: Any) -> None:
        """Send a call; `receive` gives its answer. HBASE_AHEAD_CALLS at once at most: more could
        fill the buffers of both sides, each of which waits for the other."""
        invariant(len(self._sent) < limits.HBASE_AHEAD_CALLS, "few calls are sent ahead")
        payload = getattr(self._library.service, f"{name}_args")()
        for field, argument in zip(payload.thrift_spec.values(), arguments, strict=True):
            setattr(payload, field[1], argument)
        self._protocol.write_message_begin(name, _CALL, 0)
        payload.write(self._protocol)
        self._protocol.write_message_end()
        self._protocol.trans.flush()
        self._sent.append(name)

    def receive(self) -> Any:
        """The answer of the oldest call without one; None of a void one. Raises what the server
        declares for the call."""
        name = self._sent.popleft()
        _, kind, _ = self._protocol.read_message_begin()
        answer = getattr(self._library.service, f"{name}_result")()
        if kind == _EXCEPTION:
            answer = self._library.refusal()
        answer.read(self._protocol)
        self._protocol.read_message_end()
        self._used = time.monotonic()
        if kind == _EXCEPTION:
            raise answer
        for field, value in vars(answer).items():
            if field != "success" and value is not None:
                raise value
        return getattr(answer, "success", None)

    def close(self) -> None:
        """Idempotent; callable from any thread."""
        self._wire.close()
