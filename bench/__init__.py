"""What measures and checks Firecell from outside. Nobody imports this, except tests the oracle.

| file | job |
| --- | --- |
| `workload.py` | seeded follow graphs and the posts on them, as arrays |
| `churn.py` | seeded streams of everything that users do, junk included, as events |
| `oracle.py` | who must see what: a second, deliberately simple statement of the *visible* rule |
| `machine.py` | what machine this is, and what a process has used of it |
| `report.py` | latency histograms, result files, tables |
| `results/` | what was measured, one JSON file per run |

Not here: anything that serves users. Nothing here is safe to share between threads.
"""
