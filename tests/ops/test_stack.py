"""The local real stack before it runs: plans, ports, poms, configuration, probes."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from engine.errors import BadInput, Misconfigured, NotFound, Precondition, Unavailable
from engine.limits_stack import STACK_FREE_PORT_MAX, STACK_FREE_PORT_MIN
from ops import stack_commands, stack_config, stack_jars, stack_probe, stack_processes
from ops.stack_plan import PORTS, SERVERS, STOP_ORDER, free_ports, make_plan, read_plan
from ops.stack_run import Stack

# --- plans ---


def test_a_plan_is_kept_and_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "stack"
    plan = make_plan(folder, ports="free", heaps_mb={"hbase": 2048})
    assert plan.servers == SERVERS
    assert plan.cache == tmp_path / ".cache" / "stack"
    assert plan.heaps_mb["hbase"] == 2048
    folder.mkdir(parents=True)
    plan.keep()
    assert make_plan(folder) == plan == read_plan(folder)
    assert make_plan(folder, ports="free").ports == plan.ports
    assert make_plan(folder, ports={"kafka": 19092}).ports["redis"] == 6379


def test_what_a_server_needs_comes_along(tmp_path: Path) -> None:
    wanted = {("kafka",): ("kafka",), ("thrift",): SERVERS[2:], ("redis", "hbase"): (
        "redis", "namenode", "datanode", "hbase")}  # fmt: skip
    for given, servers in wanted.items():
        assert make_plan(tmp_path, servers=given).servers == servers
    light = make_plan(tmp_path, light=True)
    assert light.servers == ("redis", "kafka", "hbase", "thrift")
    assert set(light.ports) == {name for one in light.servers for name in PORTS[one]}
    assert sorted(name for names in STOP_ORDER for name in names) == sorted(SERVERS)


def test_urls_name_what_there_is(tmp_path: Path) -> None:
    stack = Stack(tmp_path, ports=20_000)
    ports = stack.ports
    assert sorted(ports.values()) == list(range(20_000, 20_000 + len(ports)))
    assert stack.firehose_url() == f"kafka://127.0.0.1:{ports['kafka']}/firehose"
    at = f"127.0.0.1:{ports['thrift']}/c1?zookeeper=127.0.0.1:{ports['zookeeper']}"
    assert stack.hbase_url("c1") == f"hbase://{at}"
    assert list(Stack(tmp_path, servers=("redis",)).urls) == ["redis"]


@pytest.mark.parametrize(
    "asked",
    [
        {"servers": ("mysql",)},
        {"servers": ()},
        {"ports": 80},
        {"ports": 65_530},
        {"ports": {"kafka": 9000, "redis": 9000}},
        {"ports": {"mysql": 3306}},
        {"heaps_mb": {"hbase": 1}},
        {"heaps_mb": {"mysql": 512}},
    ],
)
def test_malformed_wishes_are_refused(tmp_path: Path, asked: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        make_plan(tmp_path, **asked)  # type: ignore[arg-type]


def test_the_kind_of_file_system_stays_once_there_are_tables(tmp_path: Path) -> None:
    make_plan(tmp_path, light=True).keep()
    assert make_plan(tmp_path, light=False).light is False
    make_plan(tmp_path, light=True).data("hbase_root").mkdir(parents=True)
    with pytest.raises(Precondition, match="local file system"):
        make_plan(tmp_path, light=False)
    assert make_plan(tmp_path).light is True


def test_a_broken_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text('{"servers": 5}')
    with pytest.raises(Misconfigured, match=r"stack\.json"):
        read_plan(tmp_path)
    with pytest.raises(NotFound, match="stack up"):
        Stack.existing(tmp_path / "else")


def test_free_ports_are_below_those_of_outgoing_connections() -> None:
    ports = free_ports(30)
    assert len(set(ports)) == 30
    assert STACK_FREE_PORT_MIN <= min(ports) <= max(ports) <= STACK_FREE_PORT_MAX


# --- jars and configuration ---


def test_the_poms_are_sound_and_name_the_versions() -> None:
    for part in stack_jars.PARTS:
        text = stack_jars.pom(part)
        ElementTree.fromstring(text)
        assert part.split("-")[1] in text
    assert "2.6.1-hadoop3" in stack_jars.pom(stack_jars.HBASE_PART)


def test_a_download_is_made_once_and_anew_when_it_was_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maven = tmp_path / "bin" / "mvn"
    maven.parent.mkdir()
    maven.write_text(
        '#!/bin/sh\nfor a in "$@"; do case $a in -DoutputDirectory=*) d=${a#*=};; esac; done\n'
        f'[ -e {tmp_path}/broken ] && {{ echo "[ERROR] no route"; exit 1; }}\n'
        f'mkdir -p "$d" && touch "$d/a.jar" && echo x >> {tmp_path}/runs\n'
    )
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{maven.parent}{os.pathsep}{os.environ['PATH']}")
    said: list[str] = []
    cache = tmp_path / "cache"
    (tmp_path / "broken").touch()
    with pytest.raises(Unavailable, match="no route"):
        stack_jars.fetch(cache, stack_jars.KAFKA_PART, said.append)
    (tmp_path / "broken").unlink()
    for _ in range(2):
        folder = stack_jars.fetch(cache, stack_jars.KAFKA_PART, said.append)
    assert [path.name for path in folder.iterdir()] == ["a.jar"]
    assert (tmp_path / "runs").read_text() == "x\n"
    assert "1 jars" in said[-1]


def test_what_is_missing_is_said_as_a_line_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for servers, package in ((("kafka",), "openjdk-17-jdk-headless"), (("redis",), "redis-server")):
        with pytest.raises(Precondition, match=f"sudo apt-get install {package}"):
            Stack(tmp_path / "stack", servers=servers, ports="free").up()
    with pytest.raises(Precondition, match="sudo apt-get install maven"):
        stack_jars.fetch(tmp_path, stack_jars.KAFKA_PART, str)
    assert stack_processes.all_living(tmp_path / "stack") == []


def test_everything_listens_on_loopback_only(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "a folder", ports="free")
    stack_config.write_configuration(plan)
    texts = {path: path.read_text() for path in plan.conf().rglob("*") if path.is_file()}
    assert len(texts) >= 8
    for path, text in texts.items():
        assert "0.0.0.0" not in text, path
        if path.suffix == ".xml":
            ElementTree.fromstring(text)
    together = "\n".join(texts.values())
    for name, number in plan.ports.items():
        if name != "thrift":  # it takes its port and address as arguments
            assert str(number) in together, name
    assert f"-p {plan.ports['thrift']} -b 127.0.0.1" in " ".join(
        stack_commands.server_command(plan, "thrift")
    )


def test_light_means_no_hdfs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, ports="free", light=True)
    stack_config.write_configuration(plan)
    site = (plan.conf() / "hbase" / "hbase-site.xml").read_text()
    assert f"file://{tmp_path}" in site
    assert "hdfs://" not in site
    assert "<name>hbase.wal.provider</name><value>filesystem" in site


# --- probes ---


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that treats each connection as told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def kafka_answer(brokers: int, controller: int) -> bytes:
    one = struct.pack(">ih", 1, 9) + b"127.0.0.1" + struct.pack(">ih", 9092, -1)
    body = struct.pack(">ii", 7, brokers) + one * brokers + struct.pack(">ii", controller, 0)
    return struct.pack(">i", len(body)) + body


def thrift_answer(kind: int, field: int) -> bytes:
    name = b"getTableNames"
    head = struct.pack(">Ii", 0x80010002, len(name)) + name + struct.pack(">i", 1)
    return head + struct.pack(">bhbi", kind, field, 11, 0) + b"\0"


@pytest.mark.parametrize(
    ("server", "answer", "problem"),
    [
        ("redis", b"+PONG\r\n", ""),
        ("redis", b"-NOAUTH\r\n", "NOAUTH"),
        ("kafka", kafka_answer(1, 1), ""),
        ("kafka", kafka_answer(0, -1), "0 brokers"),
        ("kafka", kafka_answer(1, -1), "no controller"),
        ("kafka", b"HTTP/1.1 400 Bad Request\r\n\r\n", "another protocol"),
        ("kafka", b"\0\0", "closed"),
        ("thrift", thrift_answer(15, 0), ""),
        ("thrift", thrift_answer(12, 1), "not ready"),
        ("thrift", b"", "closed"),
    ],
)
def test_a_probe_looks_at_the_answer(
    tmp_path: Path, server: str, answer: bytes, problem: str
) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)

    with answering(reply) as port:
        plan = make_plan(tmp_path, servers=(server,), ports={server: port})
        found = stack_probe.probe(plan, server)
    assert (problem in found) if problem else not found


def test_a_probe_of_nobody_and_of_a_silent_server(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    plan = make_plan(tmp_path, servers=("redis",), ports={"redis": port})
    assert "refused" in stack_probe.probe(plan, "redis")
    with socket.create_server(("127.0.0.1", port)):
        assert "no answer within 0.1 s" in stack_probe.probe(plan, "redis", 0.1)
