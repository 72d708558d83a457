"""What a feed is, pure: no I/O, no clock, no thread, no random, no environment.

| file | job |
| --- | --- |
| limits | every bound and default, with its unit and its reason |
| limits_stack | those of the local real stack |
| errors | the one tree of errors; `invariant` |
| times | ISO 8601, durations |
| ids | post ids: 41 bits of time, 10 of node, 12 of sequence |
| events | the event records |
| codec | event <-> frame, the only place where bytes become events |
| wire | JSON in and out: the public contract's shapes |
| keys | every byte of every key |
| homing | account -> partition, user -> cell |
| fanout | posts + followers -> sorted inbox keys, vectorized: no Python per follower |
| runs | sorted keys -> the bytes of a file that RocksDB adopts |
| hfiles | sorted keys -> the bytes of a file that HBase adopts |
| materialize | which posts of very followed authors are pulled instead of pushed |
| timeline | the *visible* rule, backfill, cursors |
| markers | the one rule of read markers |
| ports | what the core asks of the world: log, store, cache, markers |
| version | the version of Firecell |

Not here: anything that waits, reads or writes. Everything may run in any thread; the numba kernels
of `fanout` and `runs` release the GIL. May import: nothing of ours.
"""
