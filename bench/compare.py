"""`python -m bench.compare`: inbox writes by other means and by Firecell's, in one run, on a stack
that it starts itself and stops again.

1. start    HBase on HDFS with its Thrift server, and Redis, in a temporary folder on free ports
2. warm up  HBase, with puts into a table that is dropped
3. measure  each path alone: a few seconds that do not count, then `--seconds`; the median of its
            windows; processor seconds of clients and of servers from /proc. Tables are new for each
            path and dropped after it, and the servers come to rest in between
4. compare  ratios to naive batches and to HBase's own benchmark

All write the deliveries of the same seeded posts (PerformanceEvaluation makes its own rows), for
the same time rather than as many: the fastest path is some fifty times as fast as the slowest.
Sampled inboxes of Firecell's are compared with the workload; it fails when one is wrong. One
thread.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench import compare_paths as paths
from bench import fanout, report
from bench.compare_input import Input
from bench.compare_measure import Path_, Usage, measure, settle
from bench.prepare import KEEP
from bench.talk import Talk
from bench.workload import Workload
from cells.graph import Graph
from cells.hbase_loader import Helper
from engine.errors import BadInput
from ops.stack_run import Stack

NAIVE, PE = "happybase", "pe_random"
PUTS, BULK, EMBEDDED = "firecell_puts", "firecell_bulk", "firecell_embedded"
TARGETS = {NAIVE: 2.5, PE: 1.2}  # of PUTS
HEAPS_MB = {"redis": 2_048}
TABLE_WIDTH = 110
JARS = KEEP.parent / "stack"
_WARM_CELL = "compare_warm"


@dataclass
class Session:
    """What all paths share: the stack, the Java helper for tables, the input, the graph."""

    folder: Path
    stack: Stack
    helper: Helper
    source: Input
    graph: Graph
    sample: set[int]

    @property
    def has_hbase(self) -> bool:
        """Whether the stack was started with it."""
        return "hbase" in self.stack.urls

    def inbox_table(self, cell: str) -> str:
        """A new table with the inbox's own splits, encoding and settings; its name."""
        self.helper.create(cell, ["inbox"])
        return f"{cell}.inbox"

    def drop(self, cell: str) -> None:
        """The inbox of a cell, and PerformanceEvaluation's table, where there is an HBase: their
        files are not merged beside the next path. A cell's other tables are small and at rest."""
        if not self.has_hbase:
            return
        for prefix in (f"{cell}.inbox", paths.PE_TABLE):
            for table in self.helper.command("tables", prefix).split(","):
                if table:
                    self.helper.command("drop", table)

    def naive(self, cell: str) -> Path_:
        """Path `happybase`."""
        return paths.happybase_batches(self.stack, self.inbox_table(cell), self.source)

    def firecell(self, cell: str, *, hbase: bool, bulk: bool) -> Path_:
        """Firecell's paths."""
        url = self.stack.hbase_url(cell) if hbase else "embedded:./store"
        store = paths.store_of(self.folder / cell, url, str(self.stack.helper))
        return paths.firecell(store, self.graph, self.source, bulk=bulk, sample=self.sample)


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    name: str
    title: str
    how: str
    make: Callable[[Session, str], Path_]
    hbase: bool = True  # it needs one


def _pe(session: Session, _cell: str, test: str) -> Path_:
    return paths.performance_evaluation(session.stack, test)


WAYS = (
    Way(
        NAIVE,
        "happybase, batches of 1,000",
        "one connection, one thread; keys as they are made, write-ahead log on; a table like"
        " Firecell's inbox",
        lambda session, cell: session.naive(cell),
    ),
    Way(
        PE,
        "HBase PerformanceEvaluation, randomWrite",
        f"its own Java client in one JVM, {paths.PE_CLIENTS} threads, autoFlush off (2 MB buffered"
        " in each), write-ahead log on, 26-byte rows, values of 1 byte, FAST_DIFF, 8 regions",
        partial(_pe, test="randomWrite"),
    ),
    Way(
        "pe_sequential",
        "HBase PerformanceEvaluation, sequentialWrite",
        "the same, each thread's rows ascending: what no inbox does",
        partial(_pe, test="sequentialWrite"),
    ),
    Way(
        "redis",
        "redis-py, pipelines of 1,000 x (zadd, trim)",
        f"one connection, no transaction; feeds of {paths.FEED_ENTRIES:,}; in memory, not durable",
        lambda session, _cell: paths.redis_pipelines(session.stack, session.source),
        hbase=False,
    ),
    Way(
        PUTS,
        "Firecell on HBase, puts",
        f"a cell's worker, batches of {paths.PUT_POSTS:,} posts, rows and positions included; two"
        " sockets, write-ahead log on",
        lambda session, cell: session.firecell(cell, hbase=True, bulk=False),
    ),
    Way(
        BULK,
        "Firecell on HBase, bulk path",
        "a cell's worker that lags: sorted runs as HFiles, adopted; rows and positions included",
        lambda session, cell: session.firecell(cell, hbase=True, bulk=True),
    ),
    Way(
        EMBEDDED,
        "Firecell, embedded store",
        "a cell's worker: sorted runs adopted by RocksDB, synced; rows and positions included",
        lambda session, cell: session.firecell(cell, hbase=False, bulk=False),
        hbase=False,
    ),
)


def run(session: Session, ways: list[Way], seconds: float, warm_s: float, talk: Talk) -> Any:
    """Phases 2 to 4; the result document, without the command."""
    usage = partial(Usage.now, session.stack.folder)
    if warm_s and session.has_hbase:
        _warm_up(session, 3 * warm_s, warm_s, usage, talk)
    found: dict[str, dict[str, Any]] = {}
    for way in ways:
        cell = f"compare_{way.name}"
        progress = partial(talk.progress, way.title, total=warm_s + seconds)
        path = way.make(session, cell)
        measured = measure(path, seconds, warm_s, usage, progress)
        found[way.name] = {"title": way.title, "how": way.how, **measured.document()}
        session.drop(cell)
        rested = settle(session.stack.folder)
        rate = found[way.name]["inbox_writes_per_second"]
        talk.say(f"{way.title}: {rate:,.0f} inbox writes/s; at rest after {rested:.0f} s")
    return {"paths": found, **compared(found)}


def _warm_up(
    session: Session, seconds: float, warm_s: float, usage: Callable[[], Usage], talk: Talk
) -> None:
    """HBase's machine code is made while it works: the first path must not pay for the others."""
    for number in range(2):
        cell = f"{_WARM_CELL}{number}"
        path = session.firecell(cell, hbase=True, bulk=False) if number else session.naive(cell)
        measure(path, seconds, warm_s, usage)
        session.drop(cell)
    settle(session.stack.folder)
    talk.say("HBase is warm")


def compared(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each path's ratio to the two that it is held against, and whether the targets are reached;
    what was not measured is left out. Adds `ratios` to the paths."""
    rates = {name: one["inbox_writes_per_second"] for name, one in found.items()}
    for name, one in found.items():
        one["ratios"] = {
            base: round(rates[name] / rates[base], 2) for base in (NAIVE, PE) if base in rates
        }
    targets = {
        base: {"at_least": least, "is": found[PUTS]["ratios"][base]}
        for base, least in TARGETS.items()
        if PUTS in rates and base in rates
    }
    return {"targets_of_puts": targets}


def table_of(document: dict[str, Any]) -> Table:
    """The table for people."""
    title = "inbox writes/s; ratios; CPU seconds of clients and of servers"
    rendered = Table(title=title, title_justify="left", box=SIMPLE)
    rendered.add_column("path", no_wrap=True)
    for column in ("writes/s", "x happybase", "x PE", "clients", "servers", "in s"):
        rendered.add_column(column, justify="right", no_wrap=True)
    for one in document["paths"].values():
        ratios = one["ratios"]
        rendered.add_row(
            one["title"],
            f"{one['inbox_writes_per_second']:,.0f}",
            *(f"{ratios[base]:.2f}" if base in ratios else "-" for base in (NAIVE, PE)),
            f"{one['client_cpu_seconds']:.1f}",
            f"{one['server_cpu_seconds']:.1f}",
            f"{one['seconds']:.0f}",
        )
    return rendered


def chosen(names: list[str]) -> list[Way]:
    """The ways named, in their order; all when none is. BadInput."""
    known = [way.name for way in WAYS]
    for name in names:
        if name not in known:
            raise BadInput(f"no path {name!r}; there are: {', '.join(known)}", "only")
    return [way for way in WAYS if not names or way.name in names]


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="Of each path, at least.")] = 20.0,
    warm_seconds: Annotated[float, typer.Option(help="Of each path before, not counted.")] = 5.0,
    only: Annotated[
        list[str] | None, typer.Option(help="A path by its name; may be repeated; else all.")
    ] = None,
    readers: Annotated[int, typer.Option(help="Users of the power-law graph.")] = 200_000,
    edges: Annotated[int, typer.Option(help="Its follows.")] = 2_000_000,
    authors: Annotated[int, typer.Option(help="Its users who post.")] = 10_000,
    largest: Annotated[int, typer.Option(help="Followers of its most followed.")] = 16_000,
    sample: Annotated[int, typer.Option(help="Readers to compare.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the graph, the posts and the sample.")] = 1,
    cache: Annotated[
        Path, typer.Option(help="Where the jars are.", show_default=".cache/stack")
    ] = JARS,
    keep: Annotated[
        Path, typer.Option(help="Where the stack's folder is made.", show_default=".cache/bench")
    ] = KEEP,
    name: Annotated[str, typer.Option(help="Of the result file.")] = "compare",
    results: Annotated[
        Path, typer.Option(help="Folder of result files.", show_default="bench/results")
    ] = report.RESULTS,
    json_wanted: Annotated[bool, typer.Option("--json", help="The result on stdout.")] = False,
) -> None:
    """Compare: inbox writes by happybase, PerformanceEvaluation, Redis and Firecell's paths, in one
    run on a stack of its own.

    \b
    Examples:
      firecell bench compare
      firecell bench compare --seconds 5 --only happybase --only firecell_puts
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # shells let their background jobs ignore INT
        signal.signal(number, signal.default_int_handler)  # the stack stops then as well
    ways = chosen(only or [])
    for library in ("happybase", "redis"):  # before minutes are spent
        paths.library(library)
    talk = Talk()
    workload = Workload.power_law(
        seed, readers=readers, edges=edges, authors=authors, largest=largest
    )
    source = Input(workload, seed)
    graph, readers_checked = source.graph(), workload.sample_readers(sample, seed)
    keep.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="compare-", dir=keep.absolute()))
    stack = Stack(
        folder / "stack",
        cache=cache,
        ports="free",
        heaps_mb=HEAPS_MB,
        servers=("thrift", "redis") if any(way.hbase for way in ways) else ("redis",),
        say=talk.say,
    )
    try:  # not `with`: an interruption just when all is up must stop it as well
        stack.up(tied=True)
        with closing(Helper(["java", f"@{stack.helper}"])) as helper:
            session = Session(folder, stack, helper, source, graph, readers_checked)
            document = run(session, ways, seconds, warm_seconds, talk)
    finally:
        stack.down(0)
        shutil.rmtree(folder, ignore_errors=True)
    document |= {
        "workload": workload.describe(),
        "command": " ".join(["python -m bench.compare", *sys.argv[1:]]),
    }
    path = report.write_result(name, document, results)
    Console(stderr=True, width=max(talk.console.width, TABLE_WIDTH)).print(table_of(document))
    talk.say(f"written to {path}")
    if json_wanted:
        sys.stdout.write(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(fanout.run_app(app))
