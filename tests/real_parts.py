"""The real parts in tests: whether they can be had here, and `firecell up` on a whole stack.

Every reason for a skip begins with "needs", and conftest tells all of them in one line.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from ops.stack_run import Stack
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


def stack(folder: Path) -> Stack:
    """A whole stack of a test's own, to be used by `with`."""
    return Stack(folder, ports="free", heaps_mb=HEAPS_MB, cache=CACHE, throwaway=True)


def configuration(stack: Stack, topic: str, cells: dict[str, str], partitions: int = 32) -> str:
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
