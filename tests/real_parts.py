"""The real parts in tests: whether they can be had here, and `firecell up` on all of them.

| asked for | what it is | who may stop or kill it |
| --- | --- | --- |
| `shared()` | the run's Kafka (kafka_broker), HBase (hbase_backend) and a Redis | nobody |
| `rough()` | one whole stack of the run | every test, which leaves it running |

Both start when the first test asks and end with the run; tests take topics and tables with names of
their own. Every reason for a skip begins with "needs", and conftest tells all of them in one line.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ops.stack_run import Stack
from tests import hbase_backend, kafka_broker
from tests.conftest import ROOT

CACHE = Path(os.environ.get("FIRECELL_STACK_CACHE") or ROOT / ".cache" / "stack")
HEAPS_MB = {"kafka": 512, "namenode": 256, "datanode": 256, "hbase": 768, "thrift": 256}
_CLIENTS = ("confluent_kafka", "faust", "cramjam", "happybase", "redis")
_PROGRAMS = ("java", "mvn", "redis-server")


def missing() -> str:
    """Why the whole stack can't be had here, as the reason of a skip; empty when it can."""
    clients = [name for name in _CLIENTS if importlib.util.find_spec(name) is None]
    programs = [name for name in _PROGRAMS if shutil.which(name) is None]
    if not clients and not programs:
        return ""
    return f"needs Kafka, HBase and Redis: {', '.join(programs + clients)} not installed here"


class Addressed(Protocol):
    """What is needed of a stack, or of what is put together from several."""

    @property
    def urls(self) -> dict[str, str]:
        """kafka, hbase, redis."""

    @property
    def ports(self) -> dict[str, int]:
        """kafka, thrift, redis and perhaps others."""

    @property
    def helper(self) -> Path:
        """The argument file of the Java helper."""

    def hbase_url(self, cell: str) -> str:
        """The store of one cell."""

    def firehose_url(self, topic: str = "firehose") -> str:
        """A firehose."""


@dataclass(frozen=True)
class Parts:
    """Kafka, HBase and Redis from anywhere, as `ops.stack_run.Stack` names them."""

    urls: dict[str, str]
    ports: dict[str, int]
    helper: Path

    def hbase_url(self, cell: str) -> str:
        return self.urls["hbase"].replace("?", f"/{cell}?", 1)

    def firehose_url(self, topic: str = "firehose") -> str:
        return f"{self.urls['kafka']}/{topic}"


@functools.cache
def shared() -> Parts:
    """For tests that leave the parts alone."""
    kafka, hbase = kafka_broker.servers(), hbase_backend.backend()
    redis = _started(Stack(_folder(), ports="free", servers=("redis",), cache=CACHE))
    ports = {
        "kafka": int(kafka.rpartition(":")[2]),
        "thrift": int(hbase.base.partition("?")[0].rpartition(":")[2]),
        "redis": redis.ports["redis"],
    }
    urls = {"kafka": f"kafka://{kafka}", "hbase": hbase.base, "redis": redis.urls["redis"]}
    return Parts(urls, ports, Path(hbase.helper[-1].removeprefix("@")))


@functools.cache
def rough() -> Stack:
    """For tests that stop and kill the parts."""
    return _started(Stack(_folder(), ports="free", heaps_mb=HEAPS_MB, cache=CACHE))


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="firecell-real-")) / "data" / "stack"


def _started(stack: Stack) -> Stack:
    def end() -> None:
        stack.down(0)  # nobody needs the data
        shutil.rmtree(stack.folder.parent.parent, ignore_errors=True)

    atexit.register(end)
    return stack.up(tied=True)


def configuration(stack: Addressed, topic: str, cells: dict[str, str], partitions: int = 32) -> str:
    """A firecell.toml: firehose `topic`, and per cell the name of its tables."""
    lines = [
        "[firehose]",
        f'url = "{stack.firehose_url(topic)}"',
        f"partitions = {partitions}",
        "[hbase]",
        f'helper = "{stack.helper}"',
    ]
    for name, tables in cells.items():
        lines += [f"[cells.{name}]", f'store = "{stack.hbase_url(tables)}"']
        lines += [f'cache = "{stack.urls["redis"]}"']
    return "\n".join(lines) + "\n"
