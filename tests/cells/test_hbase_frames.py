"""What is laid out by hand equals what happybase's own Thrift library writes, byte for byte where
both say the same; answers of the server are read to their end."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from cells.hbase_frames import KEY_STRIDE, put_at, put_keys, put_rows
from cells.hbase_socket import RemoteFault, ThriftSocket, WireFault
from engine.keys import inbox_keys

TABLE = b"c1.inbox"


def some_keys(count: int) -> np.ndarray:
    numbers = np.arange(count, dtype=np.uint64)
    return inbox_keys(numbers, numbers * np.uint64(3), numbers)


def test_numpy_and_python_lay_out_the_same() -> None:
    keys = some_keys(50)
    rows = [(key.tobytes(), [(b"", b"")]) for key in keys]
    assert put_keys(TABLE, keys) == put_rows(TABLE, rows)
    assert put_keys(TABLE, keys[:0]) == put_rows(TABLE, [])
    assert len(put_keys(TABLE, keys)) - len(put_keys(TABLE, keys[1:])) == KEY_STRIDE == 57


def parsed(message: bytes) -> tuple[str, object]:
    """(name, arguments) as the library reads them."""
    happybase = pytest.importorskip("happybase", reason="needs HBase: the [hbase] extra")
    from Hbase_thrift import Hbase
    from thriftpy2.protocol import TBinaryProtocol
    from thriftpy2.transport import TMemoryBuffer

    assert happybase is not None
    protocol = TBinaryProtocol(TMemoryBuffer(message), decode_response=False)
    name, kind, _ = protocol.read_message_begin()
    assert kind == 1
    name = name if isinstance(name, str) else name.decode()
    arguments = getattr(Hbase, f"{name}_args")()
    arguments.read(protocol)
    protocol.read_message_end()
    assert protocol.trans.read(1) == b""
    return name, arguments


def test_the_library_reads_rows_as_they_were_meant() -> None:
    rows = [(b"row1", [(b"q\x00", b"v"), (b"", b"")]), (b"row2", [(b"\xff:", b"long" * 99)])]
    name, arguments = parsed(put_rows(TABLE, rows))
    assert (name, arguments.tableName) == ("mutateRows", TABLE)
    found = [
        (batch.row, [(m.column, m.value, m.isDelete, m.writeToWAL) for m in batch.mutations])
        for batch in arguments.rowBatches
    ]
    assert found == [
        (key, [(b"f:" + name, value, False, True) for name, value in columns])
        for key, columns in rows
    ]


def test_the_library_reads_a_timestamp() -> None:
    name, arguments = parsed(put_at(TABLE, b"\x00\x07", b"", b"value", 2**62))
    assert (name, arguments.row, arguments.timestamp) == ("mutateRowTs", b"\x00\x07", 2**62)
    assert [(m.column, m.value) for m in arguments.mutations] == [(b"f:", b"value")]


# --- answers -------------------------------------------------------------------------------------

OK = b"\x80\x01\x00\x02" + struct.pack(">I", 4) + b"call" + bytes(4) + b"\x00"
TEXT = struct.pack(">bhI", 11, 1, 6) + b"broken"
IO_ERROR = OK[:-1] + struct.pack(">bh", 12, 1) + TEXT + struct.pack(">bhb", 2, 2, 1) + b"\x00\x00"
UNKNOWN = b"\x80\x01\x00\x03" + OK[4:-1] + TEXT + struct.pack(">bhi", 8, 2, 1) + b"\x00"


class Server:
    """Answers each connection with the given bytes."""

    def __init__(self) -> None:
        self.answers = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(self.answers)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass  # a client may still be sending

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def call(server: Server, answers: bytes, calls: int = 1, framed: bool = False) -> None:
    server.answers = answers
    wire = ThriftSocket("127.0.0.1", server.port, framed=framed, timeout_ms=2_000)
    try:
        wire.call_all([b"x"] * calls)
    finally:
        wire.close()


def test_void_answers(server: Server) -> None:
    call(server, OK)
    call(server, OK * 3, calls=3)
    call(server, struct.pack(">I", len(OK)) + OK, framed=True)


@pytest.mark.parametrize(("answer", "kind"), [(IO_ERROR, 1), (UNKNOWN, 0)])
def test_errors_are_read_to_their_end(server: Server, answer: bytes, kind: int) -> None:
    with pytest.raises(RemoteFault, match="broken") as caught:
        call(server, OK + answer + OK, calls=3)
    assert caught.value.kind == kind


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad", b"\x82\x21\x01" * 9, OK[:4] + b"\xff" * 9])
def test_other_protocols_are_named(server: Server, answer: bytes) -> None:
    with pytest.raises(WireFault):
        call(server, answer)


def test_a_server_that_goes_away_is_an_os_error(server: Server) -> None:
    for cut in range(len(OK)):
        with pytest.raises(OSError):
            call(server, OK[:cut])
