"""One cell is one blast radius: it reads the whole firehose and keeps what its own users need.

| file | job |
| --- | --- |
| worker, durable | from records to inboxes, in numbered steps; the order of durability (I1) |
| progress | how far a cell is: applied, settled, lag; base of the two below |
| runner | the loop on the embedded log: one thread that applies what comes |
| app, faust_app, faust_worker | the same on Kafka: the Faust app, its settings, plain `faust` |
| faust_consumer | less work per message in Faust's consumer |
| backends | stores, markers and caches by their URLs |
| backfill | outboxes as a batch in the making sees them: what a follow copies |
| graph, graph_base, graph_file, graph_kernels, users | followers homed here, in memory |
| kernel_parts | what the compiled loops share |
| store_embedded | the port `Store` on RocksDB: open, the three write steps, runs, checkpoints |
| store_reads | its reading half: inbox slices, rows by key, scans by prefix |
| store_scans | walks over its whole tables, in bounded steps |
| store_writes | its batches: facts into puts |
| rows | the values behind the keys, and how two versions of a post row merge |
| rocks | RocksDB's options with their reasons; its errors as ours |
| store_hbase | the port `Store` on HBase: open, the three write steps, adopted runs |
| hbase_reads, hbase_rows, hbase_schema | its reads; facts into rows; tables, qualifiers, order |
| hbase_scans | walks over its whole tables, in bounded steps |
| hbase_meta | whose its tables are, and that they are being restored |
| hbase_snapshots, hbase_restore | its checkpoints: HBase's snapshots; one in the tables' place |
| hbase_copy | a copy of a running cell at one position, for verify |
| hbase_client, hbase_wire | the way to Thrift: a pool, time-outs, tries again; one connection |
| hbase_socket, hbase_frames | the same for calls that are laid out by hand |
| hbase_loader | the Java helper as a process: tables, bulk loads |
| hbase_runs | its sorted runs: staged, then adopted |
| hbase_markers, hbase_decisions | the ports `Markers` and `Decisions` on HBase |
| markers, decisions, synced | the ports `Markers` and `Decisions` on LMDB; what they share |
| born | that neither is ever lost unnoticed |
| intervals | which authors are pulled here, and what was recorded of it |
| pull | inboxes with the posts of pulled authors merged in |
| reader, page_bytes | pages: keys -> posts -> the *visible* rule -> JSON bytes |
| unread | how many of them above the marker |
| judge | the *visible* rule over a slice of an inbox |
| cache, cache_kernels | the in-process post cache; its compiled half, which joins whole pages |
| cache_redis | the post cache on Redis, shared by processes |
| relations | whom a reader does not see |
| directory | which cell is a user's home |
| cell | one cell put together: the only place that does it |
| server, page_threads | a cell's HTTP; threads for pages whose store is behind a network |
| dashboard_stream | a dashboard as it fills: server-sent events |
| maintenance | jobs of a cell beside its live work; the schedule, the audit |
| replay, replay_worker, replay_state, replay_pace | a span applied again, beside live work |
| snapshot, snapshot_files | the whole state, kept outside the store; manifest, checksums, copies |
| snapshot_restore | a snapshot in a cell's place |
| rebuild, rebuild_state | an empty or broken cell anew; that this goes on |
| rebuild_posts | posts for it from another cell's snapshot |
| quarantine | bad records: shown, tried again, given up |
| verify, verify_tables, verify_toggles | inboxes, outboxes and follows recomputed |
| verify_rule, verify_pushed | what an inbox must hold, said a second time; what is left out of it |
| digest | the logical digest |
| audit | the slow audit inside every cell |
| process, gateway | the whole life of a cell's and of the gateway's process |
| settings, settings_schema | TOML < environment < flags |

Not here: what an event, a key or a visible post is (engine); how events get in and out (topics);
anything that a person types (ops). No cell calls another one to fan out or to read (I10).

Concurrency: one process owns a cell's store. In it one thread applies records and writes; any
number of threads read beside it (`reader`, `store_reads`, `cache`, `markers` say how).
"""
