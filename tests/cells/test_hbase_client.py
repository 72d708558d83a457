"""The way to HBase without an HBase: what a server may do to a connection, and what we call it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from cells.hbase_client import Address, HBaseClient
from engine import limits
from engine.errors import FirecellError, Misconfigured, Unavailable

pytest.importorskip("happybase", reason="needs HBase: the [hbase] extra")
NAMES = (
    b"\x80\x01\x00\x02" + struct.pack(">I", 13) + b"getTableNames" + bytes(4)
    + struct.pack(">bhbI", 15, 0, 11, 1) + struct.pack(">I", 7) + b"c1.meta" + b"\x00"
)  # fmt: skip
Serve = Callable[[int, socket.socket], None]


class Server:
    """Serves one connection after the other; `serve` is told the number of each."""

    def __init__(self) -> None:
        self.serve: Serve = lambda number, connection: None
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(5)
                self.serve(self.connections, connection)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def client(server: Server) -> Iterator[HBaseClient]:
    client = HBaseClient(Address.parse(f"hbase://127.0.0.1:{server.port}/c1"))
    yield client
    client.close()


def answering(*answers: bytes) -> Serve:
    """Every connection gets these, a call each; then it is closed."""

    def serve(number: int, connection: socket.socket) -> None:
        for answer in answers:
            connection.recv(65_536)
            connection.sendall(answer)

    return serve


def never_answering(number: int, connection: socket.socket) -> None:
    while connection.recv(1_024):
        pass


def names(client: HBaseClient) -> list[bytes]:
    found: list[bytes] = client.ask("list tables", lambda wire: wire.call("getTableNames"))
    return found


def test_a_table_list_is_read(server: Server, client: HBaseClient) -> None:
    server.serve = answering(NAMES, NAMES)
    assert client.probe() == {"c1.meta"}
    assert names(client) == [b"c1.meta"]
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x82\x21\x01\x0d" + bytes(40), b"\x7f" * 64],
)
def test_another_protocol_is_named(server: Server, client: HBaseClient, answer: bytes) -> None:
    server.serve = answering(answer)
    with pytest.raises(FirecellError, match=r"binary\s+protocol"):
        client.probe()


def test_a_transport_that_hangs_up_is_named(server: Server, client: HBaseClient) -> None:
    """What a framed server does with a buffered call."""
    server.serve = answering(b"")
    with pytest.raises(Unavailable, match=r"transport=framed"):
        client.probe()


def test_a_server_that_hangs_costs_one_time_out(
    server: Server, client: HBaseClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying again would make whoever waits for a page wait three times as long."""
    monkeypatch.setattr(limits, "HBASE_READ_MS", 200)
    server.serve = never_answering
    with pytest.raises(Unavailable, match="timed out"):
        names(client)
    assert server.connections == 1


def test_a_connection_that_died_is_replaced_restart(server: Server, client: HBaseClient) -> None:
    server.serve = answering(NAMES)
    assert names(client) == names(client) == [b"c1.meta"]
    assert server.connections == 2


def test_a_server_that_never_works_is_given_up(server: Server, client: HBaseClient) -> None:
    with pytest.raises(Unavailable, match="could not list tables"):
        names(client)
    assert server.connections == limits.HBASE_TRIES_MAX


def test_calls_one_after_the_other_share_a_connection(server: Server, client: HBaseClient) -> None:
    server.serve = answering(*[NAMES] * 50)
    for _ in range(50):
        assert names(client) == [b"c1.meta"]
    assert server.connections == 1


def test_closing_wakes_who_waits(server: Server, client: HBaseClient) -> None:
    server.serve = never_answering
    failures: list[BaseException] = []

    def wait() -> None:
        try:
            names(client)
        except FirecellError as error:
            failures.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not client._opened:
        pass
    client.close()
    thread.join(2)
    assert not thread.is_alive() and isinstance(failures[0], Unavailable)
    with pytest.raises(Unavailable, match="closed"):
        names(client)


def test_a_lost_table_is_a_misconfiguration(server: Server, client: HBaseClient) -> None:
    text = b"org.apache.hadoop.hbase.TableNotFoundException: c1.post"
    lost = NAMES[:21] + bytes(4) + struct.pack(">bhbhI", 12, 1, 11, 1, len(text)) + text + bytes(2)
    server.serve = answering(lost)
    with pytest.raises(Misconfigured, match="has lost a table"):
        names(client)


def test_a_server_that_breaks_down_over_a_call_is_asked_again(
    server: Server, client: HBaseClient
) -> None:
    """HBase's client in it throws what the call does not declare: no fault of the protocol."""
    text = b"Internal error processing getTableNames"
    told = struct.pack(">bhI", 11, 1, len(text)) + text + struct.pack(">bhi", 8, 2, 6) + b"\x00"
    broken = b"\x80\x01\x00\x03" + NAMES[4:25] + told

    def serve(number: int, connection: socket.socket) -> None:
        answering(broken if number == 1 else NAMES)(number, connection)

    server.serve = serve
    assert names(client) == [b"c1.meta"]
    assert server.connections == 2
    server.serve = answering(broken)
    with pytest.raises(Unavailable, match="failed inside: Internal error"):
        names(client)
