"""A whole real stack: Kafka, HBase on HDFS, Thrift, Redis, and the Java helper. What its parts keep
when they are killed, tests/chaos/test_real_faults_restart.py looks at.

Skipped in one line where Java, Maven or redis-server is missing. The first run downloads the jars
into the project's `.cache/stack`.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import Precondition
from ops.stack_plan import SERVERS
from ops.stack_run import Stack
from tests import real_parts

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(bool(real_parts.missing()), reason=real_parts.missing()),
]
OPENS_S = 90.0  # HBase opens one region after the other


@pytest.fixture(scope="module")
def stack() -> Stack:
    return real_parts.rough()


class Helper:
    """The Java helper as a cell runs it."""

    def __init__(self, stack: Stack) -> None:
        self.process = subprocess.Popen(
            ["java", f"@{stack.helper}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.first = self.output.readline().decode().strip()

    def ask(self, *words: str, after: bytes = b"") -> str:
        """One command, what follows it, and its answer without the line's end."""
        self.input.write("\t".join(words).encode() + b"\n" + after)
        self.input.flush()
        return self.output.readline().decode().rstrip("\n")

    def close(self) -> int:
        """End it as its owner's end would."""
        self.input.close()
        code = self.process.wait(30)
        self.output.close()
        return code


@pytest.fixture
def helper(stack: Stack) -> Iterator[Helper]:
    running = Helper(stack)
    yield running
    assert running.close() == 0


class Thrift:
    """As much of HBase's Thrift 1 as a test needs: one put, one row; asked again while HBase opens
    its regions, which it does after Thrift answers."""

    def __init__(self, stack: Stack) -> None:
        self.connection = socket.create_connection(("127.0.0.1", stack.ports["thrift"]), 60)

    def call(self, name: str, arguments: bytes) -> bytes:
        """The answer's result."""
        head = struct.pack(">Ii", 0x80010001, len(name)) + name.encode() + struct.pack(">i", 0)
        deadline = time.monotonic() + OPENS_S
        while True:
            self.connection.sendall(head + arguments + b"\0")
            answer = self.connection.recv(65_536)
            result = answer[len(head) :]
            if result[:1] == b"\0" or result[1:3] == b"\0\0":  # void, or the field of success
                return result
            assert time.monotonic() < deadline, answer
            time.sleep(0.2)

    def put(self, table: str, row: bytes) -> None:
        """mutateRow(table, row, [Mutation(column="f:", value="")], {})."""
        mutation = _string(2, b"f:") + _string(3, b"") + b"\0"
        listed = struct.pack(">bhbi", 15, 3, 12, 1) + mutation
        none = struct.pack(">bhbbi", 13, 4, 11, 11, 0)
        arguments = _string(1, table.encode()) + _string(2, row) + listed + none
        self.call("mutateRow", arguments)

    def has(self, table: str, row: bytes) -> bool:
        """getRow(table, row, {}) gives one."""
        none = struct.pack(">bhbbi", 13, 3, 11, 11, 0)
        answer = self.call("getRow", _string(1, table.encode()) + _string(2, row) + none)
        return row in answer


def _string(field: int, value: bytes) -> bytes:
    return struct.pack(">bhi", 11, field, len(value)) + value


def test_all_answer_and_a_second_up_is_refused(stack: Stack) -> None:
    conditions = stack.status()
    assert [(one.name, one.state, one.problem) for one in conditions] == [
        (name, "ready", "") for name in SERVERS
    ]
    assert all(one.pid and one.resident_mb > 1 for one in conditions)
    with pytest.raises(Precondition, match="runs already"):
        stack.up()


def test_nothing_listens_beyond_loopback(stack: Stack) -> None:
    pids = {one.pid for one in stack.status()}
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink()) if descriptor.is_symlink() else ""
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    listening = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                listening += 1
                assert fields[1].partition(":")[0].endswith("0100007F"), line
    assert listening >= len(stack.ports)


def test_the_helper_makes_tables_as_asked(stack: Stack, helper: Helper) -> None:
    assert helper.first == "ready"
    for _ in range(2):
        assert helper.ask("create", "a_inbox", "1", "FAST_DIFF", "NONE", "40,80,c0") == "ok"
    assert helper.ask("create", "a_posts", "3", "NONE", "ROW", "") == "ok"
    assert helper.ask("describe", "a_inbox") == "ok\t1\tFAST_DIFF\tNONE\t40,80,c0"
    assert helper.ask("describe", "a_posts") == "ok\t3\tNONE\tROW\t"
    assert helper.ask("tables", "a_") == "ok\ta_inbox,a_posts"
    assert helper.ask("describe", "a_none").startswith("error\t")
    assert helper.ask("nonsense").startswith("error\t")
    assert helper.ask("drop", "a_inbox") == helper.ask("drop", "a_inbox") == "ok"
    assert helper.ask("tables", "a_") == "ok\ta_posts"
    assert helper.ask("create", "a_one", "1", "NONE", "ROW", "") == "ok"
    assert helper.ask("drop", "a_one", "&", "drop", "a_posts") == "ok"
    assert helper.ask("drop", "a_none", "&", "nonsense").startswith("error\t")
    assert helper.ask("tables", "a_") == "ok", "a line that failed leaves it in step"


def test_a_load_that_fails_leaves_the_helper_in_step(stack: Stack, helper: Helper) -> None:
    assert helper.ask("create", "l_inbox", "1", "FAST_DIFF", "NONE", "") == "ok"
    frames = struct.pack(">i", 5) + b"hello" + struct.pack(">i", 2) + b"!!" + struct.pack(">i", 0)
    for table in ("l_inbox", "l_none"):
        staged, _, folder = helper.ask("stage", "2", after=frames * 2).partition("\t")
        assert staged == "ok"
        assert helper.ask("adopt", table, folder).startswith("error\t")
    assert helper.ask("tables", "l_") == "ok\tl_inbox"


def test_a_snapshot_brings_a_row_back(stack: Stack, helper: Helper) -> None:
    thrift = Thrift(stack)
    assert helper.ask("create", "s_posts", "1", "NONE", "ROW", "") == "ok"
    thrift.put("s_posts", b"before")
    for _ in range(2):
        assert helper.ask("snapshot", "s1", "s_posts") == "ok"
    thrift.put("s_posts", b"afterwards")
    assert helper.ask("snapshots") == "ok\ts1=s_posts"
    assert helper.ask("restore", "s1", "s_posts", "aside") == "ok"
    assert thrift.has("s_posts", b"before")
    assert not thrift.has("s_posts", b"afterwards")
    assert helper.ask("restore", "s0", "s_posts").startswith("error\t")
    assert helper.ask("clone", "aside", "s_aside") == "ok"
    assert thrift.has("s_aside", b"afterwards"), "what was replaced is kept"
    assert helper.ask("drop", "s_aside") == "ok"
    assert helper.ask("restore", "s1", "s_posts", "aside") == "ok"
    assert helper.ask("clone", "aside", "s_aside") == "ok"
    assert thrift.has("s_aside", b"afterwards"), "done again, it keeps what was there at first"
    assert helper.ask("forget", "s1", "&", "forget", "aside") == "ok"
    assert helper.ask("forget", "s1") == helper.ask("snapshots") == "ok"
    thrift.connection.close()


def test_down_up_keeps_data_and_ports(stack: Stack, helper: Helper) -> None:
    assert helper.ask("create", "u_inbox", "1", "FAST_DIFF", "NONE", "80") == "ok"
    thrift = Thrift(stack)
    thrift.put("u_inbox", b"a row")
    thrift.connection.close()
    before = stack.ports
    assert stack.down() == []  # none had to be killed
    assert {one.state for one in stack.status()} == {"stopped"}
    again = Stack.existing(stack.folder)
    assert again.ports == before
    again.up(tied=True)
    thrift = Thrift(stack)
    assert thrift.has("u_inbox", b"a row")
    thrift.connection.close()
