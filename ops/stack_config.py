"""The configuration files of the stack's servers, written anew by every `up`.

Each text says why it differs from the server's own default; the recipe was booted and measured.
Nothing here listens on anything but loopback. One process writes them (the stack's lock is held).
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

from engine import limits, limits_stack
from ops.stack_plan import LOOPBACK, Plan

_KAFKA_LOG = """\
status = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {folder}/kafka.log
appender.file.filePattern = {folder}/kafka.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %c{{1}} %m%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = {megabytes}MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 2
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
"""
# Without it on the class path the servers say nothing. `stack.server` comes with the command line.
_HADOOP_LOG = """\
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.RollingFileAppender
log4j.appender.file.File={folder}/${{stack.server}}.log
log4j.appender.file.MaxFileSize={megabytes}MB
log4j.appender.file.MaxBackupIndex=2
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=%d %p [%t] %c{{1}}: %m%n
log4j.logger.org.apache.zookeeper=WARN
log4j.logger.SecurityLogger=WARN
log4j.logger.org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit=WARN
log4j.logger.org.apache.hadoop.hdfs.server.datanode.DataNode.clienttrace=WARN
"""


def write_configuration(plan: Plan) -> None:
    """All files under `<folder>/conf`, and the folders that the servers expect to find."""
    for folder in (plan.logs(), plan.folder / "tmp", plan.folder / "run"):
        folder.mkdir(parents=True, exist_ok=True)
    keepers = {"hbase": "zookeeper"}  # HBase's own data are on its file system
    for server in plan.servers:
        plan.data(keepers.get(server, server)).mkdir(parents=True, exist_ok=True)
    conf = plan.conf()
    log = {"folder": plan.logs(), "megabytes": limits_stack.STACK_LOG_FILE_MB}
    if "kafka" in plan.servers:
        _write(conf / "kafka" / "server.properties", _properties(kafka_settings(plan)))
        _write(conf / "kafka" / "log4j2.properties", _KAFKA_LOG.format(**log))
    if "redis" in plan.servers:
        lines = "".join(f"{name} {value}\n" for name, value in redis_settings(plan))
        _write(conf / "redis" / "redis.conf", lines)
    if "namenode" in plan.servers:
        _write(conf / "hadoop" / "log4j.properties", _HADOOP_LOG.format(**log))
        _write(conf / "hadoop" / "core-site.xml", _site(core_settings(plan)))
        _write(conf / "hadoop" / "hdfs-site.xml", _site(hdfs_settings(plan)))
        for name in ("hdfs", "datanode"):  # looked for on the class path, or the server exits
            (conf / "hadoop" / "webapps" / name).mkdir(parents=True, exist_ok=True)
    if "hbase" in plan.servers:
        _write(conf / "hbase" / "log4j.properties", _HADOOP_LOG.format(**log))
        _write(conf / "hbase" / "core-site.xml", _site(core_settings(plan)))
        _write(conf / "hbase" / "hdfs-site.xml", _site(hdfs_settings(plan)))
        _write(conf / "hbase" / "hbase-site.xml", _site(hbase_settings(plan)))


def kafka_settings(plan: Plan) -> dict[str, object]:
    """One KRaft node, broker and controller."""
    broker = f"{LOOPBACK}:{plan.ports['kafka']}"
    controller = f"{LOOPBACK}:{plan.ports['kafka_controller']}"
    return {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{broker}",
        "log.dirs": plan.data("kafka"),
        # One broker: what Kafka keeps for itself has one copy too.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # A broker that was killed comes back as soon as its former self counts as gone.
        "broker.session.timeout.ms": limits_stack.STACK_BROKER_SESSION_MS,
        "broker.heartbeat.interval.ms": limits_stack.STACK_BROKER_SESSION_MS // 6,
        # A topic that is misspelled must be an error, not a topic with one partition.
        "auto.create.topics.enable": "false",
        "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
    }


def redis_settings(plan: Plan) -> list[tuple[str, object]]:
    """A cache: bounded, least recently used goes first, written out at a clean stop."""
    return [
        ("bind", LOOPBACK),
        ("port", plan.ports["redis"]),
        ("dir", f'"{plan.data("redis")}"'),
        ("daemonize", "no"),
        ("save", "3600 1"),
        ("appendonly", "no"),
        ("maxmemory", f"{plan.heaps_mb['redis']}mb"),
        ("maxmemory-policy", "allkeys-lru"),
    ]


def core_settings(plan: Plan) -> dict[str, object]:
    """Which file system, where temporary files go, and how fast a lost DataNode is tried again."""
    system = "file:///" if plan.light else f"hdfs://{LOOPBACK}:{plan.ports['namenode']}"
    return {
        "fs.defaultFS": system,
        "hadoop.tmp.dir": plan.folder / "tmp",
        # A NameNode that was killed is waited for: one try a second.
        "ipc.client.connect.max.retries": limits_stack.STACK_OUTAGE_S,
        "ipc.client.connect.retry.interval": 1_000,
    }


def hdfs_settings(plan: Plan) -> dict[str, object]:
    """One NameNode, one DataNode, one copy."""
    if plan.light:
        return {}
    ports = plan.ports
    return {
        "dfs.replication": 1,
        "dfs.namenode.name.dir": f"file://{plan.data('namenode')}",
        "dfs.datanode.data.dir": f"file://{plan.data('datanode')}",
        "dfs.namenode.rpc-address": f"{LOOPBACK}:{ports['namenode']}",
        "dfs.namenode.http-address": f"{LOOPBACK}:{ports['namenode_http']}",
        "dfs.datanode.address": f"{LOOPBACK}:{ports['datanode']}",
        "dfs.datanode.http.address": f"{LOOPBACK}:{ports['datanode_http']}",
        "dfs.datanode.ipc.address": f"{LOOPBACK}:{ports['datanode_ipc']}",
        # 127.0.0.1 needs no name that leads back to it.
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.datanode.hostname": LOOPBACK,
        "dfs.permissions.enabled": "false",
        "dfs.namenode.safemode.extension": 0,
        "dfs.heartbeat.interval": 1,
        # There is no other DataNode to go to: the one that was away is asked again.
        "dfs.client.block.write.replace-datanode-on-failure.policy": "NEVER",
        "dfs.client.block.write.retries": limits_stack.STACK_OUTAGE_S,
        "dfs.client.write.exclude.nodes.cache.expiry.interval.millis": 1_000,
    }


def hbase_settings(plan: Plan) -> dict[str, object]:
    """Master, region server and ZooKeeper in one process ("standalone"), on HDFS unless light."""
    ports = plan.ports
    settings: dict[str, object] = {
        "hbase.rootdir": root_folder(plan),
        "hbase.cluster.distributed": "false",
        "hbase.tmp.dir": plan.folder / "tmp" / "hbase",
        "hbase.zookeeper.quorum": LOOPBACK,
        "hbase.zookeeper.property.clientPort": ports["zookeeper"],
        "hbase.zookeeper.property.clientPortAddress": LOOPBACK,
        "hbase.zookeeper.property.dataDir": plan.data("zookeeper"),
        # Stopped (SIGSTOP) for less than a session, HBase goes on where it was.
        "hbase.zookeeper.property.tickTime": limits_stack.STACK_TICK_MS,
        "zookeeper.session.timeout": limits_stack.STACK_SESSION_MS,
        "zookeeper.session.timeout.localHBaseCluster": limits_stack.STACK_SESSION_MS,
        "hbase.master.ipc.address": LOOPBACK,
        "hbase.master.port": ports["hbase_master"],
        "hbase.master.info.port": -1,
        "hbase.regionserver.ipc.address": LOOPBACK,
        "hbase.regionserver.port": ports["hbase_regionserver"],
        "hbase.regionserver.info.port": -1,
        "hbase.localcluster.assign.random.ports": "false",
        "hbase.unsafe.regionserver.hostname": "localhost",
        "hbase.thrift.info.port": -1,
        # Our calls are this large on purpose; HBase would write a warning for each.
        "hbase.rpc.rows.warning.threshold": limits.HBASE_CALL_ROWS,
        # A call that waits for a region is given up after seconds, not after 20 minutes: Thrift's
        # threads are free again when the region is back. Our own clients try again themselves.
        # Each of these tries looks the region up with as many of its own: with 7, a call that met
        # a killed HBase hung for 30 s, long after HBase was back (measured).
        "hbase.client.retries.number": 4,
        "hbase.client.operation.timeout": limits.HBASE_WRITE_MS,
        "hbase.client.meta.operation.timeout": limits.HBASE_WRITE_MS,
        "hbase.rpc.timeout": limits.HBASE_WRITE_MS,
        # With its one DataNode away, HBase would give up at once: instead it holds writers back.
        "hbase.regionserver.logroll.retries": limits_stack.STACK_OUTAGE_S,
        "hbase.regionserver.logroll.wait.timeout.ms": limits_stack.STACK_OUTAGE_S * 1_000,
        "hbase.regionserver.async.wal.max.exclude.datanode.count": 0,
        # After a kill: HDFS closes the old logs in less than the 4 s that are waited for each.
        "hbase.lease.recovery.first.pause": 500,
        "hbase.lease.recovery.pause": 200,
        "hbase.master.wait.on.regionservers.mintostart": 1,
        "hbase.master.wait.on.regionservers.interval": 200,
        "hbase.master.wait.on.regionservers.timeout": 1_000,
    }
    if plan.light:
        settings |= {
            "hbase.unsafe.stream.capability.enforce": "false",
            "hbase.wal.provider": "filesystem",
        }
    return settings


def root_folder(plan: Plan) -> str:
    """Where HBase keeps its tables."""
    if plan.light:
        return f"file://{plan.data('hbase_root')}"
    return f"hdfs://{LOOPBACK}:{plan.ports['namenode']}/hbase"


def _properties(settings: dict[str, object]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _site(settings: dict[str, object]) -> str:
    lines = "".join(
        f"<property><name>{name}</name><value>{escape(str(value))}</value></property>\n"
        for name, value in settings.items()
    )
    return f'<?xml version="1.0"?>\n<configuration>\n{lines}</configuration>\n'


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
