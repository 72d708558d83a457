"""`python -m bench.fanout`: the inbox writes a second that one cell sustains, and their proof.

The cell is a black box: `firecell cell`, unmodified, reads a real firehose; nothing of its store is
imported here. Numbers come from its HTTP and from /proc.

1. prepare    the graph, as follow events, once per workload; a copy of it for this run (parts that
              are not embedded cannot be copied: there each run goes on where the last one ended)
2. start      the cell from its snapshot: seconds, memory per edge
3. warm up    some posts, until all is applied
4. measure    the cell is stopped (SIGSTOP), posts for the whole time are appended, the cell goes on
              (SIGCONT): from here until everything is applied and durable, the last flush inside
5. latency    after a rest, posts paced at half of the measured rate: publish to inbox, p50, p99
6. pulled     with --push-followers-max: pages of readers who follow 0, 5, 20 pulled authors
7. check      sampled readers' dashboards and raw keys against the oracle, fed from the firehose

Exit code 1 when the check fails. The posts lie there before the clock starts, so publishing takes
nothing from the two cores that the cell is measured on.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import check, machine, prepare, pulled, report
from bench.feeder import Feeder
from bench.measured import Measured, figures, latency_between, step_seconds
from bench.oracle import Oracle
from bench.prepare import KEEP, PARTITIONS, RUN_FILE, Prepared
from bench.processes import CellProcess, Urls, set_push_followers_max, settings_of
from bench.talk import Talk
from bench.workload import LARGEST_FOLLOWERS, Workload
from engine.errors import FirecellError
from engine.ports import Log
from topics.histogram import percentile
from topics.urls import parse_cache, parse_firehose, parse_store

WARM_POSTS = 100_000
WARM_POSTS_GRAPH = 2_000  # where the mean fan-out is a thousand and more
GRAPH_POSTS = 20_000
SURPLUS = 1.15  # posts are appended for so much more than the time asked for
TOP_UP = 0.10  # and this share more, as often as they would not last
LATENCY_S, LATENCY_SETTLE_S = 30.0, 2.0
LATENCY_SHARE = 0.5


@dataclass
class Options:
    """What the command line asks for."""

    seconds: float = 60.0
    posts: int = 0  # exactly so many, whatever time they take; 0: by `seconds`
    sample: int = 1_000  # 0: every reader
    latency: bool = True
    latency_seconds: float = LATENCY_S
    warm_posts: int = WARM_POSTS
    seed: int = 1
    push_followers_max: int = 0  # 0: the cell's default
    keep: Path = KEEP
    fresh: bool = False
    urls: Urls = field(default_factory=Urls)


# --- the phases -----------------------------------------------------------------------------------


def run(workload: Workload, options: Options, talk: Talk) -> dict[str, Any]:
    """All phases; the result document. Leaves the run folder for `bench.reads`."""
    urls = options.urls
    prepared = prepare.prepare(options.keep, workload, urls, talk, fresh=options.fresh)
    folder = prepare.folder_for_run(options.keep, workload, urls, talk)
    if options.push_followers_max:
        set_push_followers_max(folder, options.push_followers_max)
    feeder = Feeder(settings_of(folder).firehose.place, PARTITIONS, workload)
    document: dict[str, Any] = {}
    try:
        starts = prepared.ends or feeder.log.end_offsets()
        with CellProcess(folder) as cell:
            document["start"] = started(cell, prepared, talk)
            rate = warm_up(cell, feeder, options, talk)
            measured = measure(cell, feeder, options, rate, talk)
            document = {**figures(measured), **document}
            talk.say(f"{document['inbox_writes_per_second']:,.0f} inbox writes/s")
            if options.latency:
                half = LATENCY_SHARE * document["posts_per_second"]
                document |= latency(cell, feeder, half, options.latency_seconds, talk)
            if options.push_followers_max:
                document |= pulled.page_costs(cell, workload, options.push_followers_max, talk)
            oracle = gather_oracle(workload, folder, feeder.log, starts, options, talk)
            found = judge(cell.url, oracle, workload, talk)
            document["oracle"] = found.document()
            document["memory_bytes_max"] = cell.memory_bytes_max()
            document["stop_seconds"] = round(cell.stop(), 2)
    finally:
        feeder.close()
    left = {
        "posts_per_second": document["posts_per_second"],
        "posts": feeder.posted,
        "workload": workload.describe(),
    }
    (folder / RUN_FILE).write_text(json.dumps(left), encoding="utf-8")
    talk.say(found.verdict())
    return {
        **document,
        "ok": found.ok,
        "prepare": vars(prepared),
        "workload": workload.describe(),
        "parts": {name: url.partition(":")[0] for name, url in asdict(urls).items() if url},
        "command": " ".join(["python -m bench.fanout", *sys.argv[1:]]),
    }


def started(cell: CellProcess, prepared: Prepared, talk: Talk) -> dict[str, Any]:
    """Phase 2: the start from the snapshot, and the memory that the graph takes."""
    memory = cell.memory_bytes()
    edges = max(prepared.edges, 1)
    per_edge = (memory["all"] - prepared.empty_memory_bytes) / edges
    talk.say(f"started with {edges:,} edges in {cell.start_seconds:.2f} s, {per_edge:.1f} B/edge")
    return {
        "seconds": round(cell.start_seconds, 2),
        "seconds_when_empty": prepared.empty_start_seconds,
        "edges": prepared.edges,
        "memory_bytes": memory["all"],
        "memory_bytes_when_empty": prepared.empty_memory_bytes,
        "memory_bytes_per_edge": round(per_edge, 2),
        "own_memory_bytes_per_edge": round((memory["own"] - prepared.empty_own_bytes) / edges, 2),
    }


def warm_up(cell: CellProcess, feeder: Feeder, options: Options, talk: Talk) -> float:
    """Phase 3; posts/s of its second half, the better forecast."""
    done = int(cell.stats()["events_total"])
    rate = 0.0
    for part in (options.warm_posts // 2, options.warm_posts - options.warm_posts // 2):
        cell.pause()
        feeder.post(part)
        start_at = time.monotonic()
        cell.resume()
        done += part
        rate = part / max(cell.wait_applied(done)["at"] - start_at, 1e-3)
    talk.say(f"warmed up with {options.warm_posts:,} posts: {rate:,.0f} posts/s")
    return rate


def measure(
    cell: CellProcess, feeder: Feeder, options: Options, rate: float, talk: Talk
) -> Measured:
    """Phase 4."""
    count = options.posts or max(int(rate * options.seconds * SURPLUS), 1)
    before = cell.stats()
    cell.pause()
    feeder.post(count, lambda done: talk.progress("posts appended", done, count))
    talk.say(f"{count:,} posts appended; the cell goes on")
    cpu_seconds, written, busy = cell.cpu_seconds(), cell.written_bytes(), machine.busy_seconds()
    python_cpu = cell.python_cpu_seconds()
    target = int(before["events_total"]) + count
    looks: list[tuple[float, float]] = []
    topped_up = 0
    start_at = time.monotonic()
    cell.resume()

    def look(numbers: dict[str, Any]) -> int:
        """Note where it is; the posts to wait for in addition."""
        nonlocal topped_up
        spent = numbers["at"] - start_at
        keys = numbers["inbox_keys_total"] - before["inbox_keys_total"]
        looks.append((spent, keys))
        talk.progress("inbox keys written", keys, keys * options.seconds / max(spent, 1e-3))
        done = numbers["events_total"] - before["events_total"]
        forecast_s = spent * (count + topped_up) / done if done else options.seconds
        near = done > (count + topped_up) * (1 - 1.5 * TOP_UP)
        if options.posts or not near or forecast_s >= options.seconds:
            return 0
        more = max(int(TOP_UP * count), 1)
        feeder.post(more)
        topped_up += more
        return more

    after = cell.wait_applied(target, on_look=look)
    if topped_up:
        talk.say(f"{topped_up:,} posts were appended meanwhile: the warm-up was slower")
    own = cell.cpu_seconds() - cpu_seconds
    return Measured(
        before,
        after,
        seconds=after["at"] - start_at,
        cpu_seconds=own,
        written_bytes=cell.written_bytes() - written,
        topped_up_posts=topped_up,
        python_cpu_seconds=cell.python_cpu_seconds() - python_cpu,
        other_cpu_seconds=machine.busy_seconds() - busy - own,
        looks=looks,
    )


def latency(
    cell: CellProcess, feeder: Feeder, per_second: float, seconds: float, talk: Talk
) -> dict[str, Any]:
    """Phase 5: from the append to the durable inbox keys, as the cell's own histogram has it."""
    settled_s = cell.wait_settled()["seconds"]  # what phase 4 left to merge is not this load's
    talk.say(f"latency: {per_second:,.0f} posts/s for {seconds:.0f} s, after {settled_s} s of rest")
    feeder.pace(per_second, LATENCY_SETTLE_S)
    before = cell.stats()
    reached = feeder.pace(per_second, seconds)
    after = cell.stats()
    counts = latency_between(before, after)
    shares = (0.5, 0.9, 0.99, 0.999)
    found = {f"p{share * 100:g}": round(percentile(counts, share), 1) for share in shares}
    talk.say(f"publish to inbox: p50 {found['p50']:.0f} ms, p99 {found['p99']:.0f} ms")
    settled = cell.wait_applied(int(after["events_total"] + after["lag_events"]))
    return {
        "publish_to_inbox_ms": {
            **found,
            "events": sum(counts),
            "posts_per_second": round(reached, 1),
            "lag_events_at_end": after["lag_events"],
            "drained_seconds": round(settled["at"] - after["at"], 2),
            "rested_seconds": settled_s,
            "stall_ms": after.get("store_stall_ms", 0) - before.get("store_stall_ms", 0),
            "batches": int(after["batches_total"] - before["batches_total"]),
            "step_seconds": step_seconds(before, after, after["at"] - before["at"]),
        }
    }


def gather_oracle(
    workload: Workload,
    folder: Path,
    log: Log,
    starts: list[int],
    options: Options,
    talk: Talk,
) -> Oracle:
    """Phase 7, first half: the follows from where they were acknowledged, posts read back."""
    sample = workload.sample_readers(options.sample or len(workload.users), options.seed)
    oracle = Oracle(sample)
    placed = prepare.load_follows(folder)
    done = 0
    for readers, authors in workload.follow_edges():
        span = slice(done, done + len(readers))
        oracle.follow_edges_bulk(readers, authors, placed.offsets[span], placed.times_ms[span])
        done += len(readers)
    total = sum(log.end_offsets()) - sum(starts)
    check.feed(oracle, log, starts, lambda read: talk.progress("posts read back", read, total))
    return oracle


def judge(url: str, oracle: Oracle, workload: Workload, talk: Talk) -> check.Report:
    """Phase 7, second half."""
    sample = sorted(oracle.readers or ())
    talk.say(f"comparing the dashboards and stored keys of {len(sample):,} readers")
    return check.compare(
        url,
        oracle,
        sample,
        raw_keys=True,
        on_reader=lambda done: talk.progress("readers compared", done, len(sample)),
    )


# --- the command line -----------------------------------------------------------------------------

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="How long to measure, at least.")] = 60.0,
    readers: Annotated[int, typer.Option(help="Users of the power-law graph.")] = 1_000_000,
    edges: Annotated[int, typer.Option(help="Its follows.")] = 20_000_000,
    authors: Annotated[int, typer.Option(help="Its users who post.")] = 100_000,
    largest: Annotated[int, typer.Option(help="Most followers of one.")] = LARGEST_FOLLOWERS,
    graph: Annotated[
        Path | None,
        typer.Option(help="A real graph instead, `reader author` per line; then 20,000 posts."),
    ] = None,
    firehose: Annotated[str, typer.Option(help="embedded:FOLDER or kafka://host:port/new")] = "",
    store: Annotated[str, typer.Option(help="embedded:FOLDER or hbase://host:port/new")] = "",
    cache: Annotated[str, typer.Option(help="memory: or redis://host:6379/0.")] = "",
    helper: Annotated[Path | None, typer.Option(help="helper.args of `stack up`.")] = None,
    posts: Annotated[int, typer.Option(help="Measure exactly so many; 0: by --seconds.")] = 0,
    warm_posts: Annotated[int, typer.Option(help="Posts before; 0: chosen.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the graph, the posts and the sample.")] = 1,
    keep: Annotated[
        Path, typer.Option(help="Prepared folders.", show_default=".cache/bench")
    ] = KEEP,
    sample: Annotated[str, typer.Option(help="Readers to compare: a number, or all.")] = "1000",
    name: Annotated[str, typer.Option(help="Of the result file; else chosen.")] = "",
    results: Annotated[
        Path, typer.Option(help="Folder of result files.", show_default="bench/results")
    ] = report.RESULTS,
    push_followers_max: Annotated[int, typer.Option(help="Pull above; 0: the default.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Prepare again.")] = False,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Leave phase 5 out.")] = False,
    latency_seconds: Annotated[float, typer.Option(help="How long phase 5 takes.")] = LATENCY_S,
    json_wanted: Annotated[bool, typer.Option("--json", help="The result on stdout.")] = False,
) -> None:
    """Fan-out: inbox writes per second of one cell, durable, checked against an oracle.

    \b
    Examples:
      firecell bench fanout
      firecell bench fanout --seconds 5 --readers 20000 --edges 400000 --authors 5000 --largest 2000
      firecell bench fanout --graph follows.txt.gz --sample all
      firecell bench fanout --edges 2000000 --firehose kafka://127.0.0.1:9092/bench
      firecell bench fanout --graph follows.txt.gz --push-followers-max 500
    """
    if sample != "all" and not (sample.isdigit() and int(sample) > 0):
        raise typer.BadParameter(f"--sample {sample}: give a number above 0, or all")
    talk = Talk()
    if graph is not None:
        workload = Workload.from_file(graph, seed)
        name = name or "fanout-" + graph.name.split(".")[0].lower()
        posts = posts or GRAPH_POSTS
    else:
        talk.say(f"making the graph: {readers:,} readers, {edges:,} follows, seed {seed}")
        size = {"readers": readers, "edges": edges, "authors": authors, "largest": largest}
        workload = Workload.power_law(seed, **size)
        name = name or f"fanout-power-law-{edges}"
    urls = urls_of(firehose, store, cache, helper)
    options = Options(
        seconds=seconds,
        posts=posts,
        sample=0 if sample == "all" else int(sample),
        latency=not no_latency,
        latency_seconds=latency_seconds,
        warm_posts=warm_posts or (WARM_POSTS_GRAPH if graph else WARM_POSTS),
        seed=seed,
        push_followers_max=push_followers_max,
        keep=keep.absolute(),
        fresh=fresh,
        urls=urls,
    )
    document = run(workload, options, talk)
    tell(f"{name}-{urls.names}" if urls.real else name, document, results, json_wanted, talk)
    raise typer.Exit(0 if document["ok"] else 1)


def tell(name: str, document: dict[str, Any], results: Path, json_wanted: bool, talk: Talk) -> None:
    """Keep the result and show it."""
    path = report.write_result(name, document, results)
    hidden = ("store_after", "gil_share_how", "workload")
    shown = {key: value for key, value in document.items() if key not in hidden}
    report.show(name, shown, talk.console)
    talk.say(f"written to {path}")
    if json_wanted:
        sys.stdout.write(path.read_text(encoding="utf-8"))


def urls_of(firehose: str, store: str, cache: str, helper: Path | None) -> Urls:
    """The parts as typed, folders made absolute: the cell runs somewhere else. BadInput."""
    given = {"firehose": firehose, "store": store, "cache": cache}
    checks = {"firehose": parse_firehose, "store": parse_store}
    for what, check_url in checks.items():
        if given[what]:
            check_url(given[what], Path.cwd())
    if cache:
        parse_cache(cache)
    absolute = {
        what: f"embedded:{Path(url.removeprefix('embedded:')).absolute()}"
        if url.startswith("embedded:")
        else url
        for what, url in given.items()
        if url
    }
    return Urls(**absolute, helper=str(helper.absolute()) if helper else "")


def run_app(application: typer.Typer) -> int:
    """A benchmark's command line; the exit code. Errors of ours end it with one sentence."""
    try:
        result = application(standalone_mode=True)
    except FirecellError as error:
        typer.echo(f"bench: {error.message}", err=True)
        return error.exit_code
    return int(result or 0)


if __name__ == "__main__":
    sys.exit(run_app(app))
