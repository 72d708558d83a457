"""Is a server of the stack really there: one real request to each, its answer looked at.

Each probe opens a connection of its own, waits a bounded time, and returns "" when the server
serves, else what is wrong in a few words. No client library is needed. Any thread.
"""

from __future__ import annotations

import http.client
import json
import socket
import struct

from engine.limits_stack import STACK_ANSWER_BYTES_MAX, STACK_PROBE_S
from ops.stack_plan import LOOPBACK, Plan

_METADATA_KEY = 3  # Kafka: "who is there", version 1
_THRIFT_CALL = struct.pack(">I", 0x80010001)  # strict binary protocol, a call
_THRIFT_LIST = 15
_ZOOKEEPER_EXISTS = 3


class _NoAnswer(Exception):
    """What a probe found wrong."""


def probe(plan: Plan, server: str, wait_s: float = STACK_PROBE_S) -> str:
    """ "" when `server` answers a real request within `wait_s`, else why not."""
    try:
        _PROBES[server](plan, wait_s)
    except _NoAnswer as problem:
        return str(problem)
    except TimeoutError:
        return f"no answer within {wait_s:g} s"
    except (OSError, http.client.HTTPException, struct.error, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _redis(plan: Plan, wait_s: float) -> None:
    with _connect(plan.ports["redis"], wait_s) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(64)
    if not answer.startswith(b"+PONG"):
        raise _NoAnswer(f"PING gave {answer!r}")


def _kafka(plan: Plan, wait_s: float) -> None:
    client = b"firecell"
    request = struct.pack(">hhih", _METADATA_KEY, 1, 7, len(client)) + client + struct.pack(">i", 0)
    with _connect(plan.ports["kafka"], wait_s) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = _framed(connection)
    correlation, brokers = struct.unpack_from(">ii", answer)
    if correlation != 7 or brokers < 1:
        raise _NoAnswer(f"{brokers} brokers")
    place = 8
    for _ in range(brokers):
        (length,) = struct.unpack_from(">h", answer, place + 4)
        (rack,) = struct.unpack_from(">h", answer, place + 4 + 2 + length + 4)
        place += 4 + 2 + length + 4 + 2 + max(rack, 0)
    (controller,) = struct.unpack_from(">i", answer, place)
    if controller < 0:
        raise _NoAnswer("no controller yet")


def _hdfs_bean(port: int, bean: str, wait_s: float) -> dict[str, object]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=wait_s)
    try:
        connection.request("GET", f"/jmx?qry=Hadoop:service=NameNode,name={bean}")
        answer = connection.getresponse()
        beans = json.loads(answer.read(STACK_ANSWER_BYTES_MAX))["beans"]
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK or not beans:
        raise _NoAnswer(f"no {bean} (HTTP {answer.status})")
    found: dict[str, object] = beans[0]
    return found


def _namenode(plan: Plan, wait_s: float) -> None:
    state = _hdfs_bean(plan.ports["namenode_http"], "NameNodeStatus", wait_s)
    if state.get("State") != "active":
        raise _NoAnswer(f"state {state.get('State')}")
    with _connect(plan.ports["namenode"], wait_s):  # clients come in here, after the start
        pass


def _datanode(plan: Plan, wait_s: float) -> None:
    """The DataNode answers, and the NameNode counts it and has left its safe mode."""
    with _connect(plan.ports["datanode"], wait_s):
        pass
    connection = http.client.HTTPConnection(LOOPBACK, plan.ports["datanode_http"], timeout=wait_s)
    try:
        connection.request("GET", "/jmx?qry=Hadoop:service=DataNode,name=DataNodeInfo")
        if not json.loads(connection.getresponse().read(STACK_ANSWER_BYTES_MAX))["beans"]:
            raise _NoAnswer("no DataNodeInfo yet")
    finally:
        connection.close()
    state = _hdfs_bean(plan.ports["namenode_http"], "FSNamesystemState", wait_s)
    if state["NumLiveDataNodes"] != 1:
        raise _NoAnswer("the NameNode does not know it yet")
    if state["FSState"] != "Operational":
        raise _NoAnswer(f"file system: {state['FSState']}")


def _hbase(plan: Plan, wait_s: float) -> None:
    """ZooKeeper (in the same process) knows a master and where the table of regions is."""
    with _connect(plan.ports["zookeeper"], wait_s) as connection:
        session = struct.pack(">iqiq", 0, 0, 10_000, 0) + struct.pack(">i", 16) + bytes(17)
        connection.sendall(struct.pack(">i", len(session)) + session)
        _framed(connection)
        for path in (b"/hbase/master", b"/hbase/meta-region-server"):
            body = struct.pack(">iii", 1, _ZOOKEEPER_EXISTS, len(path)) + path + b"\0"
            connection.sendall(struct.pack(">i", len(body)) + body)
            _, _, problem = struct.unpack_from(">iqi", _framed(connection))
            if problem:
                raise _NoAnswer(f"no {path.decode()} yet")
    with _connect(plan.ports["hbase_regionserver"], wait_s):
        pass


def _thrift(plan: Plan, wait_s: float) -> None:
    """getTableNames: goes through to HBase's master, which must be initialized."""
    name = b"getTableNames"
    with _connect(plan.ports["thrift"], wait_s) as connection:
        connection.sendall(
            _THRIFT_CALL + struct.pack(">i", len(name)) + name + struct.pack(">ib", 1, 0)
        )
        answer = _exactly(connection, 4 + 4 + len(name) + 4 + 3)
    kind, field = struct.unpack_from(">bh", answer, 4 + 4 + len(name) + 4)
    if (kind, field) != (_THRIFT_LIST, 0):
        raise _NoAnswer("getTableNames answered with an exception: HBase is not ready")


def _connect(port: int, wait_s: float) -> socket.socket:
    return socket.create_connection((LOOPBACK, port), timeout=wait_s)


def _framed(connection: socket.socket) -> bytes:
    (length,) = struct.unpack(">i", _exactly(connection, 4))
    if not 0 < length <= STACK_ANSWER_BYTES_MAX:
        raise _NoAnswer(f"an answer of {length} bytes: another protocol")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    answer = bytearray()
    while len(answer) < length:
        piece = connection.recv(length - len(answer))
        if not piece:
            raise _NoAnswer("it closed the connection")
        answer += piece
    return bytes(answer)


_PROBES = {
    "redis": _redis,
    "kafka": _kafka,
    "namenode": _namenode,
    "datanode": _datanode,
    "hbase": _hbase,
    "thrift": _thrift,
}
