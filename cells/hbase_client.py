"""The way to HBase's Thrift 1 server: connections, time-outs, tries again, errors as ours.

happybase's client reads and administers: one connection per thread (it is not to be shared), opened
when the thread first asks, closed with the client. Writes go over sockets of our own
(cells/hbase_frames.py lays their calls out), a few of them, so that a batch uses more than one
thread of the server.

Every call may be sent again: what is written twice changes nothing (I2). A connection that was idle
for too long, or that failed, is not used again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from cells.hbase_frames import COLUMN
from cells.hbase_schema import Columns
from cells.hbase_socket import RemoteFault, ThriftSocket, WireFault
from engine import limits
from engine.errors import FirecellError, Misconfigured, Unavailable

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_THRIFT_PORT, _ZOOKEEPER_PORT = 9090, 2181  # format: the servers' own defaults
_SKIP = len(COLUMN)


@dataclass(frozen=True)
class Address:
    """What `hbase://host:port/cell?zookeeper=host:port&transport=framed` says."""

    host: str
    port: int
    cell: str
    zookeeper: str
    framed: bool

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises Misconfigured."""
        try:
            parts = urlsplit(url)
            port = parts.port or _THRIFT_PORT
            options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise Misconfigured(f"{url!r} is no URL: {error}") from error
        cell = parts.path.strip("/")
        host = parts.hostname or ""
        if parts.scheme != "hbase" or not host or not cell or "/" in cell:
            raise Misconfigured(f"{url!r} is no store; write hbase://HOST:PORT/CELL")
        zookeeper = options.pop("zookeeper", host)
        if ":" not in zookeeper:
            zookeeper = f"{zookeeper}:{_ZOOKEEPER_PORT}"
        transport = options.pop("transport", "buffered")
        if options or transport not in ("buffered", "framed"):
            raise Misconfigured(
                f"{url!r}: behind the question mark stand zookeeper=HOST:PORT and"
                " transport=buffered or framed, nothing else"
            )
        return cls(host, port, cell, zookeeper, transport == "framed")

    @property
    def place(self) -> str:
        """For messages."""
        return f"HBase's Thrift server at {self.host}:{self.port}"


class HBaseClient:
    """Reads and writes of rows. Any number of threads may read; one at a time writes keys."""

    def __init__(self, address: Address) -> None:
        """Connects to nothing yet. Raises Misconfigured when happybase is not installed."""
        try:
            import_module("happybase")  # brings the definition of the service, `Hbase_thrift`
            service = import_module("Hbase_thrift")
            thrift = import_module("thriftpy2.thrift")
            self._transports: Any = import_module("thriftpy2.transport")
            wire = import_module("thriftpy2.protocol.cybin")
        except ImportError as error:
            raise Misconfigured(
                "a store on HBase needs the [hbase] extra: pip install 'firecell[hbase]'"
            ) from error
        self.address = address
        self._service: Any = service.Hbase
        self._scan_of: Any = service.TScan
        self._client_of: Any = thrift.TClient
        self._protocol: Any = wire.TCyBinaryProtocol
        self._faults: tuple[type[BaseException], ...] = (
            thrift.TException,
            wire.ProtocolError,
            OSError,
            EOFError,
        )
        self._mine = threading.local()
        self._opened: list[Any] = []
        self._lock = threading.Lock()
        self._sockets: list[ThriftSocket | None] = [None] * limits.HBASE_WRITERS
        self._writers = ThreadPoolExecutor(limits.HBASE_WRITERS, "hbase-write")
        self._closed = False

    def table(self, name: str) -> bytes:
        """The full name of one of the cell's tables."""
        return f"{self.address.cell}.{name}".encode()

    # --- reads, by happybase's client ------------------------------------------------------------

    def ask(self, what: str, call: Callable[[Any], _Answer]) -> _Answer:
        """`call(client)` with this thread's Thrift client, tried again with new connections.
        `call` reads to the end what it reads. Raises Unavailable, Misconfigured."""
        for attempt in range(limits.HBASE_TRIES_MAX):
            if attempt:
                time.sleep(limits.RETRY_FIRST_MS * attempt / 1_000)
            try:
                return call(self._connection())
            except self._faults as error:
                self._drop()
                fault = self._translate(error, what)
                if not isinstance(fault, Unavailable) or attempt + 1 == limits.HBASE_TRIES_MAX:
                    raise fault from error
                _log.info("tried again: %s", fault)
        raise Unavailable(f"could not {what}")

    def rows(self, table: str, keys: Sequence[bytes]) -> list[Columns]:
        """The columns of rows, in the order of `keys`; empty for a row that is not there."""
        found: dict[bytes, Columns] = {}
        name = self.table(table)
        for start in range(0, len(keys), limits.HBASE_GET_ROWS):
            part = list(keys[start : start + limits.HBASE_GET_ROWS])
            answer = self.ask(f"read {table} rows", partial(_get_rows, name, part))
            found.update((row.row, columns_of(row)) for row in answer)
        return [found.get(key, {}) for key in keys]

    def scan(
        self,
        table: str,
        start: bytes,
        stop: bytes | None,
        limit: int,
        *,
        reverse: bool = False,
    ) -> list[tuple[bytes, Columns]]:
        """At most `limit` rows of [start, stop) in key order, or downwards from `start`."""
        scan = self._scan_of(
            startRow=start,
            stopRow=stop,
            caching=limit,
            filterString=b"PageFilter(%d)" % limit,
            reversed=reverse,
        )
        name = self.table(table)

        def read(client: Any) -> list[tuple[bytes, Columns]]:
            number = client.scannerOpenWithScan(name, scan, {})
            try:
                found = client.scannerGetList(number, limit)
                return [(row.row, columns_of(row)) for row in found]
            finally:
                client.scannerClose(number)

        return self.ask(f"scan {table} rows", read) if limit > 0 else []

    def _connection(self) -> Any:
        """This thread's connection."""
        if self._closed:
            raise Unavailable("the store is closed")
        connection = getattr(self._mine, "connection", None)
        used: float = getattr(self._mine, "used", 0.0)
        now = time.monotonic()
        if connection is not None and now - used > limits.HBASE_IDLE_S:
            self._drop()
            connection = None
        if connection is None:
            connection = self._connect()
            self._mine.connection = connection
            with self._lock:
                self._opened.append(connection)
        self._mine.used = now
        return connection

    def _connect(self) -> Any:
        """happybase's client over the compiled transport and protocol: its own are Python."""
        transports, address = self._transports, self.address
        wire = transports.TSocket(address.host, address.port, socket_timeout=limits.HBASE_READ_MS)
        framed = address.framed
        wrapped = (transports.TCyFramedTransport if framed else transports.TCyBufferedTransport)(
            wire
        )
        wrapped.open()
        return self._client_of(self._service, self._protocol(wrapped, decode_response=False))

    def _drop(self) -> None:
        connection = getattr(self._mine, "connection", None)
        if connection is None:
            return
        self._mine.connection = None
        with self._lock, suppress(ValueError):
            self._opened.remove(connection)
        with suppress(*self._faults):
            connection.close()

    # --- writes, laid out by hand ----------------------------------------------------------------

    def write(self, what: str, messages: Sequence[bytes], together: bool = False) -> None:
        """Send calls that answer nothing, shared out among the writing sockets, and wait for all of
        them; `together`: on one socket, one behind the other without waiting between.

        On an error the whole of a socket's part goes again over a new connection. Raises
        Unavailable, Misconfigured."""
        if self._closed:
            raise Unavailable("the store is closed")
        if together or len(messages) == 1:
            self._write_part(what, 0, messages, together)
            return
        parts = [messages[number :: limits.HBASE_WRITERS] for number in range(limits.HBASE_WRITERS)]
        running = [
            self._writers.submit(self._write_part, what, number, part, False)
            for number, part in enumerate(parts)
            if part
        ]
        faults = [error for error in (future.exception() for future in running) if error]
        if faults:
            raise faults[0]

    def _write_part(
        self, what: str, number: int, messages: Sequence[bytes], together: bool
    ) -> None:
        groups = [messages] if together else [[message] for message in messages]
        for group in groups:
            for attempt in range(limits.HBASE_TRIES_MAX):
                if attempt:
                    time.sleep(limits.RETRY_FIRST_MS * attempt / 1_000)
                try:
                    self._writer(number).call_all(group)
                    break
                except (OSError, WireFault, RemoteFault) as error:
                    self._close_writer(number)
                    fault = self._translate(error, what)
                    if not isinstance(fault, Unavailable) or attempt + 1 == limits.HBASE_TRIES_MAX:
                        raise fault from error
                    _log.info("tried again: %s", fault)

    def _writer(self, number: int) -> ThriftSocket:
        """One of the writing sockets; only ever used by one thread at a time."""
        writer = self._sockets[number]
        if writer is not None and writer.is_stale():
            self._close_writer(number)
            writer = None
        if writer is None:
            writer = ThriftSocket(
                self.address.host,
                self.address.port,
                framed=self.address.framed,
                timeout_ms=limits.HBASE_WRITE_MS,
            )
            self._sockets[number] = writer
        return writer

    def _close_writer(self, number: int) -> None:
        writer, self._sockets[number] = self._sockets[number], None
        if writer is not None:
            with suppress(OSError):
                writer.close()

    # --- the client ------------------------------------------------------------------------------

    def probe(self) -> set[str]:
        """Names of all tables. Raises Unavailable, or Misconfigured when the server speaks another
        transport or protocol."""
        try:
            names = self._connection().getTableNames()
        except OSError as error:  # nobody listens, or nothing came back in time
            self._drop()
            raise Unavailable(
                f"no answer from {self.address.place} ({error}): is it running, with the"
                f" {'framed' if self.address.framed else 'buffered'} transport and the binary"
                " protocol? `?transport=framed` in the URL chooses the other transport"
            ) from error
        except self._faults as error:
            self._drop()
            raise self._translate(error, "list its tables") from error
        return {bytes(name).decode() for name in names}

    def _translate(self, error: BaseException, what: str) -> FirecellError:
        """Our error for Thrift's, HBase's or the operating system's."""
        text = (getattr(error, "message", None) or str(error) or type(error).__name__).strip()
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        first = text.splitlines()[0][: limits.TAG_CHARACTERS_MAX] if text else ""
        place = self.address.place
        if "TableNotFoundException" in text or "TableNotEnabledException" in text:
            return Misconfigured(
                f"could not {what}: {place} has lost a table of cell {self.address.cell}: {first}"
            )
        if isinstance(error, WireFault) or type(error).__name__.endswith("ProtocolError"):
            return Misconfigured(
                f"could not {what}: {place} speaks another protocol ({first}); it must run Thrift 1"
                " with the binary protocol, and `?transport=framed` in the URL when framed"
            )
        return Unavailable(f"could not {what}: {place} failed: {first}; try again")

    def close(self) -> None:
        """Close every connection, those of other threads too. Idempotent."""
        self._closed = True
        self._writers.shutdown()
        for number in range(limits.HBASE_WRITERS):
            self._close_writer(number)
        with self._lock:
            opened, self._opened = self._opened, []
        for connection in opened:
            with suppress(*self._faults):
                connection.close()


def _get_rows(table: bytes, keys: list[bytes], client: Any) -> list[Any]:
    found: list[Any] = client.getRows(table, keys, {})
    return found


def columns_of(row: Any) -> Columns:
    """qualifier -> value of a Thrift row."""
    return {name[_SKIP:]: cell.value for name, cell in row.columns.items()}
