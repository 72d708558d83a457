"""One cell is one blast radius: it reads the whole firehose and keeps what its own users need.

| file | job |
| --- | --- |
| worker | from records to inboxes, in numbered steps; the order of durability (I1) |
| runner | the loop on the embedded log: one thread that applies what comes |
| backfill | outboxes as a batch in the making sees them: what a follow copies |
| graph, graph_base, graph_file, graph_kernels, users | followers homed here, in memory |
| store_embedded | the port `Store` on RocksDB: open, the three write steps, runs, checkpoints |
| store_reads | its reading half: inbox slices, rows by key, scans by prefix |
| store_writes | its batches: facts into puts |
| rows | the values behind the keys, and how two versions of a post row merge |
| rocks | RocksDB's options with their reasons; its errors as ours |
| markers | the port `Markers` on LMDB |
| reader | pages: keys -> posts -> the *visible* rule -> JSON bytes |
| cache | the in-process post cache |
| relations | whom a reader does not see |
| directory | which cell is a user's home |
| cell | one cell put together: the only place that does it |
| server | a cell's HTTP |
| process, gateway | the whole life of a cell's and of the gateway's process |
| settings, settings_schema | TOML < environment < flags |

Not here: what an event, a key or a visible post is (engine); how events get in and out (topics);
anything that a person types (ops). No cell calls another one to fan out or to read (I10).

Concurrency: one process owns a cell's store. In it one thread applies records and writes; any
number of threads read beside it (`reader`, `store_reads`, `cache`, `markers` say how).
"""
