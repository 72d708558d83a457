"""What measures and checks Firecell from outside. Nobody imports this, except tests the oracle.

| file | job |
| --- | --- |
| `workload.py` | seeded follow graphs and the posts on them, as arrays |
| `churn.py` | seeded streams of everything that users do, junk included, as events |
| `oracle.py` | who must see what: a second, deliberately simple statement of the *visible* rule |
| `check.py` | walks dashboards over HTTP and compares them with the oracle |
| `feeder.py` | puts a workload into a firehose, in bulk or paced |
| `processes.py` | a cell as a process: started, paused, asked over HTTP, looked at in /proc |
| `prepare.py` | folders with a whole graph in them, made once and copied for each run |
| `fanout.py` | `bench fanout`: inbox writes a second of one cell, and their proof |
| `replay.py` | replay: its rate alone against live fan-out, and what it costs live work |
| `pulled.py` | what pulling saves, and what pages of pulled authors cost |
| `reads.py` | `bench reads`: pages a second, near the top and far back, idle and beside fan-out |
| `stream.py` | `bench stream`: events a second out of the firehose, idle consumers, latency |
| `load.py` | an HTTP client for load, and a load generator in a process of its own |
| `bulk.py` | a cell that catches up on HBase by the bulk path |
| `compare.py` | `bench compare`: inboxes written by peers and by Firecell, in one run |
| `compare_paths.py`, `compare_input.py` | what it runs, and what they write |
| `compare_measure.py` | windows, and processor seconds of clients and servers |
| `measured.py` | what numbers before and after come to |
| `demo.py` | `./run demo`: starts everything, and checks everything at the end |
| `show.py` | the demo while it runs: people publish, readers read |
| `people.py` | the people of the demo and what they do |
| `demo_panel.py` | what the demo shows |
| `machine.py` | what machine this is, and what a process has used of it |
| `report.py` | latency histograms, result files, tables |
| `figures.py` | README's table of figures, from the result files |
| `talk.py` | progress on stderr |
| `results/` | what was measured, one JSON file per run |

Not here: anything that serves users. Nothing here is safe to share between threads.
"""
