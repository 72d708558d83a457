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
| post, follow, publish, import_, dashboard, status | what people ask a running Firecell |
| init, config, tokens | settings and tokens |
| demo, bench_ | start `python -m bench...` |
| warm | compiles the numba code once, after an install |

Not here: any decision about feeds (engine, topics, cells), and no state but run files and logs.

Concurrency: every command is one process with one thread that matters; `up` runs an event loop.
"""
