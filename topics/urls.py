"""Where the parts are: the URLs of firehose, stores and caches, parsed and checked. Pure.

| URL | means |
| --- | --- |
| `embedded:FOLDER` | a folder on this machine: LMDB for a firehose, RocksDB for a store |
| `kafka://host:9092,host2:9092/topic?replication=3` | a firehose in Kafka |
| `hbase://host:9090/c1?zookeeper=host:2181` | a store in HBase, by its Thrift 1 server |
| `memory:` | a cache in the process |
| `redis://host:6379/0` | a cache in Redis |

Every parser raises BadInput that says what is wrong and what it should look like.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec

from engine.errors import BadInput
from engine.limits import (
    GATEWAY_URL_CHARACTERS_MAX,
    KAFKA_REPLICATION_MAX,
    KAFKA_TOPIC_CHARACTERS_MAX,
    PORT_MAX,
)
from engine.limits_stack import STACK_ZOOKEEPER_PORT

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]")
_TOPIC = re.compile(rf"(?!\.{{1,2}}$)[A-Za-z0-9._-]{{1,{KAFKA_TOPIC_CHARACTERS_MAX}}}")
_TABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_GATEWAY = re.compile(r"http://([\w.-]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?", re.ASCII)
HBASE_COPY = "-copy"  # ends the names of copies of a cell's tables (cells/hbase_copy.py)
_KAFKA = "kafka://host:9092/topic"
_HBASE = "hbase://host:9090/name"
_REDIS = "redis://host:6379/0"
_DATABASES_MAX = 2**14


def is_gateway(url: str) -> bool:
    """Whether `url` is one that a gateway is reached at by others."""
    return len(url) <= GATEWAY_URL_CHARACTERS_MAX and _GATEWAY.fullmatch(url) is not None


class EmbeddedPlace(msgspec.Struct, frozen=True):
    """A folder of this machine."""

    folder: Path


class KafkaPlace(msgspec.Struct, frozen=True):
    """`servers` is host:port, several joined by commas; `replication` of a topic to be made."""

    servers: str
    topic: str
    replication: int


class HBasePlace(msgspec.Struct, frozen=True):
    """The Thrift 1 server; `name` begins the names of the tables; `zookeeper` is host:port;
    `transport` is the Thrift server's, buffered or framed."""

    host: str
    port: int
    name: str
    zookeeper: str
    transport: str = "buffered"

    @property
    def url(self) -> str:
        """All of it in one line."""
        query = f"zookeeper={self.zookeeper}&transport={self.transport}"
        return f"hbase://{self.host}:{self.port}/{self.name}?{query}"


class MemoryPlace(msgspec.Struct, frozen=True):
    """In the process."""


class RedisPlace(msgspec.Struct, frozen=True):
    """`url` as redis-py takes it."""

    url: str


FirehosePlace = EmbeddedPlace | KafkaPlace
StorePlace = EmbeddedPlace | HBasePlace
CachePlace = MemoryPlace | RedisPlace


def parse_firehose(text: str, base: Path) -> FirehosePlace:
    """`embedded:` (relative to `base`) or `kafka://`."""
    if text.startswith("kafka://"):
        return _kafka(_split(text, _KAFKA))
    return _embedded(text, base, f"embedded:FOLDER or {_KAFKA}")


def parse_store(text: str, base: Path) -> StorePlace:
    """`embedded:` (relative to `base`) or `hbase://`."""
    if text.startswith("hbase://"):
        return _hbase(_split(text, _HBASE))
    return _embedded(text, base, f"embedded:FOLDER or {_HBASE}")


def parse_cache(text: str) -> CachePlace:
    """`memory:` or `redis://`."""
    if text == "memory:":
        return MemoryPlace()
    if not text.startswith("redis://"):
        raise BadInput(f"{text!r} is no cache; write memory: or {_REDIS}")
    parts = _split(text, _REDIS)
    database = parts.path.removeprefix("/") or "0"
    if not re.fullmatch(r"\d{1,5}", database) or int(database) >= _DATABASES_MAX or parts.query:
        raise BadInput(f"{text!r}: the database is a number; write {_REDIS}")
    host, port = _server(parts.netloc.rpartition("@")[2], 6379, _REDIS)
    login = parts.netloc.rpartition("@")[0]
    return RedisPlace(f"redis://{login + '@' if login else ''}{host}:{port}/{int(database)}")


def _split(text: str, like: str) -> SplitResult:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise BadInput(f"{text!r}: {error}; write {like}") from None
    if not parts.netloc or parts.fragment or "%" in text:
        raise BadInput(f"{text!r} is no such URL; write {like}")
    return parts


def _embedded(text: str, base: Path, like: str) -> EmbeddedPlace:
    folder = text.removeprefix("embedded:")
    if folder == text or not folder:
        raise BadInput(f"{text!r} is no such URL; write {like}")
    return EmbeddedPlace(base / Path(folder).expanduser())


def _kafka(parts: SplitResult) -> KafkaPlace:
    servers = [_server(one, 9092, _KAFKA) for one in parts.netloc.split(",")]
    topic = parts.path.removeprefix("/")
    if not _TOPIC.fullmatch(topic):
        raise BadInput(
            f"topic {topic!r}: 1 to {KAFKA_TOPIC_CHARACTERS_MAX} of A-Z a-z 0-9 . _ -; write"
            f" {_KAFKA}"
        )
    options = _options(parts, ("replication",), _KAFKA)
    replication = options.get("replication", "1")
    if not re.fullmatch(r"\d", replication) or not 1 <= int(replication) <= KAFKA_REPLICATION_MAX:
        raise BadInput(f"replication={replication}: a number from 1 to {KAFKA_REPLICATION_MAX}")
    return KafkaPlace(",".join(f"{host}:{port}" for host, port in servers), topic, int(replication))


def _hbase(parts: SplitResult) -> HBasePlace:
    host, port = _server(parts.netloc, 9090, _HBASE)
    name = parts.path.removeprefix("/")
    if not _TABLE.fullmatch(name):
        raise BadInput(f"name {name!r}: 1 to 64 of A-Z a-z 0-9 _ . -; write {_HBASE}")
    if f"{HBASE_COPY}." in f"{name}.":
        raise BadInput(f"name {name!r}: names with {HBASE_COPY} are kept for verify's copies")
    options = _options(parts, ("zookeeper", "transport"), _HBASE)
    given = options.get("zookeeper", host)
    keeper, keeper_port = _server(given, STACK_ZOOKEEPER_PORT, _HBASE + "?zookeeper=host:2181")
    transport = options.get("transport", "buffered")
    if transport not in ("buffered", "framed"):
        raise BadInput(f"transport={transport}: buffered or framed, as the Thrift server has it")
    return HBasePlace(host, port, name, f"{keeper}:{keeper_port}", transport)


def _server(text: str, port: int, like: str) -> tuple[str, int]:
    """(host, port) of `host` or `host:port`; brackets around an IPv6 address stay."""
    host, colon, number = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, number = text, str(port)
    valid = _HOST.fullmatch(host) and re.fullmatch(r"\d{1,5}", number)
    if not valid or not 1 <= int(number) <= PORT_MAX:
        raise BadInput(f"{text!r} is no host:port; write {like}")
    return host, int(number)


def _options(parts: SplitResult, known: tuple[str, ...], like: str) -> dict[str, str]:
    try:
        given = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        raise BadInput(f"?{parts.query}: no name=value; write {like}") from None
    for name, values in given.items():
        if name not in known or len(values) > 1:
            raise BadInput(f"?{name}=: known are {', '.join(known)}, once each; write {like}")
    return {name: values[0] for name, values in given.items()}
