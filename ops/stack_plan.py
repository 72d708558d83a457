"""What a local real stack is: its servers, ports, heaps and folders. No process is touched here.

A `Plan` is a value: made from what a person asked for, kept in `<folder>/stack.json` so that the
next `up` finds the same ports and the same kind of file system. Any thread.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine import limits, limits_stack
from engine.errors import BadInput, Misconfigured, Precondition
from topics.locks import write_durably

LOOPBACK = "127.0.0.1"
SERVERS = ("redis", "kafka", "namenode", "datanode", "hbase", "thrift")  # in the order of starting
STOP_ORDER = (("thrift", "kafka", "redis"), ("hbase",), ("datanode",), ("namenode",))
NEEDS = {"datanode": "namenode", "thrift": "hbase"}
PORTS: dict[str, dict[str, int]] = {  # server -> port name -> default
    "kafka": {
        "kafka": limits_stack.STACK_KAFKA_PORT,
        "kafka_controller": limits_stack.STACK_KAFKA_CONTROLLER_PORT,
    },
    "thrift": {"thrift": limits_stack.STACK_THRIFT_PORT},
    "redis": {"redis": limits_stack.STACK_REDIS_PORT},
    "hbase": {
        "zookeeper": limits_stack.STACK_ZOOKEEPER_PORT,
        "hbase_master": limits_stack.STACK_MASTER_PORT,
        "hbase_regionserver": limits_stack.STACK_REGIONSERVER_PORT,
    },
    "namenode": {
        "namenode": limits_stack.STACK_NAMENODE_PORT,
        "namenode_http": limits_stack.STACK_NAMENODE_HTTP_PORT,
    },
    "datanode": {
        "datanode": limits_stack.STACK_DATANODE_PORT,
        "datanode_http": limits_stack.STACK_DATANODE_HTTP_PORT,
        "datanode_ipc": limits_stack.STACK_DATANODE_IPC_PORT,
    },
}
HEAPS_MB = {
    "redis": limits_stack.STACK_REDIS_MEMORY_MB,
    "kafka": limits_stack.STACK_KAFKA_HEAP_MB,
    "namenode": limits_stack.STACK_HDFS_HEAP_MB,
    "datanode": limits_stack.STACK_HDFS_HEAP_MB,
    "hbase": limits_stack.STACK_HBASE_HEAP_MB,
    "thrift": limits_stack.STACK_THRIFT_HEAP_MB,
}
HDFS = frozenset({"namenode", "datanode"})
_KEPT = "stack.json"

Ports = Literal["default", "free"] | int | Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """One stack. `heaps_mb`: of Redis its memory for data, of the others -Xmx."""

    folder: Path
    cache: Path
    servers: tuple[str, ...]
    ports: dict[str, int]
    heaps_mb: dict[str, int]
    light: bool

    @property
    def urls(self) -> dict[str, str]:
        """Where clients find the parts that this stack has: kafka, hbase, redis."""
        found = {}
        if "kafka" in self.servers:
            found["kafka"] = f"kafka://{LOOPBACK}:{self.ports['kafka']}"
        if "thrift" in self.servers:
            zookeeper = f"{LOOPBACK}:{self.ports['zookeeper']}"
            found["hbase"] = f"hbase://{LOOPBACK}:{self.ports['thrift']}?zookeeper={zookeeper}"
        if "redis" in self.servers:
            found["redis"] = f"redis://{LOOPBACK}:{self.ports['redis']}/0"
        return found

    def logs(self) -> Path:
        """The folder of the servers' logs."""
        return self.folder / "logs"

    def data(self, server: str) -> Path:
        """The folder of one server's data."""
        return self.folder / "data" / server

    def conf(self) -> Path:
        """The folder of configuration files, written anew by every `up`."""
        return self.folder / "conf"

    def keep(self) -> None:
        """Write `stack.json`."""
        document = {
            "servers": self.servers,
            "ports": self.ports,
            "heaps_mb": self.heaps_mb,
            "light": self.light,
            "cache": str(self.cache),
        }
        write_durably(self.folder / _KEPT, json.dumps(document, indent=1).encode() + b"\n")


def make_plan(
    folder: Path,
    *,
    cache: Path | None = None,
    ports: Ports | None = None,
    heaps_mb: Mapping[str, int] | None = None,
    light: bool | None = None,
    servers: Collection[str] | None = None,
) -> Plan:
    """What was asked for; None: as it was kept in the folder, else the defaults.

    folder   of this stack: data, logs, configuration, process files
    cache    of the downloaded jars; default `<the data folder's parent>/.cache/stack`, where the
             data folder is the parent of `folder`
    ports    "default", "free" (sought now), a base (consecutive from there), or by name
    servers  a part of SERVERS; what they need comes along

    BadInput names what is malformed; Precondition: the folder's data are of the other kind of file
    system, or no free ports were found.
    """
    folder = folder.absolute()
    kept = read_plan(folder)
    names = _servers(servers, light, kept)
    is_light = light if light is not None else (kept.light if kept else False)
    if kept is not None and kept.light != is_light and _has_tables(kept):
        on = "the local file system" if kept.light else "HDFS"
        raise Precondition(
            f"HBase's data in {folder} are on {on}: start it as it was, or take another --folder"
        )
    if cache is None:
        cache = kept.cache if kept else folder.parent.parent / ".cache" / "stack"
    heaps = {**HEAPS_MB, **(kept.heaps_mb if kept else {}), **(heaps_mb or {})}
    for name, megabytes in heaps.items():
        if name not in SERVERS:
            raise BadInput(f"no server {name!r}; there are: {', '.join(SERVERS)}", "heap")
        if not limits_stack.STACK_HEAP_MB_MIN <= megabytes <= limits_stack.STACK_HEAP_MB_MAX:
            low, high = limits_stack.STACK_HEAP_MB_MIN, limits_stack.STACK_HEAP_MB_MAX
            raise BadInput(f"heap of {name}: {megabytes} MB is outside {low}..{high}", "heap")
    return Plan(
        folder=folder,
        cache=cache.absolute(),
        servers=names,
        ports=_ports(ports, names, kept),
        heaps_mb=heaps,
        light=is_light,
    )


def read_plan(folder: Path) -> Plan | None:
    """The plan that `up` kept in this folder, or None. Misconfigured when it can't be read."""
    path = folder.absolute() / _KEPT
    try:
        document = json.loads(path.read_text())
        return Plan(
            folder=folder.absolute(),
            cache=Path(document["cache"]),
            servers=tuple(str(name) for name in document["servers"]),
            ports={str(k): int(v) for k, v in document["ports"].items()},
            heaps_mb={str(k): int(v) for k, v in document["heaps_mb"].items()},
            light=bool(document["light"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Misconfigured(
            f"{path} is not what `stack up` wrote ({error!r}): remove it when no stack runs there"
        ) from None


def _has_tables(kept: Plan) -> bool:
    places = (kept.data("hbase_root"), kept.data("namenode") / "current")
    return any(place.exists() for place in places)


def _servers(
    wanted: Collection[str] | None, light: bool | None, kept: Plan | None
) -> tuple[str, ...]:
    if wanted is None:
        names = set(kept.servers) if kept and light in (None, kept.light) else set(SERVERS)
    else:
        names = set(wanted)
    for name in names:
        if name not in SERVERS:
            raise BadInput(f"no server {name!r}; there are: {', '.join(SERVERS)}", "only")
    is_light = light if light is not None else (kept.light if kept else False)
    for name, needed in NEEDS.items():
        if name in names:
            names.add(needed)
    names = names - HDFS if is_light else names | (HDFS if "hbase" in names else set())
    if not names:
        raise BadInput("a stack without servers: name at least one", "only")
    return tuple(name for name in SERVERS if name in names)


def _ports(asked: Ports | None, servers: tuple[str, ...], kept: Plan | None) -> dict[str, int]:
    needed = {name: number for one in servers for name, number in PORTS[one].items()}
    if asked is None:
        asked = kept.ports if kept else "default"
    if asked == "free":
        before = kept.ports if kept else {}
        missing = [name for name in needed if name not in before]
        fresh = dict(zip(missing, free_ports(len(missing)), strict=True))
        chosen = {name: before.get(name, fresh.get(name, 0)) for name in needed}
    elif asked == "default":
        chosen = needed
    elif isinstance(asked, int):
        chosen = {name: asked + index for index, name in enumerate(needed)}
    else:
        unknown = set(asked) - {name for ports in PORTS.values() for name in ports}
        if unknown:
            raise BadInput(f"no port {min(unknown)!r}; there are: {', '.join(needed)}", "port")
        chosen = {name: asked.get(name, number) for name, number in needed.items()}
    for name, number in chosen.items():
        if not limits_stack.STACK_PORT_MIN <= number <= limits.PORT_MAX:
            low, high = limits_stack.STACK_PORT_MIN, limits.PORT_MAX
            raise BadInput(f"port of {name}: {number} is outside {low}..{high}", "port")
    if len(set(chosen.values())) < len(chosen):
        raise BadInput(f"two servers on one port: {chosen}", "port")
    return chosen


def free_ports(count: int) -> list[int]:
    """`count` loopback ports that nobody listens on, below those that the kernel hands out to
    outgoing connections: such a connection could take one before the server does."""
    with contextlib.ExitStack() as held:
        return [number for number, _ in zip(_free_ports(held), range(count), strict=False)]


def _free_ports(held: contextlib.ExitStack) -> Iterator[int]:
    generator = random.SystemRandom()
    lowest, highest = limits_stack.STACK_FREE_PORT_MIN, limits_stack.STACK_FREE_PORT_MAX
    for _ in range(limits_stack.STACK_FREE_PORT_TRIES_MAX):
        number = generator.randint(lowest, highest)
        probe = held.enter_context(socket.socket())
        try:
            probe.bind((LOOPBACK, number))
        except OSError:
            continue
        yield number
    raise Precondition(f"no free ports between {lowest} and {highest}")


def taken_ports(plan: Plan, servers: Collection[str]) -> list[tuple[str, int]]:
    """(name, port) of those that somebody else listens on."""
    found = []
    for server in servers:
        for name in PORTS[server]:
            with socket.socket() as probe:
                # What a connection left in TIME_WAIT doesn't count; a listener does.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, plan.ports[name]))
                    probe.listen(1)
                except OSError:
                    found.append((name, plan.ports[name]))
    return found
