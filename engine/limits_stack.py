"""Bounds and defaults of the local real stack (ops/stack*.py): the ports that each server's own
papers name, memory, and how long servers are waited for. As in `engine/limits.py`: units in the
names, reasons beside them.
"""

STACK_KAFKA_PORT = 9092
STACK_KAFKA_CONTROLLER_PORT = 9093
STACK_REDIS_PORT = 6379
STACK_NAMENODE_PORT = 8020
STACK_NAMENODE_HTTP_PORT = 9870
STACK_DATANODE_PORT = 9866
STACK_DATANODE_HTTP_PORT = 9864
STACK_DATANODE_IPC_PORT = 9867
STACK_ZOOKEEPER_PORT = 2181
STACK_MASTER_PORT = 16_000
STACK_REGIONSERVER_PORT = 16_020
STACK_THRIFT_PORT = 9090
STACK_FREE_PORT_MIN = 15_000  # free ports are sought here: below those that the kernel hands out
STACK_FREE_PORT_MAX = 31_999
STACK_FREE_PORT_TRIES_MAX = 2_000
STACK_PORT_MIN = 1_024  # below it a server would need to be root
STACK_KAFKA_HEAP_MB = 768
STACK_HDFS_HEAP_MB = 512  # of the NameNode and of the DataNode
STACK_HBASE_HEAP_MB = 3_072  # with 1 GB, HBase holds key writers back while it flushes (measured)
STACK_THRIFT_HEAP_MB = 512
STACK_REDIS_MEMORY_MB = 256  # least recently used keys go first: it is a cache
STACK_HEAP_MB_MIN = 128
STACK_HEAP_MB_MAX = 65_536
STACK_HELPER_HEAP_MB = 256
STACK_UP_S = 180  # one server gets this long to answer: 2 cores may be busy with other things
STACK_POLL_S = 0.1  # between two probes of a server that starts
STACK_PROBE_S = 3  # one probe waits this long for its answer
STACK_STOP_S = 40  # TERM: HBase writes its memory out; then KILL
STACK_KILLED_S = 10  # KILL: gone within this, unless the kernel itself hangs
STACK_FORMAT_S = 90  # formatting Kafka's or HDFS' folder: one short JVM
STACK_DOWNLOAD_S = 1_800  # some 250 files from a registry on a slow line
STACK_ANSWER_BYTES_MAX = 4 * 1024 * 1024  # of one probe
STACK_LOG_FILE_MB = 32  # of one server; two older ones are kept
STACK_RESTART_MS_MAX = 30_000  # backoff of a server that keeps ending, under --foreground
STACK_BROKER_SESSION_MS = 3_000  # of Kafka's broker: after a kill it is waited out
STACK_SESSION_MS = 120_000  # of ZooKeeper: a process stopped for less goes on where it was
STACK_TICK_MS = 6_000  # a twentieth of the session, or ZooKeeper grants less
STACK_WATCH_S = 0.5  # between two looks, in the foreground, at whether all servers live
STACK_OUTAGE_S = 120  # HBase waits this long for a DataNode or NameNode that was killed
