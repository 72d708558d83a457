"""Every bound and default of Firecell, each with its unit in its name and its reason beside it.

Invariant I12: every queue, batch, page, scan, body and retry has a bound, and it is here; those of
the local real stack alone, which no feed needs, are in `engine/limits_stack.py`. Nothing else may
hold such a number; `tests/test_tidy.py` looks for strays.
"""

# --- numbers of the formats (never change: they are on disk) -------------------------------------
U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
POST_ID_MAX = 2**63 - 1  # bit 63 of a post id is zero, so 2^63 can mean "no post" (floor)
FLOOR_NONE = 2**63  # floor of a follow whose backfill copied nothing: no id reaches it
FORMAT_VERSION = 1  # of events, log records, store rows and snapshots, until one of them changes

# --- events (API.md) -----------------------------------------------------------------------------
TEXT_BYTES_MAX = 64 * 1024
TAGS_MAX = 32
TAG_CHARACTERS_MAX = 140
MEDIA_MAX = 16
MEDIA_BYTES_MAX = 2 * 1024
MENTIONS_MAX = 50
EVENT_BYTES_MAX = 128 * 1024  # one event, as JSON or as a frame
BATCH_BYTES_MAX = 8 * 1024 * 1024  # one NDJSON body
BATCH_EVENTS_MAX = 50_000  # lines of one NDJSON body
ID_AHEAD_MS_MAX = 60_000  # a post id further ahead of the append time is refused
AT_MS_MAX = 253_402_300_799_999  # 9999-12-31: what a shown time may be

# --- ids -----------------------------------------------------------------------------------------
ID_NODE_MAX = 2**10 - 1
ID_SEQUENCE_MAX = 2**12 - 1
ID_COUNT_MAX = 10_000  # ids taken by one GET /v1/ids
ID_RESERVE_MS = 1_000  # the remembered time runs ahead by this much: one synced write a second
ID_CLOCK_BACK_MS_MAX = 5_000  # a clock that went back less is waited for, more is refused

# --- firehose ------------------------------------------------------------------------------------
PARTITIONS_DEFAULT = 32
PARTITIONS_MAX = 1_024
RETENTION_MS_DEFAULT = 7 * 24 * 3_600_000
RETENTION_MS_MIN = 60_000
SEGMENT_BYTES = 1024 * 1024 * 1024  # map size of one LMDB segment: sparse, so cheap when unused
SEGMENT_FILL = 0.75  # a segment is sealed at this share of its map: copy-on-write needs the rest
SEGMENT_MS = 3_600_000  # and after an hour, so that retention is never an hour late
POSITIONS_MAP_BYTES = 64 * 1024 * 1024  # the groups' positions: 32 partitions are 1 KB a group
READ_RECORDS_MAX = 8_192  # records of one read of one partition
READ_BYTES_MAX = 4 * 1024 * 1024  # bytes of one read of one partition
GROUP_COMMIT_ENTRIES_MAX = 50_000  # entries that share one synced commit
GROUP_NAME_CHARACTERS_MAX = 64
PUBLISH_QUEUE_ENTRIES_MAX = 100_000  # waiting for the group commit; beyond it publishers get 503
PUBLISH_QUEUE_BYTES_MAX = 64 * 1024 * 1024  # and by bytes: 100,000 events of 128 KiB are 12 GiB
APPEND_BYTES_MAX = 32 * 1024 * 1024  # frames of one append: a fraction of a segment's free quarter
CHUNK_RECORDS_MAX = 256  # records that share one LMDB value: 2.2x the appends/s of one each
CHUNK_BYTES_MAX = 64 * 1024  # frames of one chunk (one record may exceed it): parsed whole
SEGMENT_BYTES_MIN = 1024 * 1024  # a smaller map has no room for its own tree
SEGMENTS_OPEN_MAX = 16  # environments one log keeps open: each is a map and two descriptors
SEGMENT_MOVES_MAX = 1_000  # sealed segments that one append follows before it gives up
LMDB_READERS_MAX = 1_024  # reader slots of one environment, over all processes
LMDB_READERS_CHECK_APPENDS = 256  # slots of killed readers are freed this often
LOCK_POLL_S = 0.01  # how often a waiter looks at a file lock
APPEND_PAGES_PER_PARTITION = 6  # pages that an append touches beside its chunks: path, roots, tail
FOLDER_FRESH_NS = 50_000_000  # a folder's time is trusted when older: its clock ticks every few ms
ID_NAP_S = 0.0002  # a fraction of the millisecond that is waited for
ID_NAP_S_MAX = 0.05  # a clock that is back is looked at again at least this often
ID_WAIT_S_MAX = 10  # longest wait for the next ids: the reserved second, or a clock a little back

# --- fan-out -------------------------------------------------------------------------------------
WORKER_EVENTS_MAX = 16_384  # events of one batch
WORKER_BYTES_MAX = 32 * 1024 * 1024  # frames of one batch
WORKER_KEYS_AIM = 2_000_000  # a batch is closed when its keys pass this (one post may exceed it)
RUN_KEYS_MIN = 20_000  # fewer keys go as one atomic batch of puts, more as a sorted run
PUT_SLICE_KEYS = 2_000  # puts between two yields of the GIL
RUN_BLOCK_ENTRIES = 160  # keys of one data block of a sorted run: some 4 KB, what a cold scan reads
RUN_SLAB_BLOCKS = 256  # blocks laid out at once: 1 MB, stays in the processor's cache
FANOUT_DIGIT_BITS = 11  # of one pass of the sort: 2,048 counters stay in the nearest cache
FANOUT_SPARE_BITS = 12  # bits sorted beyond log2 of the keys: some 1 in 4,096 needs putting right
WORKER_POLL_MS = 5  # how often an idle worker looks at the end of the log
WORKER_LINGER_MS = 100  # under load a batch starts at most this often: bounds files at level 0
RUNS_AT_EASE_MAX = 24  # files at level 0: with more the worker gathers longer before each batch
RUNS_AT_LEVEL0_MAX = 48  # more files than this hurt readers: the worker waits for compaction
BULK_FROM_EVENTS = 32_768  # a cell that lags so far gathers for throughput: two whole batches ...
BULK_UNTIL_EVENTS = 4_096  # ... and below this for latency again
RETRY_FIRST_MS = 100  # backoff after a dependency's failure: doubles ...
RETRY_MS_MAX = 5_000  # ... up to this
BACKFILL_POSTS_MAX = 100  # of a follow (DESIGN 2)
BACKFILL_AGE_MS_MAX = 30 * 24 * 3_600_000
OUTBOX_SCAN_KEYS = 1_000  # keys of one scan of an outbox; a walk is many bounded scans
OUTBOX_AHEAD_AUTHORS = 1_024  # whose newest entries are asked for at once, of a remote store
OUTBOX_HEADS_ENTRIES_MAX = 200_000  # kept from batch to batch: some 40 MB, then dropped
OUTBOX_HEADS_AUTHORS_MAX = 500_000  # the same for authors without a post: some 60 MB

# --- graph ---------------------------------------------------------------------------------------
GRAPH_OVERLAY_EDGES_MIN = 20_000  # changed edges of one partition before they are merged
GRAPH_OVERLAY_SHARE = 0.02  # or this share of its base, whichever is more
GRAPH_OVERLAY_EDGES_FIRST = 64  # what an overlay has room for at first; it grows by doubling
GRAPH_COPIES_EDGES_MAX = 2_000_000  # of authors whose followers changed: 8 MB of u32, then dropped
GRAPH_USERS_FIRST = 1_024  # what the table of users has room for at first
GRAPH_USERS_GROWTH = 1.5  # of its ids: memory that is not used yet is bounded by this
GRAPH_USERS_LOAD_MAX = 0.66  # of its slots: beyond, look-ups walk too far
GRAPH_SLICE_USERS = 65_536  # looked up or created while the GIL is held: a few ms
GRAPH_FILE_HEADER_BYTES_MAX = 1024 * 1024  # of a graph snapshot: some 100 bytes a partition
GRAPH_SNAPSHOT_EVERY_MS = 300_000  # a snapshot of a changed graph at least this often

# --- pages ---------------------------------------------------------------------------------------
PAGE_POSTS_DEFAULT = 20
PAGE_POSTS_MAX = 200
PAGE_SCAN_KEYS_MAX = 2_000  # inbox keys looked at for one page; then the page is short
UNREAD_MAX = 100  # unread posts are counted up to this
SETTLE_MARGIN_MS = 5_000  # DESIGN 10
AFTER_WAIT_MS_DEFAULT = 1_000
AFTER_WAIT_MS_MAX = 10_000
AFTER_WAITERS_MAX = 1_000  # requests that wait for a position at once
FOLLOWERS_PAGE_DEFAULT = 100
FOLLOWERS_PAGE_MAX = 1_000
GAPS_IN_PAGE_MAX = 20
PROCESS_THREADS = 32  # calls of one process that wait for a disk or a network, pages aside
PAGE_THREADS = 16  # pages at once from a store behind a network: each waits for it most of the time
PAGE_THREADS_LINE_MAX = 256  # and in line for them; beyond it 503
PAGE_WAIT_S = 10  # for one of those, its time in line included; then 503
CURSOR_CHARACTERS_MAX = 64

# --- what is materialized (engine/materialize.py) ------------------------------------------------
PUSH_FOLLOWERS_MAX_DEFAULT = 20_000  # followers in a cell; authors with more are pulled (DESIGN 4)
PUSH_CLOSE_PERCENT = 80  # of that: below it an author is pushed again; so nobody flaps at the bound
PULL_LATE_MS_MAX = 60_000  # a post whose id is older than this when it is appended is pushed
PULL_ORDER_MS = 180_000  # ids of pulled posts further apart than this are in the order of offsets:
# 60 s late, 60 s ahead (ID_AHEAD_MS_MAX), and 60 s between the clocks of two brokers
PULLED_AUTHORS_MAX = 4_096  # of a cell: each page looks at all of them; more are pushed
PULL_CHUNK_ENTRIES = 8  # of an outbox, at first: a page takes few of each author; then four-fold
PULL_HEAD_ENTRIES = 64  # of each pulled author's outbox kept in memory: three pages of theirs alone
PULL_SKIPPED_MAX = 500  # posts from before the follow that are passed over without a place holder
DECISIONS_MAP_BYTES = 1024 * 1024 * 1024  # sparse; a decision costs some 100 bytes
DECISIONS_READERS_MAX = 126  # threads that read them at the same moment: a few, seldom

# --- caches --------------------------------------------------------------------------------------
CACHE_BYTES_DEFAULT = 512 * 1024 * 1024
CACHE_SLOTS_MIN = 1024  # of its hash, at first; a power of two, as all their numbers
CACHE_SLOTS_SHARE = 8  # an eighth of its bytes may become slots of 32: posts of 430 bytes fill both
RELATIONS_CACHE_READERS_MAX = 100_000
BLOCK_CACHE_BYTES = 512 * 1024 * 1024  # RocksDB's

# --- embedded store (RocksDB; measured choices, reasons in cells/rocks.py) ------------------------
COMPACTION_JOBS = 4  # merges and flushes at once: small ones do not wait for a great one
COMPACTION_PARTS_MAX = 2  # threads that share one big merge
INBOX_RUNS_MIN = 8  # sorted runs of the inbox before a merge: fewer cost merging, more pages
INBOX_RUNS_REST = 2  # the same while nothing is written: pages look into one place or two
INBOX_MERGE_WIDTH = 4  # runs that one merge takes at least
INBOX_MERGE_WIDTH_REST = 2  # the same, then
INBOX_NEWER_PERCENT_REST = 25  # of the oldest run: more in newer ones, and all become one, then
WORKER_REST_S = 2.0  # without events before the store may rest
INBOX_NEWER_PERCENT_MAX = 100_000  # inbox keys never replace each other: no merge only for space
INBOX_BLOCK_BYTES = 4 * 1024  # after merging; a cold page reads one block per run
POST_BLOCK_BYTES = 8 * 1024  # a post is looked up alone: smaller blocks, less to decompress
BLOOM_BITS = 10  # per key: 1% of the lookups of a missing post row read a block in vain
BLOCK_CACHE_ENTRY_BYTES = 4 * 1024  # the smallest usual block: sizes the cache's table
SYNC_EVERY_BYTES = 1024 * 1024  # of a file in the making go to the disk at once, not in its end
WRITE_BUFFER_BYTES = 32 * 1024 * 1024  # memtable of one column family; so much is replayed at open
WRITE_BUFFERS_MAX = 6  # memtables of one family: a full one waits for its flush without a stall
WAL_BYTES_MAX = 256 * 1024 * 1024  # older logs are retired by flushing: bounds the start, too
WRITE_STALL_FILES = 10_000  # RocksDB's own brakes are off: they would sleep holding the GIL
LEVEL0_NAP_MS = 5  # how often a run that waits for compaction looks again
LEVEL0_WAIT_MS_MAX = 60_000  # then the batch fails with Unavailable and is tried again
STORE_LOG_FILES = 4  # of RocksDB's own diary
OPEN_NAP_MS = 50  # how often an opener looks for the predecessor's lock
SCAN_TRIES_MAX = 3  # a scan that writers overtook at the very end of a table is read again
INBOX_SLICE_KEYS = 128  # read at once without looking whose they are; longer reads go on in steps
TOGGLE_CHUNK_ROWS = 8_192  # of one array of a partition's toggles: some 4 ms of the GIL

# --- markers -------------------------------------------------------------------------------------
MARKERS_MAP_BYTES = 64 * 1024 * 1024 * 1024  # sparse; a marker costs some 40 bytes
MARKERS_READERS_MAX = 510  # threads that look up a marker at the same moment

# --- processes and HTTP --------------------------------------------------------------------------
HTTP_PORT_DEFAULT = 8080
HTTP_HEADER_BYTES_MAX = 32 * 1024
HTTP_CONNECTIONS_MAX = 2_000
HTTP_KEEPALIVE_S = 75
HTTP_BODY_WAIT_S = 30
HTTP_PIPELINE_MAX = 64  # requests of one connection in line; beyond it nothing more is read
HTTP_PARSE_BYTES = 4 * 1024  # parsed between two looks at how many are in line: some 200 of them
HTTP_TAKE_WAIT_S = 30  # a client that takes nothing of the last bytes for so long is cut off
HTTP_HEADER_WAIT_S = 20  # a client that has not sent its headers by then is cut off
HTTP_BACKLOG = 2_048  # connections that the kernel holds before they are accepted
PORT_MAX = 65_535
CONNECTIONS_PER_TOKEN_MAX = 500
PROXY_TIMEOUT_S = 15
DRAIN_S = 30  # TERM: drained and gone within this
DRAIN_REQUESTS_S = 10  # of which running requests and streams get this
DRAIN_GRACE_S = 5  # a supervisor gives its children this much more, then ends them
WAIT_STEP_S = 0.05  # between two looks at something that another process will change
SUCCESSOR_WAIT_S = 10  # a new process waits this long for its predecessor's locks and ports
RESTART_FIRST_MS = 200  # the supervisor's backoff: doubles ...
RESTART_MS_MAX = 5_000  # ... up to this
READY_S = 120  # `up` gives a child this long to become ready
RESTARTS_REFUSED_MAX = 3  # a child that refuses its configuration this often is left alone
RESTART_HEALTHY_S = 10  # a child that lived this long starts again at the first backoff
CLIENT_CONNECT_S = 5  # of the command line to a gateway
CLIENT_TIMEOUT_S = 60  # for one answer: a batch of an import waits for its commit
LOG_FILE_BYTES_MAX = 16 * 1024 * 1024  # of one child of `up`; one older file is kept
LOG_TAIL_BYTES = 4 * 1024  # looked at for the last words of a child that ended
SUPERVISOR_LOOK_S = 0.1  # between two looks at whether the children are ready
PUBLISH_READ_BYTES = 1024 * 1024  # of a file or pipe at once
CLIENT_RETRIES_MAX = 8  # of a batch of an import: what was sent twice changes nothing
BAD_LINES_NAMED_MAX = 5  # of an import; all are counted
IMPORT_LINE_CHARACTERS_MAX = 1_024
RUN_FILE_BYTES_MAX = 64 * 1024
CONFIG_FILE_BYTES_MAX = 1024 * 1024
CELLS_MAX = 1_000  # of one configuration
TOKENS_MAX = 1_000
TOKEN_BYTES = 32  # of randomness in a token
TOKEN_NAME_CHARACTERS_MAX = 64
TOKENS_FILE_BYTES_MAX = 1024 * 1024
IMPORT_BATCH_EVENTS = 5_000  # events of one request of an import
DISK_FREE_BYTES_MIN = 64 * 1024 * 1024  # after disk full, work starts again above this
SWITCH_INTERVAL_S = 0.0005  # the interpreter's: readers share the GIL with the worker

# --- HTTP plumbing (topics/http*.py) -------------------------------------------------------------
HTTP_LINGER_S = 2  # what a refused client still sends is thrown away this long, so it sees why
HTTP_HOSTS_CACHED_MAX = 64  # verdicts on Host headers that are remembered
HTTP_QUERIES_CACHED_MAX = 256  # queries of dashboards that are remembered as parsed: few differ
HTTP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
REQUEST_ID_CHARACTERS_MAX = 64  # a longer X-Request-ID is not echoed
MARKER_BODY_BYTES_MAX = 1_024  # `{"post":"..."}` with room for blanks
PUBLISH_WAIT_S = 15  # for the synced commit; then 503, and nobody knows whether it was kept
PROXY_CONNECTIONS_PER_CELL_MAX = 64  # of the gateway to one cell: a hung cell blocks only its own
PROXY_WAITING_PER_CELL_MAX = 32  # of those, by requests with after=: half is for all others
READY_PROBE_S = 2  # the gateway waits this long for a cell's /readyz
RETENTION_EVERY_S = 60  # how often the gateway drops old segments
HTTP_BODIES_BYTES_MAX = 256 * 1024 * 1024  # of all request bodies in memory at once; then 503
BATCHES_AT_ONCE_MAX = 4  # NDJSON batches decoded at once: 50,000 events are some 50 MB of objects
PROCESS_WATCH_S = 0.1  # how often a process looks whether its fan-out thread failed or caught up
PUBLISH_TROUBLE_S = 10  # after a failed append without a later success, /readyz says so this long
PROXY_ANSWER_BYTES_MAX = 64 * 1024 * 1024  # of a cell: 200 posts of 128 KiB are less

# --- HBase (cells/store_hbase.py, cells/hbase_*.py, engine/hfiles.py) ----------------------------
HFILE_BLOCK_ENTRIES = 1_456  # records of one data block: 64 KB decoded, HBase's own default
HFILE_SLAB_BLOCKS = 32  # blocks laid out at once: 1 MB, stays in the processor's cache
HBASE_CALL_ROWS = 20_000  # rows of one mutateRows call: 1.1 MB; more is no faster (measured)
HBASE_CALL_BYTES = 4 * 1024 * 1024  # of one call with posts: what Thrift's server takes at once
HBASE_WRITERS = 2  # sockets that share the key writes of one batch: one per core
HBASE_RUN_KEYS_MIN = 200_000  # fewer keys are put even in bulk: each file costs readers
HBASE_RUN_KEYS_AIM = 8_000_000  # of one batch in bulk: few big files; 24 B a key, some 60 B to sort
HBASE_READ_MS = 5_000  # time-out of a read; then a new connection, or 503
HBASE_WRITE_MS = 30_000  # a region that flushes or splits holds writers this long
HBASE_LOAD_S = 120  # a bulk load that splits files at regions that have moved
HBASE_TABLES_S = 600  # making, restoring or dropping all tables of a cell at once
HBASE_STAGED_S = 3_600  # staged files this old are nobody's: a load takes HBASE_LOAD_S at most
HBASE_MERGE_FILES_MIN = 6  # files of an inbox region before they are merged: fewer cost merging
HBASE_MERGE_FILES_MAX = 24  # merged at once
HBASE_FILES_MAX = 40  # of one region: with more, adopting waits for HBase's merging
HBASE_FILES_WAIT_S = 60  # then Unavailable; the batch is tried again
HBASE_FILES_NAP_S = 0.25  # how often an adoption that waits looks again
HBASE_HELPER_S = 60  # start of the Java helper: JVM and ZooKeeper
HBASE_OPEN_S = 90  # when HBase starts, regions open one after the other
HBASE_TRIES_MAX = 3  # of one call, each with a new connection; then Unavailable
HBASE_IDLE_S = 50  # Thrift's server closes sockets that were idle for 60 s: they are not used again
HBASE_ANSWER_BYTES_MAX = 64 * 1024 * 1024  # a longer answer is none of Thrift's: protocol mismatch
HBASE_GET_ROWS = 500  # rows of one multi-get
HBASE_AHEAD_CALLS = 64  # sent before an answer is read: 16 KB, less than a socket holds
HBASE_AHEAD_GETS = 2  # multi-gets sent at once: one is read while the other is answered
HBASE_SCAN_ROWS = 1_000  # rows of one step of a scan
HBASE_DENSE_SPLIT_BITS = (16, 17, 18, 19, 20, 22, 24, 28, 32, 40, 48, 56)  # of users counted from 1

# --- Redis (cells/cache_redis.py) ----------------------------------------------------------------
REDIS_CONNECT_S = 0.2  # a dead Redis must cost a page nothing
REDIS_TIMEOUT_S = 0.1  # of one call: slower than that, the table is as good
REDIS_OPEN_S = 1.0  # after a failure nobody asks Redis again for so long
REDIS_TTL_S = 24 * 3_600  # of a post: what nobody reads goes away by itself
REDIS_CONNECTIONS_MAX = 64  # of one process

# --- Kafka and Faust (topics/kafka_*.py, cells/app.py) -------------------------------------------
KAFKA_TIMEOUT_S = 10  # one question to a broker; then Unavailable
KAFKA_APPEND_S = 12  # one append with its retries: less than PUBLISH_WAIT_S, so clients see why
KAFKA_LEADERS_S = 2  # who leads now, after a failed look-up: a broker that is there says at once
KAFKA_LINGER_MS = 5  # a batch waits so long for company; an append flushes, so it seldom does
KAFKA_MESSAGE_BYTES_DEFAULT = 1_048_588  # Kafka's own default of max.message.bytes
KAFKA_BATCH_BYTES = 1_000_000  # of one partition: what a broker takes by default is 1 MiB
KAFKA_SEND_BYTES_MAX = 128 * 1024 * 1024  # waiting in the producer: several appends of 32 MiB
KAFKA_SEND_ENTRIES_MAX = 200_000  # the same by messages
KAFKA_POLL_S = 0.05  # how long a full producer is waited for before it is looked at again
KAFKA_FETCH_BYTES = 1024 * 1024  # of one partition in one answer: holds any event
KAFKA_FETCH_WAIT_MS = 20  # an idle fetch holds up reads of other partitions that long
KAFKA_FETCH_PAUSE_MS = 5  # before a full queue is fetched into again
KAFKA_QUEUED_BYTES_MAX = 16 * 1024 * 1024  # fetched ahead in the client library
KAFKA_READ_AHEAD_BYTES_MAX = 64 * 1024 * 1024  # and in ours, over all partitions of a log
KAFKA_LANE_BYTES_MIN = 1024 * 1024  # a partition's share of them, however many there are
KAFKA_CONSUME_RECORDS = 2_000  # taken from the client library at once
KAFKA_SEGMENT_MS = 3_600_000  # time retention works on closed segments: at most an hour late
KAFKA_TOPIC_CHARACTERS_MAX = 200  # Kafka's own bound is 249; the rest is room for names beside it
KAFKA_REPLICATION_MAX = 7
KAFKA_SETTLE_S = 15  # a topic that was just made is waited for until every partition has a leader
KAFKA_LEADER_SESSION_S = 10  # a gateway that is killed coordinates groups so long; Kafka's min is 6
KAFKA_LEADER_MARGIN_S = 1  # it counts on that much less: clocks run apart, lines leave slowly
KAFKA_LEADER_HEARTBEAT_S = 0.5  # how soon the others hear that one has left
KAFKA_LEADER_CONFIRM_S = 1.0  # how often the leader asks Kafka whether it still is, others who is
KAFKA_LEADER_POLL_S = 0.1  # how soon it sees that it got the partition, or is to stop
KAFKA_LEADER_ASK_S = 5  # one question of its thread
KAFKA_LEADER_STOP_S = 5  # at the end its thread is waited for so long, and left behind then
KAFKA_LEADER_READY_S = 5  # a gateway that starts waits so long for somebody to coordinate groups
KAFKA_FENCED_S = 6  # a checkpoint's write on its way; it begins only with that much validity left
KAFKA_FENCED_STEP_S = 2  # each step of it: coordinator found, answered, and both tried once more
GATEWAY_URL_CHARACTERS_MAX = 1_024  # Kafka's default for a place's metadata is 4,096
FAUST_TAKE_EVENTS = 1_024  # taken from Faust at once: while they are handed on, no more come
FAUST_POLL_EVENTS = 2_048  # unpacked at once by the consumer
FAUST_FETCH_BYTES = 256 * 1024  # of one partition in one answer; a larger batch comes whole
FAUST_COLLECT_OBJECTS = 50_000  # made between two looks of Python's collector: some 5,000 events
FAUST_BUFFER_EVENTS = 16_384  # prefetched by Faust, beside one batch in hand and one that waits
FAUST_WITHIN_S = 0.02  # a batch that is not full waits this long for more
FAUST_BATCH_S_MAX = 600  # a batch in hand for longer is hung: the process gives up
FAUST_SESSION_S = 20  # a killed worker keeps its place in the group so long
FAUST_HEARTBEAT_S = 3
FAUST_COMMIT_S = 1.0  # how often acknowledged positions go to the group
FAUST_GROUP_WAIT_S = 45  # at start, for a killed predecessor to leave: its session and some more
FAUST_STOP_S = 10  # of the drain, for Faust's own stop
CELL_WORKERS_MAX = 64  # processes of one cell on this machine
ENDS_EVERY_S = 0.2  # how often the ends of the firehose are looked at, for lag and readiness

# --- Bluesky Jetstream import (topics/jetstream*.py, ops/import_jetstream.py) --------------------
JETSTREAM_LINE_BYTES_MAX = 1024 * 1024  # of one event: AT Protocol's records are at most that
JETSTREAM_WINDOW_BYTES_MAX = 128 * 1024 * 1024  # of a .zst file: zstd's own bound without --long
JETSTREAM_READ_BYTES = 16 * 1024  # of a compressed file at once: it may be a thousand times as long
JETSTREAM_DID_BYTES_MAX = 2_048  # the DID specification's bound
JETSTREAM_RECORD_KEY_BYTES_MAX = 256  # longer ones are legal and unheard of; LMDB has a bound
JETSTREAM_MAP_BYTES = 64 * 1024 * 1024 * 1024  # address space of the map of names, not disk
JETSTREAM_BATCH_S = 1.0  # live events wait this long for company
JETSTREAM_CONNECT_S = 20
JETSTREAM_OVERLAP_MS = 2_000  # a resumed stream begins this much earlier: events may share a time

# --- the stream and its groups (topics/stream*.py, topics/groups_*.py, topics/filters.py) ---------
STREAM_PAGE_RECORDS = 1_000  # of one partition at once: some 4 ms of the GIL
STREAM_PAGE_BYTES = 512 * 1024  # frames read at once for one consumer: what it has in memory
STREAM_CACHE_BYTES = 32 * 1024 * 1024  # pages that consumers at the tail share
STREAM_FILTER_BYTES = 700  # of a filter beside its authors: the tuple, its kinds, its count
STREAM_AWAY_S = 5.0  # a partition that could not be read is asked after the others so long
STREAM_AWAY_READ_S = 15.0  # and no more of them are tried in one read: each costs its time-out
STREAM_READERS = 2  # threads that read and encode
STREAM_LOOK_S = 0.005  # how often the one watcher looks at the ends that others move
STREAM_LOOK_REST = 10  # and it rests this many times longer than a look takes
STREAM_LOOK_REST_S = 1.0  # but no longer: after a look that hung, streams would sleep for minutes
STREAM_HEARTBEAT_S = 15.0
STREAM_DRAIN_S = 2.0  # a client that takes nothing is cut off so long after the drain began
STREAM_UNTIL_MARGIN_MS = 1_000  # an append that took its time before `until` has ended by then
STREAM_SLOW_WINDOW_S = 10.0  # a consumer is judged over this
STREAM_SLOW_SHARE = 0.5  # of the window spent waiting for it, while its lag grew: slow
STREAM_UNACKED_MAX = 50_000  # offsets of a partition ahead of the acknowledged one, then it waits
STREAM_SINCE_CHARACTERS_MAX = 24 * 1_024  # a vector of all partitions; headers have 32 KB
STREAM_GZIP_LEVEL = 1  # 6 costs four times the CPU for a tenth of the bytes
STREAM_RELAY_BYTES = 256 * 1024  # of a stream passed on by a gateway, in memory
STREAM_PASSAGES_MAX = 1_000  # pieces of such a stream whose arrival is waited for one by one
FILTER_AUTHORS_MAX = 1_000
GROUP_LEASE_S = 30  # what a member was given is its own so long, unless it acknowledges
GROUP_LEASE_S_MIN = 1
GROUP_LEASE_S_MAX = 600
GROUP_SETTLE_S = 5.0  # ack=auto: what a living connection took this long ago counts as done
GROUP_TICK_S = 0.25  # leases, moves and checkpoints are looked at this often
GROUP_COMMIT_S = 1.0  # and checkpoints are written this often, unless somebody waits for one
GROUPS_MAX = 1_000  # with living members, of one firehose
GROUPS_KEPT_MAX = 10_000  # with a place in an embedded firehose: 2 KB each with 32 partitions
GROUP_MEMBERS_MAX = 1_000  # of one group
GROUP_ACK_BODY_BYTES_MAX = 64 * 1024  # positions of 1,024 partitions
GROUP_WARN_S = 6 * 3_600  # a group whose place is dropped sooner than this is warned of
REWIND_SAMPLE_RECORDS = 1_000  # read to tell how long a rewind will take
REWIND_SAMPLE_S = 0.25  # and no more of them: a partition that nobody reads takes Kafka a while
REWIND_BODY_BYTES_MAX = 64 * 1024
DASHBOARD_STREAM_LOOK_S = 0.05  # how often new batches of a cell are looked for
DASHBOARD_STREAM_ASKING_MAX = 8  # streams that ask for a page at once: half of PAGE_THREADS
DASHBOARD_STREAM_SEEN_MAX = 10_000  # posts above `settled` that are remembered, of one stream

# --- snapshots, replay, verify, audit (cells/{snapshot,replay,verify,audit}*.py) -----------------
SNAPSHOTS_KEPT = 2  # the newest of a cell's; older ones go when a new one is whole
SNAPSHOTS_PER_RETENTION = 5  # by default one is taken this often per retention: above DESIGN 8's 4
SNAPSHOTS_PER_RETENTION_MIN = 4  # rarer ones might not reach the firehose's floor
SNAPSHOT_LOOK_S = 5.0  # between two looks whether one is due
SNAPSHOT_READ_BYTES = 1024 * 1024  # of a file at once, for its checksum or copy
RESTORE_MARKERS = 10_000  # of one commit
SNAPSHOT_NAME_CHARACTERS_MAX = 64
MANIFEST_BYTES_MAX = 64 * 1024 * 1024  # some 100 bytes a file
REPLAYS_MAX = 16  # of one cell that are not done
REPLAYS_DONE_KEPT = 50  # that `replay list` still tells of
REPLAY_SHARE = 0.5  # of the time that live batches leave
REPLAY_IDLE_SHARE = 0.02  # live batches that take less of the time than this count as none
REPLAY_WINDOW_S = 2.0  # over which live work is looked at
REPLAY_CREDIT_S_MAX = 0.1  # time saved up for one step: bounds what a live batch waits
REPLAY_HELD_S = 2.0  # between two steps beside live work while the store's merging is behind
REPLAY_KEYS_BESIDE = 100_000  # of one step beside live work: some 50 ms
REPLAY_EVENTS_BESIDE = 1_024  # the same by events
REPLAY_KEEP_S = 2.0  # how often its positions are kept: what a crash repeats
JOBS_DONE_KEPT = 100  # of a cell, in memory
JOB_POLL_S = 0.2  # of the command line, while a job runs
JOB_BODY_BYTES_MAX = 64 * 1024
VERIFY_SCAN_ROWS = 4_096  # of one step of a walk over a table
VERIFY_FINDINGS_NAMED_MAX = 20  # of each kind; all are counted
VERIFY_PROGRESS_S = 1.0  # between two words on how far it is
AUDIT_EVERY_S = 1.0  # one reader so often: a cell of 86,400 readers is through in a day
AUDIT_POSTS_MAX = 20_000  # of the authors that one reader follows: a larger case is left to verify
AUDIT_AUTHORS = 128  # whose outboxes are asked for at once
AUDIT_HEAD = 256  # their newest entries: most authors have no more
AUDIT_TRIES = 3  # looks at what seems wrong: beside a writer it may be half of a batch
AUDIT_TRY_S = 1.0  # between them
QUARANTINE_LIST_MAX = 10_000
