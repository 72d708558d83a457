"""The firehose: events in and out.

| file | job |
| --- | --- |
| catalog | what a firehose is: identity, partitions, retention; the rules of group names |
| chunks | the bytes of appended records, alone in their file |
| environments | LMDB environments shared by a process, and what their errors mean |
| segments | one segment: append, seal, read, look up by time |
| segment_table | which segments there are, and which are open here |
| log_embedded | the port `Log` on LMDB: finds segments, rolls, retains |
| groups | the groups' positions |
| locks | file locks that die with their process; durable small files |
| nodes | which node number this process makes ids with, and those ids |
| publish | event -> id -> partition -> one synced commit shared by all who wait |

Not here: what an event is (engine.events), what a cell does with it (cells), any decision about
who sees what. Nothing here reads a frame except `publish`, which makes it.

Concurrency: any number of processes may append to and read from one embedded firehose; LMDB
serializes the writers. `EmbeddedLog`, `IdSource` and `Publisher` may be used from any thread.
Nothing here survives a fork: open after it.
"""
