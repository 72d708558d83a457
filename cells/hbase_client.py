"""The way to HBase's Thrift 1 server: connections, time-outs, tries again, errors as ours.

Reads take a connection from a pool (cells/hbase_wire.py) and give it back: as many are open as were
ever in use at once. Writes go over sockets of our own (cells/hbase_frames.py lays their calls out),
a few of them, so that a batch uses more than one thread of the server.

Every call may be sent again: what is written twice changes nothing (I2). A connection that was idle
for too long, or that failed, is not used again. A read that ran into its time-out is not tried
again: whoever waits for a page is better told.
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
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from cells.hbase_frames import COLUMN, FAMILY
from cells.hbase_schema import Column, Columns
from cells.hbase_socket import RemoteFault, ThriftSocket, WireFault
from cells.hbase_wire import ThriftConnection, ThriftLibrary
from engine import limits, limits_stack
from engine.errors import FirecellError, Misconfigured, Unavailable

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_Pair = tuple[bytes, Columns]
_Range = tuple[bytes, bytes | None]
LaidOut = Callable[[], bytes]  # gives a whole call on the wire
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
            port = parts.port or limits_stack.STACK_THRIFT_PORT
            options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError as error:
            raise Misconfigured(f"{url!r} is no URL: {error}") from error
        cell = parts.path.strip("/")
        host = parts.hostname or ""
        if parts.scheme != "hbase" or not host or not cell or "/" in cell:
            raise Misconfigured(f"{url!r} is no store; write hbase://HOST:PORT/CELL")
        zookeeper = options.pop("zookeeper", host)
        if ":" not in zookeeper:
            zookeeper = f"{zookeeper}:{limits_stack.STACK_ZOOKEEPER_PORT}"
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
        self.address = address
        self._library = ThriftLibrary()
        self._faults = self._library.faults
        self._idle: list[ThriftConnection] = []
        self._opened: set[ThriftConnection] = set()
        self._lock = threading.Lock()
        self._sockets: list[ThriftSocket | None] = [None] * limits.HBASE_WRITERS
        self._writers = ThreadPoolExecutor(limits.HBASE_WRITERS, "hbase-write")
        self._closed = False

    def table(self, name: str) -> bytes:
        """The full name of one of the cell's tables."""
        return f"{self.address.cell}.{name}".encode()

    # --- reads -----------------------------------------------------------------------------------

    def ask(self, what: str, call: Callable[[ThriftConnection], _Answer]) -> _Answer:
        """`call(connection)`, tried again with new connections unless time ran out. `call` reads
        the answers of all that it sends. Raises Unavailable, Misconfigured."""
        for attempt in range(limits.HBASE_TRIES_MAX):
            if attempt:
                time.sleep(limits.RETRY_FIRST_MS * attempt / 1_000)
            connection: ThriftConnection | None = None
            try:
                connection = self._take()
                answer = call(connection)
            except self._faults as error:
                self._drop(connection)
                fault = self._translate(error, what)
                last = attempt + 1 == limits.HBASE_TRIES_MAX
                if last or self._closed or isinstance(error, TimeoutError):
                    raise fault from error
                if not isinstance(fault, Unavailable):
                    raise fault from error
                _log.info("tried again: %s", fault)
            except BaseException:
                self._drop(connection)  # answers may be on their way
                raise
            else:
                self._give(connection)
                return answer
        raise Unavailable(f"could not {what}")

    def mutate_at(self, what: str, table: str, key: bytes, column: Column, timestamp: int) -> None:
        """Put one cell with a timestamp of ours."""
        qualifier, value = column
        cell = [self._library.types.Mutation(column=COLUMN + qualifier, value=value)]
        name = self.table(table)
        self.ask(what, lambda wire: wire.call("mutateRowTs", name, key, cell, timestamp, {}))

    def delete(self, what: str, table: str, keys: Sequence[bytes]) -> None:
        """Rows go. What was put in the same millisecond goes with them."""
        types, name = self._library.types, self.table(table)
        gone = [types.Mutation(isDelete=True, column=FAMILY)]
        rows = [types.BatchMutation(row=key, mutations=gone) for key in keys]
        self.ask(what, lambda wire: wire.call("mutateRows", name, rows, {}))

    def regions(self, table: str) -> list[bytes]:
        """Where the regions of a table begin, ascending."""
        name = self.table(table)
        found = self.ask(f"list {table} regions", lambda wire: wire.call("getTableRegions", name))
        return sorted(region.startKey for region in found)

    def rows(self, table: str, keys: Sequence[bytes]) -> list[Columns]:
        """The columns of rows, in the order of `keys`; empty for a row that is not there."""
        name, step = self.table(table), limits.HBASE_GET_ROWS
        parts = [list(keys[start : start + step]) for start in range(0, len(keys), step)]
        found: dict[bytes, Columns] = {}

        def read(wire: ThriftConnection, some: Sequence[list[bytes]]) -> None:
            for part in some:
                wire.send("getRows", name, part, {})
            for _ in some:
                found.update((row.row, columns_of(row)) for row in wire.receive())

        for start in range(0, len(parts), limits.HBASE_AHEAD_GETS):
            some = parts[start : start + limits.HBASE_AHEAD_GETS]
            self.ask(f"read {table} rows", partial(read, some=some))
        return [found.get(key, {}) for key in keys]

    def scan(
        self,
        table: str,
        start: bytes,
        stop: bytes | None,
        limit: int,
        *,
        reverse: bool = False,
    ) -> list[_Pair]:
        """At most `limit` rows of [start, stop) in key order, or downwards from `start`."""
        return self.scans(table, [(start, stop)], limit, reverse=reverse)[0]

    def scans(
        self, table: str, ranges: Sequence[_Range], limit: int, *, reverse: bool = False
    ) -> list[list[_Pair]]:
        """At most `limit` rows of each [start, stop), two round trips for all of them."""
        if limit <= 0:
            return [[] for _ in ranges]
        name, step = self.table(table), limits.HBASE_AHEAD_CALLS // 2
        found: list[list[_Pair]] = []
        for at in range(0, len(ranges), step):
            scans = [self._scan_of(*each, limit, reverse) for each in ranges[at : at + step]]
            read = partial(_read_scans, name, scans, limit)
            found += self.ask(f"scan {table} rows", read)
        return found

    def _scan_of(self, start: bytes, stop: bytes | None, limit: int, reverse: bool) -> Any:
        return self._library.types.TScan(
            startRow=start,
            stopRow=stop,
            caching=limit,
            filterString=b"PageFilter(%d)" % limit,
            reversed=reverse,
        )

    def _take(self) -> ThriftConnection:
        """An idle connection, or a new one."""
        with self._lock:
            if self._closed:
                raise Unavailable("the store is closed")
            connection = self._idle.pop() if self._idle else None
        if connection is not None and connection.is_stale():
            self._drop(connection)
            connection = None
        if connection is None:
            address = self.address
            connection = ThriftConnection(
                self._library, address.host, address.port, framed=address.framed
            )
            with self._lock:
                self._opened.add(connection)
        return connection

    def _give(self, connection: ThriftConnection) -> None:
        with self._lock:
            self._idle.append(connection)

    def _drop(self, connection: ThriftConnection | None) -> None:
        if connection is None:
            return
        with self._lock:
            self._opened.discard(connection)
        connection.close()

    # --- writes, laid out by hand ----------------------------------------------------------------

    def write(self, what: str, calls: Sequence[LaidOut], together: bool = False) -> int:
        """Send calls that answer nothing, shared out among the writing sockets, and wait for all of
        them; bytes sent. Each is laid out when its turn comes, beside the server's work on others.
        `together`: the small calls of one socket go one behind the other, without waiting between.

        A call that fails goes again over a new connection. Raises Unavailable, Misconfigured."""
        if self._closed:
            raise Unavailable("the store is closed")
        if len(calls) == 1:
            return self._write_part(what, 0, calls, together)
        running = [
            self._writers.submit(self._write_part, what, number, part, together)
            for number in range(limits.HBASE_WRITERS)
            if (part := calls[number :: limits.HBASE_WRITERS])
        ]
        faults = [error for error in (future.exception() for future in running) if error]
        if faults:
            raise faults[0]
        return sum(future.result() for future in running)

    def _write_part(self, what: str, number: int, calls: Sequence[LaidOut], together: bool) -> int:
        sent = 0
        groups = [calls] if together else [[call] for call in calls]
        for group in groups:
            messages = [call() for call in group]
            for attempt in range(limits.HBASE_TRIES_MAX):
                if attempt:
                    time.sleep(limits.RETRY_FIRST_MS * attempt / 1_000)
                try:
                    self._writer(number).call_all(messages)
                    break
                except (OSError, WireFault, RemoteFault) as error:
                    self._close_writer(number)
                    fault = self._translate(error, what)
                    if not isinstance(fault, Unavailable) or attempt + 1 == limits.HBASE_TRIES_MAX:
                        raise fault from error
                    _log.info("tried again: %s", fault)
            sent += sum(map(len, messages))
        return sent

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
        connection: ThriftConnection | None = None
        try:
            connection = self._take()
            names = connection.call("getTableNames")
        except OSError as error:  # nobody listens, or nothing came back in time
            self._drop(connection)
            raise Unavailable(
                f"no answer from {self.address.place} ({error}): is it running, with the"
                f" {'framed' if self.address.framed else 'buffered'} transport and the binary"
                " protocol? `?transport=framed` in the URL chooses the other transport"
            ) from error
        except self._faults as error:
            self._drop(connection)
            raise self._translate(error, "list its tables") from error
        self._give(connection)
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
        if self._library.failed_inside(error):  # such as a client of HBase that lost its server
            return Unavailable(f"could not {what}: {place} failed inside: {first}; try again")
        if isinstance(error, WireFault | self._library.protocol_error | self._library.refusal):
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
            opened, self._opened = self._opened, set()
            self._idle.clear()
        for connection in opened:
            connection.close()


def _read_scans(
    table: bytes, scans: Sequence[Any], limit: int, wire: ThriftConnection
) -> list[list[_Pair]]:
    """All scans are opened, then all are read to their ends and closed."""
    for scan in scans:
        wire.send("scannerOpenWithScan", table, scan, {})
    for number in [wire.receive() for _ in scans]:
        wire.send("scannerGetList", number, limit)
        wire.send("scannerClose", number)
    found = []
    for _ in scans:
        found.append([(row.row, columns_of(row)) for row in wire.receive()])
        wire.receive()
    return found


def columns_of(row: Any) -> Columns:
    """qualifier -> value of a Thrift row."""
    return {name[_SKIP:]: cell.value for name, cell in row.columns.items()}
