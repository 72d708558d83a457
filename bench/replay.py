"""`python -m bench.replay`: how fast a cell replays, alone and beside live work, in one run.

1. live      as `bench.fanout`: the rate of inbox writes, and the latency at half of it
2. alone     the posts of phase 1 are applied again while nothing is live: events a second, against
             those of phase 1
3. beside    the same replay while posts come at half of the measured rate: the latency, against
             that of phase 1, and what the replay reaches

The cell is `firecell cell`, unmodified, asked over its HTTP. Numbers are its own.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from bench import fanout, prepare, report
from bench.fanout import LATENCY_SETTLE_S, LATENCY_SHARE, Options
from bench.feeder import Feeder
from bench.measured import figures, latency_between
from bench.prepare import KEEP, PARTITIONS
from bench.processes import CellProcess, settings_of
from bench.talk import Talk
from bench.workload import LARGEST_FOLLOWERS, Workload
from topics.histogram import percentile

_POLL_S = 0.1
_JOBS = "/v1/admin/jobs"


def run(workload: Workload, options: Options, talk: Talk) -> dict[str, Any]:
    """All phases; the result document."""
    prepare.prepare(options.keep, workload, options.urls, talk, fresh=options.fresh)
    folder = prepare.folder_for_run(options.keep, workload, options.urls, talk)
    feeder = Feeder(settings_of(folder).firehose.place, PARTITIONS, workload)
    try:
        with CellProcess(folder) as cell:
            rate = fanout.warm_up(cell, feeder, options, talk)
            starts = feeder.log.end_offsets()
            measured = fanout.measure(cell, feeder, options, rate, talk)
            live = figures(measured)
            half = LATENCY_SHARE * live["posts_per_second"]
            quiet = fanout.latency(cell, feeder, half, options.latency_seconds, talk)
            cell.wait_settled()  # what the live load left to merge is not the replay's
            alone = replay(cell, starts, talk)
            cell.wait_settled()
            beside = replay_beside(cell, feeder, starts, half, options.latency_seconds, talk)
            cell.stop()
    finally:
        feeder.close()
    p99 = quiet["publish_to_inbox_ms"]["p99"]
    return {
        "inbox_writes_per_second": live["inbox_writes_per_second"],
        "posts_per_second": live["posts_per_second"],
        "replay_posts_per_second": alone,
        "replay_of_live": round(alone / live["posts_per_second"], 3),
        "live_p99_ms": p99,
        **beside,
        "p99_beside_of_live": round(beside["beside_p99_ms"] / max(p99, 1e-9), 2),
        "workload": workload.describe(),
    }


def ask(cell: CellProcess, starts: list[int]) -> str:
    """Begin a replay from these offsets; its id."""
    since = ",".join(f"{partition}:{offset}" for partition, offset in enumerate(starts))
    body = {"kind": "replay", "since": since, "execute": True}
    answer = httpx.post(f"{cell.url}{_JOBS}", json=body, timeout=30, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["id"])


def look(cell: CellProcess, name: str) -> dict[str, Any]:
    """How far it is."""
    answer = httpx.get(f"{cell.url}{_JOBS}/{name}", timeout=30, trust_env=False)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def replay(cell: CellProcess, starts: list[int], talk: Talk) -> float:
    """Phase 2: events a second from the asking to the end."""
    started = time.monotonic()
    name = ask(cell, starts)
    while (job := look(cell, name))["state"] == "running":
        time.sleep(_POLL_S)
    rate = float(job["result"]["events_done"] / (time.monotonic() - started))
    talk.say(f"replay alone: {rate:,.0f} posts/s")
    return round(rate, 1)


def replay_beside(
    cell: CellProcess, feeder: Feeder, starts: list[int], half: float, seconds: float, talk: Talk
) -> dict[str, Any]:
    """Phase 3."""
    name = ask(cell, starts)
    feeder.pace(half, LATENCY_SETTLE_S)
    before, replayed = cell.stats(), look(cell, name)["result"]["events_done"]
    started = time.monotonic()
    reached = feeder.pace(half, seconds)
    after, job = cell.stats(), look(cell, name)
    spent = time.monotonic() - started
    counts = latency_between(before, after)
    rate = (job["result"]["events_done"] - replayed) / spent
    p99 = round(percentile(counts, 0.99), 1)
    talk.say(f"beside {reached:,.0f} posts/s: p99 {p99:.0f} ms, replay {rate:,.0f} posts/s")
    return {
        "beside_p50_ms": round(percentile(counts, 0.5), 1),
        "beside_p99_ms": p99,
        "beside_posts_per_second": round(reached, 1),
        "beside_replay_posts_per_second": round(rate, 1),
        "replay_ran_throughout": job["state"] == "running",
    }


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    seconds: Annotated[float, typer.Option(help="How long to measure, at least.")] = 20.0,
    readers: Annotated[int, typer.Option(help="Users of the power-law graph.")] = 100_000,
    edges: Annotated[int, typer.Option(help="Its follows.")] = 2_000_000,
    authors: Annotated[int, typer.Option(help="Its users who post.")] = 10_000,
    largest: Annotated[
        int, typer.Option(help="Followers of its most followed author.")
    ] = LARGEST_FOLLOWERS,
    latency_seconds: Annotated[float, typer.Option(help="How long each load lasts.")] = 15.0,
    seed: Annotated[int, typer.Option(help="Of the graph and the posts.")] = 1,
    keep: Annotated[
        Path, typer.Option(help="Where prepared folders are kept.", show_default=".cache/bench")
    ] = KEEP,
    results: Annotated[
        Path, typer.Option(help="Folder of result files.", show_default="bench/results")
    ] = report.RESULTS,
    json_wanted: Annotated[bool, typer.Option("--json", help="The result on stdout.")] = False,
) -> None:
    """Replay: its rate alone against live fan-out, and what it costs live work.

    \b
    Example:
      firecell bench replay
    """
    talk = Talk()
    workload = Workload.power_law(
        seed, readers=readers, edges=edges, authors=authors, largest=largest
    )
    options = Options(
        seconds=seconds,
        latency_seconds=latency_seconds,
        warm_posts=20_000,
        seed=seed,
        keep=keep.absolute(),
    )
    document = run(workload, options, talk)
    document["command"] = " ".join(["python -m bench.replay", *sys.argv[1:]])
    path = report.write_result(f"replay-power-law-{edges}", document, results)
    report.show("replay", {k: v for k, v in document.items() if k != "workload"}, talk.console)
    talk.say(f"written to {path}")
    if json_wanted:
        sys.stdout.write(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(fanout.run_app(app))
