"""`python -m bench.bulk`: inbox writes a second of one cell that catches up on HBase by the bulk
path, on a stack that runs (`firecell stack up`), and their proof.

The cell is a black box, `firecell cell`, as in `bench.fanout`, on the embedded log; its store is
HBase. Posts for the whole time are appended while it stands still, so it lags and takes the bulk
path by itself. Who used the processors, and how much HBase merged meanwhile, come from /proc and
from HBase's own log. Exit code 1 when the check fails or keys were put that should be adopted.

The tables of a run are new, named by its start, and dropped at the end unless `--keep-tables`.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import fanout, machine, report
from bench.feeder import Feeder
from bench.measured import figures
from bench.prepare import FOLLOWS_FILE, KEEP, PARTITIONS
from bench.processes import CellProcess, Urls, settings_of, write_config
from bench.talk import Talk
from bench.workload import Workload
from cells.hbase_loader import Helper
from ops.stack_processes import living
from ops.stack_run import Stack

_SERVERS = ("namenode", "datanode", "hbase", "thrift")
_MERGED = re.compile(
    r"Completed (?:major )?compaction of .* in (\S+)/f of .*\(size=([\d.]+) (\S)\)"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass
class Merging:
    """What HBase's log tells of finished compactions since a moment."""

    log: Path
    at: int = 0
    count: int = 0
    written_bytes: float = 0.0
    regions: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.at = self.log.stat().st_size

    def read(self) -> dict[str, float]:
        """JSON-ready. A log that was rolled meanwhile is read from its beginning."""
        with self.log.open("rb") as file:
            file.seek(self.at if self.at <= self.log.stat().st_size else 0)
            text = file.read().decode(errors="replace")
        for region, size, unit in _MERGED.findall(text):
            self.count += 1
            self.regions.add(region)
            self.written_bytes += float(size) * _UNITS.get(unit, 1)
        return {
            "compactions": self.count,
            "regions": len(self.regions),
            "written_bytes": round(self.written_bytes),
        }


def processors(stack: Stack, cell: CellProcess) -> dict[str, float]:
    """CPU seconds so far of the cell, its Java helper, and each server."""
    found = {"cell": cell.cpu_seconds(), "helper": 0.0}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == cell.pid:
            found["helper"] += machine.cpu_seconds(int(path.parent.name))
    for name in _SERVERS:
        server = living(stack.folder, name)
        found[name] = machine.cpu_seconds(server.pid) if server is not None else 0.0
    return found


def run(
    workload: Workload, stack: Stack, options: fanout.Options, talk: Talk, keep_tables: bool
) -> dict[str, Any]:
    """Import, warm up, measure, check; the result document."""
    name = f"bulk{int(time.time())}"
    folder = options.keep / "bulk"
    shutil.rmtree(folder, ignore_errors=True)
    write_config(folder, PARTITIONS, Urls(store=stack.hbase_url(name), helper=str(stack.helper)))
    feeder = Feeder(settings_of(folder).firehose.place, PARTITIONS, workload)
    try:
        with CellProcess(folder) as cell:
            document = _phases(workload, stack, cell, feeder, options, talk)
    finally:
        feeder.close()
        if not keep_tables:
            _drop(stack, name)
    return document


def _phases(
    workload: Workload,
    stack: Stack,
    cell: CellProcess,
    feeder: Feeder,
    options: fanout.Options,
    talk: Talk,
) -> dict[str, Any]:
    started = time.monotonic()
    feeder.follow_all().save(cell.folder / FOLLOWS_FILE)
    cell.wait_applied(workload.edges)
    spent = time.monotonic() - started
    talk.say(f"{workload.edges:,} follows on HBase by puts: {workload.edges / spent:,.0f}/s")
    starts = feeder.log.end_offsets()
    rate = fanout.warm_up(cell, feeder, options, talk)
    merging = Merging(stack.folder / "logs" / "hbase.log")
    used = processors(stack, cell)
    measured = fanout.measure(cell, feeder, options, rate, talk)
    used = {name: now - used[name] for name, now in processors(stack, cell).items()}
    document = figures(measured)
    merged = merging.read()
    talk.say(f"{document['inbox_writes_per_second']:,.0f} inbox writes/s; {merged}")
    oracle = fanout.gather_oracle(workload, cell.folder, feeder.log, starts, options, talk)
    found = fanout.judge(cell.url, oracle, workload, talk)
    talk.say(found.verdict())
    adopted = document["store_growth"].get("keys_adopted", 0)
    return {
        **document,
        "follows_per_second": round(workload.edges / spent, 1),
        "processor_seconds": {name: round(seconds, 2) for name, seconds in used.items()},
        "merged_meanwhile": merged,
        "keys_adopted_share": round(adopted / max(document["inbox_writes"], 1), 4),
        "oracle": found.document(),
        "memory_bytes_max": cell.memory_bytes_max(),
        "ok": found.ok and adopted > 0,
        "workload": workload.describe(),
        "command": " ".join(["python -m bench.bulk", *sys.argv[1:]]),
    }


def _drop(stack: Stack, name: str) -> None:
    helper = Helper(["java", f"@{stack.helper}"])
    try:
        for table in helper.command("tables", f"{name}.").split(","):
            if table:
                helper.command("drop", table)
    finally:
        helper.close()


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    stack_folder: Annotated[Path, typer.Option("--stack", help="Folder of a stack that runs.")],
    seconds: Annotated[float, typer.Option(help="How long to measure, at least.")] = 60.0,
    readers: Annotated[int, typer.Option(help="Users of the power-law graph.")] = 200_000,
    edges: Annotated[int, typer.Option(help="Its follows.")] = 2_000_000,
    authors: Annotated[int, typer.Option(help="Its users who post.")] = 10_000,
    largest: Annotated[int, typer.Option(help="Followers of its most followed.")] = 16_000,
    warm_posts: Annotated[int, typer.Option(help="Posts before.")] = 100_000,
    sample: Annotated[int, typer.Option(help="Readers to compare.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the graph, the posts and the sample.")] = 1,
    keep: Annotated[
        Path, typer.Option(help="Where the folder is made.", show_default=".cache/bench")
    ] = KEEP,
    results: Annotated[
        Path, typer.Option(help="Folder of result files.", show_default="bench/results")
    ] = report.RESULTS,
    json_wanted: Annotated[bool, typer.Option("--json", help="The result on stdout.")] = False,
    keep_tables: Annotated[bool, typer.Option("--keep-tables", help="Leave them.")] = False,
) -> None:
    """Catching up on HBase: inbox writes per second by the bulk path, checked against an oracle.

    \b
    Example:
      firecell stack up && firecell bench bulk --stack data/stack
    """
    talk = Talk()
    workload = Workload.power_law(
        seed, readers=readers, edges=edges, authors=authors, largest=largest
    )
    options = fanout.Options(
        seconds=seconds, sample=sample, warm_posts=warm_posts, seed=seed, keep=keep.absolute()
    )
    document = run(workload, Stack.existing(stack_folder), options, talk, keep_tables)
    path = report.write_result(f"bulk-hbase-{edges}", document, results)
    hidden = ("workload", "store_after")
    shown = {key: value for key, value in document.items() if key not in hidden}
    report.show("bulk", shown, talk.console)
    talk.say(f"written to {path}")
    if json_wanted:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    raise typer.Exit(0 if document["ok"] else 1)


if __name__ == "__main__":
    sys.exit(fanout.run_app(app))
