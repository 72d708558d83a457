"""The firehose: events in and out.

| file | job |
| --- | --- |
| catalog | what a firehose is: identity, partitions, retention; the rules of group names |
| log_embedded | the port `Log` on LMDB: append, read, roll, retain |
| logs, urls | which log a configuration means; the URLs of firehose, stores and caches |
| log_kafka | the port `Log` on Kafka: append |
| kafka_topic, kafka_reader | its topic and look-ups, its reads |
| kafka_groups | its groups' positions |
| kafka_client, kafka_records | the client library and its errors; what a message holds |
| segment_table | which segments there are, and which are open in this process |
| segments | one segment: append, seal, read, look up by time |
| chunks | the bytes of appended records, alone in their file |
| creation | how a firehose and its segments are made; the layout of its folder |
| groups | the groups' positions |
| environments | LMDB environments shared by a process, and what their errors mean |
| locks | file locks that die with their process; small files written whole or not at all |
| nodes | which node number this process makes post ids with, and the ids |
| publish | event -> id -> partition -> one synced commit shared by all who wait |
| stream, stream_reader, stream_json | one consumer's loop; shared pages; frames -> lines |
| stream_passage | what of a stream has arrived behind another gateway |
| stream_since, stream_format, filters | where it begins and ends; NDJSON and SSE; what it wants |
| groups_coordinator, groups_state, groups_assign | who shares what, leases, checkpoints |
| groups_lock, kafka_leadership | which gateway does that: by a file's lock, by Kafka |
| groups_tenure, groups_retention | for how long, by clocks; groups that are nearly overtaken |
| groups_rewind, groups_shapes | plans, rewinds; what goes in and out |
| http_stream, http_streaming | the stream's routes; endless answers |
| http_elsewhere, http_relay | passing on to who coordinates; another's answer as it comes |
| client, http_errors | a consumer in Python; problem documents -> errors |
| server, http_publish | the gateway: publishing, and everybody's one address |
| http_jobs | the bodies of a cell's jobs |
| http_proxy, http_client | the gateway's way to its cells |
| http, http_routes, openapi | HTTP for gateway and cells, by one table of routes |
| http_body, http_bounds, http_query, http_problem | what may come in, and how errors go out |
| security, tokens | who may ask what |
| jetstream, jetstream_map | Bluesky's events as ours; what an import must remember |
| lifecycle, runfiles | how a process starts, becomes ready, drains, stops, and is found |
| backoff | how long to wait before trying again |
| jsonlog, metrics, histogram | what a process tells about itself |

Not here: what an event is (engine.events), what a cell does with it (cells), any decision about
who sees what. Only `publish` knows what is in a frame: it makes it.

Concurrency: any number of processes may append to and read from one embedded firehose; LMDB
serializes the writers. `EmbeddedLog`, `IdSource` and `Publisher` may be used from any thread.
Nothing here survives a fork: open after it.
"""
