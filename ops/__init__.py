"""What a person types: one command, one file.

| file | job |
| --- | --- |
| main | the way in: are the packages ours? |
| app | which commands there are, and their errors as exit codes |
| options | options and output that commands share |
| client | finds a running gateway and talks to it |
| local | publishing and reading with no process running: the stores opened here |
| up, up_run, supervisor | all processes of this machine: started, watched, restarted, drained |
| children | dying with the parent: what a child of the supervisor does first |
| gateway, cell | one process of each kind |
| members | further workers of one cell |
| post, follow, publish, import_, dashboard, status | what people ask a running Firecell |
| import_jetstream, importing | Bluesky's Jetstream; what imports share |
| explain | what was decided about an author, and why |
| tail, groups, rewind | the stream, its groups, and their way back |
| snapshot, replay, rebuild, verify, quarantine | a cell copied, healed, made anew, proven right |
| cell_jobs | how these reach a cell: the running one, or one opened here |
| init, config, tokens | settings and tokens |
| stack | a real Kafka, HBase and Redis on this machine: `stack up`, `down`, `status` |
| stack_run | up, down, and the faults of one server, for tests |
| stack_watch, stack_guard | staying with a stack; ending it with its owner |
| stack_plan, stack_config | its servers, ports and heaps; their configuration files |
| stack_commands, stack_jars | the servers' command lines; their jars |
| stack_processes | processes known by their ids |
| stack_probe, stack_status | does a server answer? how does each one do? |
| demo, bench_ | start `python -m bench...` |
| warm | compiles the numba code once, after an install |

Not here: any decision about feeds (engine, topics, cells), and no state but run files and logs.

Concurrency: every command is one process with one thread that matters; `up` runs an event loop.
"""
