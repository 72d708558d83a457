"""`python -m bench.reads`: dashboard pages per second and their latency, near the top and far back.

It goes on in the folder that the last `bench.fanout` left: a cell with its graph and inboxes. Pages
are asked for over HTTP straight at the cell by a load generator in a process of its own, with one
request at a time on each connection; first idle, once no merge of the store runs or is due, then
while posts are fanned out at half of the measured rate.

| what | which pages |
| --- | --- |
| page 1, cold | of READERS readers drawn evenly over all, each once, in random order, right after |
|   | the cell's start: nothing is in its caches (the kernel's may hold the files) |
| page 1, hot | of the same readers, over and over |
| page 1, 20, 300, deep | of the readers with the longest inboxes; cursors are found by walking |

The readers of page 300 are few (only the busiest have 6,000 posts): the result says how many.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
import uvloop

from bench import load, machine, report
from bench.fanout import LATENCY_SHARE, run_app
from bench.feeder import Feeder
from bench.load import Client, LoadResult, Task
from bench.prepare import KEEP, PARTITIONS, RUN, RUN_FILE
from bench.processes import CellProcess, settings_of
from bench.talk import Talk
from bench.workload import LARGEST_FOLLOWERS, U64s, Workload
from engine.errors import NotFound, Precondition
from engine.limits import PAGE_POSTS_DEFAULT

PAGES = (1, 20, 300)
READERS = 20_000  # whose first page is asked for: some 400,000 posts, which the cache holds
COLD_SECONDS = 60.0  # for the first round over all of them, at most
DEEP_MAX = 64  # readers whose far pages are asked for
CONNECTIONS = 16
SECONDS = 10.0
_DEPTH_SLACK = 1.05  # forecast posts are a mean: ask for a little more
_SEED = 2  # of the posts that are published beside the reads


class _Next(msgspec.Struct):
    next: str | None
    posts: list[msgspec.Raw]


_next = msgspec.json.Decoder(_Next)


@dataclass
class Options:
    """What the command line asks for."""

    seconds: float = SECONDS
    connections: int = CONNECTIONS
    seed: int = 1
    beside: bool = True


class Others:
    """What share of the cores neither the cell nor this bench has used since."""

    def __init__(self, cell: CellProcess) -> None:
        self._cell = cell
        self._before = self._look()

    def _look(self) -> tuple[float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # the load generators
        ours = machine.cpu_seconds() + ended.ru_utime + ended.ru_stime + self._cell.cpu_seconds()
        return time.monotonic(), machine.busy_seconds() - ours

    def share(self) -> float:
        """0..1, of all cores together."""
        (start, before), (end, after) = self._before, self._look()
        return round(max(after - before, 0.0) / (end - start) / machine.cores(), 3)


def forecast_posts(workload: Workload, posts: int) -> U64s:
    """(U,) about how many posts each user's inbox holds after `posts` posts: the mean."""
    weights = np.diff(workload.post_ends, prepend=0) * (posts / int(workload.post_ends[-1]))
    per_edge = np.repeat(weights, workload.follower_counts)
    held = np.bincount(workload.followers, weights=per_edge, minlength=len(workload.users))
    return held.astype(np.uint64)


def deep_readers(workload: Workload, posts: int, pages: int) -> list[int]:
    """Readers whose inbox should reach page `pages`, the longest first, at most DEEP_MAX."""
    held = forecast_posts(workload, posts)
    order = np.argsort(held)[::-1][:DEEP_MAX]
    wanted = pages * PAGE_POSTS_DEFAULT * _DEPTH_SLACK
    return [int(workload.users[place]) for place in order.tolist() if held[place] >= wanted]


async def find_cursors(url: str, readers: list[int], pages: int) -> dict[int, list[str]]:
    """Walk each reader's dashboard, 20 posts a page: reader -> paths of page 1, 2, ... up to
    `pages`, fewer when it ends before."""
    found: dict[int, list[str]] = {}

    async def walk(client: Client, reader: int) -> None:
        first = path = f"/v1/users/{reader}/dashboard?limit={PAGE_POSTS_DEFAULT}"
        paths = found[reader] = [first]
        while len(paths) < pages:
            status, body = await client.get(path)
            page = _next.decode(body) if status == load.OK else None
            if page is None or page.next is None:
                return
            path = f"{first}&cursor={page.next}"
            paths.append(path)

    await load.for_each(url, readers, walk, 4)
    return found


def first_pages(workload: Workload, seed: int) -> list[str]:
    """Paths of page 1 of READERS readers, drawn evenly, in random order."""
    drawn = sorted(workload.sample_readers(READERS, seed))
    order = np.random.default_rng(seed).permutation(len(drawn)).tolist()
    return [f"/v1/users/{drawn[n]}/dashboard?limit={PAGE_POSTS_DEFAULT}" for n in order]


def deep_pages(url: str, workload: Workload, posts: int, talk: Talk) -> dict[str, list[str]]:
    """Kind of page -> its paths, of the readers who have the most pages."""
    for deepest in sorted(PAGES, reverse=True):
        readers = deep_readers(workload, posts, deepest)
        if readers:
            break
    talk.say(f"walking {len(readers)} readers to page {deepest}")
    walked = uvloop.run(find_cursors(url, readers, deepest))
    chosen = {}
    for page in PAGES:
        paths = [paths[page - 1] for paths in walked.values() if len(paths) >= page]
        if paths:
            chosen[f"page_{page}_deep"] = paths
    return chosen


def _shown(result: LoadResult, paths: list[str]) -> dict[str, Any]:
    return {
        "pages_per_second": result.per_second,
        "ms": {name: value for name, value in result.latency_ms.items() if name[0] == "p"},
        "distinct": len(paths),
        "posts_per_page": result.posts_per_page,
        "bytes_per_page": result.bytes_per_page,
        "failures": result.failures,
    }


def cost_of_depth(idle: dict[str, Any]) -> float | None:
    """How many times page 1 of the same readers page 300 costs, by the rate over one connection;
    None when nobody has so many posts."""
    near, far = (idle.get(f"page_{page}_deep_one_connection") for page in (PAGES[0], PAGES[-1]))
    if near is None or far is None or not far["pages_per_second"]:
        return None
    return round(float(near["pages_per_second"] / far["pages_per_second"]), 2)


def compact(document: dict[str, Any]) -> dict[str, Any]:
    """The result for a table: a line for each kind of page."""
    lines: dict[str, Any] = {}
    for name, value in document.items():
        if name not in ("idle", "beside_fan_out"):
            lines[name] = value
            continue
        for kind, found in value.items():
            lines[f"{name}.{kind}"] = found
            if isinstance(found, dict):
                rate, ms = found["pages_per_second"], found["ms"]
                lines[f"{name}.{kind}"] = (
                    f"{rate:,.0f}/s, p50 {ms['p50']:.2f} ms, p99 {ms['p99']:.2f} ms"
                )
    lines.pop("workload", None)
    return lines


def _say(kind: str, result: LoadResult, talk: Talk) -> None:
    talk.say(
        f"{kind}: {result.per_second:,.0f} pages/s, p50 {result.latency_ms['p50']:.2f} ms,"
        f" p99 {result.latency_ms['p99']:.2f} ms"
        + (f", {result.failures} failures" if result.failures else "")
    )


def read_cold(url: str, paths: list[str], options: Options, talk: Talk) -> dict[str, Any]:
    """Each page once."""
    task = Task(url, paths, options.connections, COLD_SECONDS, warm_seconds=0.0, once=True)
    result = load.end_load(load.start_load(task))
    _say("page_1_cold", result, talk)
    return {**_shown(result, paths), "asked": result.requests}


def read_all(
    url: str,
    chosen: dict[str, list[str]],
    options: Options,
    talk: Talk,
    generate: Callable[[Task], LoadResult],
) -> dict[str, Any]:
    """Every kind of page in turn, over all connections; then each over one, for its latency."""
    found: dict[str, Any] = {}
    for name, paths in chosen.items():
        for connections in (options.connections, 1):
            task = Task(url, paths, connections, options.seconds, min(1.0, options.seconds))
            kind = name if connections > 1 else f"{name}_one_connection"
            result = generate(task)
            found[kind] = _shown(result, paths)
            _say(kind, result, talk)
    return found


def beside_fan_out(feeder: Feeder, per_second: float) -> Callable[[Task], LoadResult]:
    """A way to generate load while posts are published at `per_second`."""

    def generate(task: Task) -> LoadResult:
        process = load.start_load(task)
        try:
            feeder.pace(per_second, 10 * task.seconds, lambda: process.poll() is None)
        finally:
            result = load.end_load(process)
        return result

    return generate


def run(workload: Workload, keep: Path, options: Options, talk: Talk) -> dict[str, Any]:
    """All of it; the result document."""
    folder = keep / RUN
    if not (folder / RUN_FILE).exists():
        raise NotFound(f"{folder} holds no finished run: do `python -m bench.fanout` first")
    ceiling = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    if ceiling["workload"] != workload.describe():
        raise Precondition(
            f"{folder} holds another workload's run: give the sizes of that `bench.fanout`"
        )
    document: dict[str, Any] = {"connections": options.connections, "posts": ceiling["posts"]}
    with CellProcess(folder) as cell:
        document["start_seconds"] = round(cell.start_seconds, 2)
        document["merges"] = cell.wait_settled()
        others = Others(cell)
        first = first_pages(workload, options.seed)
        talk.say(f"idle, {document['merges']}")
        cold = read_cold(cell.url, first, options, talk)
        chosen = {"page_1_hot": first}
        chosen |= deep_pages(cell.url, workload, ceiling["posts"], talk)
        document["readers"] = {name: len(paths) for name, paths in chosen.items()}
        idle = read_all(
            cell.url, chosen, options, talk, lambda task: load.end_load(load.start_load(task))
        )
        document["idle"] = {"page_1_cold": cold, **idle, "other_cpu_share": others.share()}
        if options.beside:
            document["beside_fan_out"] = beside(cell, folder, workload, chosen, options, talk)
    document["page_300_costs_page_1"] = cost_of_depth(document["idle"])
    kinds = [*document["idle"].values(), *document.get("beside_fan_out", {}).values()]
    document["ok"] = not any(kind["failures"] for kind in kinds if isinstance(kind, dict))
    return {**document, "workload": workload.describe()}


def beside(
    cell: CellProcess,
    folder: Path,
    workload: Workload,
    chosen: dict[str, list[str]],
    options: Options,
    talk: Talk,
) -> dict[str, Any]:
    """The same reads while the cell fans out at half of its ceiling."""
    ceiling = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    per_second = LATENCY_SHARE * ceiling["posts_per_second"]
    talk.say(f"beside fan-out at {per_second:,.0f} posts/s")
    feeder = Feeder(settings_of(folder).firehose.place, PARTITIONS, workload, _SEED)
    try:
        before, others = cell.stats(), Others(cell)
        found = read_all(cell.url, chosen, options, talk, beside_fan_out(feeder, per_second))
        after = cell.stats()
    finally:
        feeder.close()
    spent = after["at"] - before["at"]
    written = after["inbox_keys_total"] - before["inbox_keys_total"]
    found["inbox_writes_per_second"] = round(written / spent, 1)
    found["other_cpu_share"] = others.share()
    found["posts_per_second_asked"] = round(per_second, 1)
    found["lag_events_at_end"] = after["lag_events"]
    return found


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = SECONDS,
    connections: Annotated[int, typer.Option(help="Kept open at once.")] = CONNECTIONS,
    readers: Annotated[int, typer.Option(help="As given to bench fanout.")] = 1_000_000,
    edges: Annotated[int, typer.Option(help="As given to bench fanout.")] = 20_000_000,
    authors: Annotated[int, typer.Option(help="As given to bench fanout.")] = 100_000,
    largest: Annotated[int, typer.Option(help="As given to bench fanout.")] = LARGEST_FOLLOWERS,
    graph: Annotated[Path | None, typer.Option(help="As given to bench fanout.")] = None,
    seed: Annotated[int, typer.Option(help="As given to bench fanout.")] = 1,
    keep: Annotated[
        Path, typer.Option(help="Where the run lies.", show_default=".cache/bench")
    ] = KEEP,
    idle_only: Annotated[bool, typer.Option("--idle-only", help="Not beside fan-out.")] = False,
    name: Annotated[str, typer.Option(help="Of the result file.")] = "reads",
    results: Annotated[
        Path, typer.Option(help="Folder of result files.", show_default="bench/results")
    ] = report.RESULTS,
    json_wanted: Annotated[bool, typer.Option("--json", help="The result on stdout.")] = False,
) -> None:
    """Dashboard pages per second and their latency: page 1, 20 and 300, idle and beside fan-out.

    \b
    Examples:
      firecell bench fanout && firecell bench reads
      firecell bench reads --seconds 5 --idle-only
    """
    talk = Talk()
    if graph is not None:
        workload = Workload.from_file(graph, seed)
    else:
        workload = Workload.power_law(
            seed, readers=readers, edges=edges, authors=authors, largest=largest
        )
    options = Options(seconds, connections, seed, not idle_only)
    document = run(workload, keep.absolute(), options, talk)
    document["command"] = " ".join(["python -m bench.reads", *sys.argv[1:]])
    path = report.write_result(name, document, results)
    report.show(name, compact(document), talk.console)
    talk.say(f"written to {path}")
    if json_wanted:
        sys.stdout.write(path.read_text(encoding="utf-8"))
    raise typer.Exit(0 if document["ok"] else 1)


if __name__ == "__main__":
    sys.exit(run_app(app))
