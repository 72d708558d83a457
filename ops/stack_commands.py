"""The command line of every server of the stack, of their formatting, and of the Java helper.

Values only; `ops/stack_processes.py` starts them.
"""

from __future__ import annotations

from pathlib import Path

from engine.limits_stack import STACK_HELPER_HEAP_MB
from ops.stack_jars import HBASE_PART, KAFKA_PART, java, libraries, redis_server
from ops.stack_plan import LOOPBACK, Plan

# JDK 17 keeps its inside closed; Hadoop and HBase reach into it.
_OPENS = ("lang", "lang.reflect", "io", "nio", "util", "util.concurrent")
_JVM = (
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENS),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "-XX:+ExitOnOutOfMemoryError",  # half dead is worse than dead
    "-XX:+PerfDisableSharedMem",
    "-Djava.net.preferIPv4Stack=true",
)
_HBASE = "org.apache.hadoop.hbase"
_HDFS = "org.apache.hadoop.hdfs.server"
HELPER = Path(__file__).resolve().parent / "hbase" / "Tables.java"


def server_command(plan: Plan, server: str) -> tuple[str, ...]:
    """What runs one server in the foreground. Precondition: java or redis-server is missing."""
    match server:
        case "redis":
            return (redis_server(), str(plan.conf() / "redis" / "redis.conf"))
        case "kafka":
            return (*_kafka(plan, plan.heaps_mb["kafka"]), "kafka.Kafka", _kafka_file(plan))
        case "namenode":
            return _hadoop(plan, "namenode", f"{_HDFS}.namenode.NameNode")
        case "datanode":
            return _hadoop(plan, "datanode", f"{_HDFS}.datanode.DataNode")
        case "hbase":
            return _hadoop(plan, "hbase", f"{_HBASE}.master.HMaster", "start")
        case _:
            port = str(plan.ports["thrift"])
            arguments = ("-p", port, "-b", LOOPBACK, "start")
            return _hadoop(plan, "thrift", f"{_HBASE}.thrift.ThriftServer", *arguments)


def format_command(plan: Plan, server: str, identity: str) -> tuple[str, ...] | None:
    """What prepares a server's empty folder; None when there is nothing to do (any more).

    identity   of the new Kafka cluster: 22 characters of base64
    """
    if server == "kafka" and not (plan.data("kafka") / "meta.properties").exists():
        arguments = ("format", "-t", identity, "-c", _kafka_file(plan))
        return (*_kafka(plan, STACK_HELPER_HEAP_MB), "kafka.tools.StorageTool", *arguments)
    if server == "namenode" and not (plan.data("namenode") / "current" / "VERSION").exists():
        main = f"{_HDFS}.namenode.NameNode"
        return _hadoop(plan, "namenode", main, "-format", "-force", "-nonInteractive")
    return None


def hbase_command(plan: Plan, main: str, *arguments: str, heap_mb: int) -> tuple[str, ...]:
    """A program of HBase's jars with this stack's configuration, such as PerformanceEvaluation."""
    return (*_java(plan, "hbase", heap_mb, "tool"), main, *arguments)


def helper_arguments(plan: Plan) -> str:
    """The text of a java @argument file that runs the helper against this stack's HBase."""
    words = _java(plan, "hbase", STACK_HELPER_HEAP_MB, "helper")[1:]
    quick = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # a small, patient process
    quoted = [_quoted(word) for word in (*quick, *words, str(HELPER))]
    return "\n".join(quoted) + "\n"


def _quoted(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _kafka_file(plan: Plan) -> str:
    return str(plan.conf() / "kafka" / "server.properties")


def _kafka(plan: Plan, heap_mb: int) -> tuple[str, ...]:
    diary = plan.conf() / "kafka" / "log4j2.properties"
    classes = f"{libraries(plan.cache, KAFKA_PART)}/*"
    options = (f"-Xmx{heap_mb}m", *_JVM, _temporary(plan), f"-Dlog4j2.configurationFile={diary}")
    return (java(), *options, "-cp", classes)


def _hadoop(plan: Plan, server: str, main: str, *arguments: str) -> tuple[str, ...]:
    kind = "hadoop" if server in ("namenode", "datanode") else "hbase"
    return (*_java(plan, kind, plan.heaps_mb[server], server), main, *arguments)


def _java(plan: Plan, kind: str, heap_mb: int, name: str) -> tuple[str, ...]:
    classes = f"{plan.conf() / kind}:{libraries(plan.cache, HBASE_PART)}/*"  # ours come first
    options = (f"-Xmx{heap_mb}m", *_JVM, _temporary(plan), f"-Dstack.server={name}")
    return (java(), *options, "-cp", classes)


def _temporary(plan: Plan) -> str:
    return f"-Djava.io.tmpdir={plan.folder / 'tmp'}"
