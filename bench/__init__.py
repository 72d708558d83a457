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
| `reads.py` | `bench reads`: pages a second, near the top and far back, idle and beside fan-out |
| `load.py` | an HTTP client for load, and a load generator in a process of its own |
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
