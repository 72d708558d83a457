"""Every bound and default of Firecell, each with its unit in its name and its reason beside it.

Invariant I12: every queue, batch, page, scan, body and retry has a bound, and it is here.
Nothing else may hold such a number; `tests/test_tidy.py` looks for strays.
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
RUNS_AT_EASE_MAX = 14  # files at level 0: with more the worker gathers longer before each batch
RUNS_AT_LEVEL0_MAX = 48  # more files than this hurt readers: the worker waits for compaction
RETRY_FIRST_MS = 100  # backoff after a dependency's failure: doubles ...
RETRY_MS_MAX = 5_000  # ... up to this
BACKFILL_POSTS_MAX = 100  # of a follow (DESIGN 2)
BACKFILL_AGE_MS_MAX = 30 * 24 * 3_600_000
OUTBOX_SCAN_KEYS = 1_000  # keys of one scan of an outbox; a walk is many bounded scans

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
CURSOR_CHARACTERS_MAX = 64

# --- caches --------------------------------------------------------------------------------------
CACHE_BYTES_DEFAULT = 512 * 1024 * 1024
CACHE_ENTRY_BYTES_OVERHEAD = 250  # what one entry costs beside its bytes (measured, CPython 3.11)
RELATIONS_CACHE_READERS_MAX = 100_000
BLOCK_CACHE_BYTES = 512 * 1024 * 1024  # RocksDB's

# --- embedded store (RocksDB; measured choices, reasons in cells/rocks.py) ------------------------
COMPACTION_JOBS = 4  # merges and flushes at once: small ones do not wait for a great one
COMPACTION_PARTS_MAX = 2  # threads that share one big merge
INBOX_RUNS_MIN = 8  # sorted runs of the inbox before they merge: more cost pages, fewer merging
INBOX_RUNS_REST = 3  # the same while nothing is written: pages look into two or three places
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
READY_PROBE_S = 2  # the gateway waits this long for a cell's /readyz
RETENTION_EVERY_S = 60  # how often the gateway drops old segments
HTTP_BODIES_BYTES_MAX = 256 * 1024 * 1024  # of all request bodies in memory at once; then 503
BATCHES_AT_ONCE_MAX = 4  # NDJSON batches decoded at once: 50,000 events are some 50 MB of objects
PROCESS_WATCH_S = 0.1  # how often a process looks whether its fan-out thread failed or caught up
PUBLISH_TROUBLE_S = 10  # after a failed append without a later success, /readyz says so this long
PROXY_ANSWER_BYTES_MAX = 64 * 1024 * 1024  # of a cell: 200 posts of 128 KiB are less
