"""`./run demo`: the main job before your eyes, and checked at the end.

`firecell up` with two cells on a temporary folder; a small network with stars is imported; people
post, edit, delete, follow, unfollow, block; dashboards are read. Everything goes over HTTP through
the gateway. At the end (after `--seconds`, or Ctrl-C) publishing stops, the cells apply the rest,
the firehose is read back into the oracle, and readers' whole dashboards are compared with it.
With `--real` the same on Kafka, Faust, HBase and Redis, started for it and stopped after it.

Exit code 0 when all is right, 1 when the oracle found something. One event loop, main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import check
from bench.fanout import run_app
from bench.oracle import Oracle
from bench.show import AUTHORS, FOLLOWS, RATE, USERS, Options, Show
from bench.talk import Talk
from cells.settings import load_settings
from engine.errors import FirecellError, Unavailable
from engine.limits import DRAIN_GRACE_S, DRAIN_S, READY_S
from ops.children import child_command, child_environment
from ops.stack_run import Stack
from topics.histogram import percentile
from topics.logs import open_log

CHECK_S = 6.0  # readers are compared for so long, at least CHECK_READERS_MIN of them
CHECK_READERS_MIN = 100
_CONFIG = """\
[firehose]
url = "embedded:./data/firehose"
[cells.c1]
store = "embedded:./data/c1"
[cells.c2]
store = "embedded:./data/c2"
"""
_REAL = """\
[firehose]
url = "{firehose}"
[hbase]
helper = "{helper}"
[cells.c1]
store = "{c1}"
cache = "{redis}"
[cells.c2]
store = "{c2}"
cache = "{redis}"
"""


# --- the processes --------------------------------------------------------------------------------


@asynccontextmanager
async def firecell_up(folder: Path, config: str, port: int) -> AsyncIterator[dict[str, Any]]:
    """`firecell up` on `folder`: {"url", "cells": {name: url}}; drained when left."""
    (folder / "firecell.toml").write_text(config, encoding="utf-8")
    mine = {key: value for key, value in os.environ.items() if not key.startswith("FIRECELL_")}
    with (folder / "up.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *child_command("up", "--config", "firecell.toml", "--port", str(port), "--json"),
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=child_environment(mine),
            process_group=0,  # Ctrl-C is for us: we drain it when the check is done
        )
    try:
        yield await _addresses(process, folder)
    finally:
        await _end(process)
    if process.returncode:
        raise FirecellError(f"`firecell up` ended with exit code {process.returncode}")


async def _addresses(process: asyncio.subprocess.Process, folder: Path) -> dict[str, Any]:
    answer = b""
    if process.stdout is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                answer = await process.stdout.readline()
    if not answer:
        words = (folder / "up.log").read_text(errors="replace").strip()[-1_000:]
        raise Unavailable(f"`firecell up` did not become ready: {words}")
    addresses: dict[str, Any] = json.loads(answer)
    return addresses


async def _end(process: asyncio.subprocess.Process) -> None:
    """One TERM, which drains; KILL when that takes too long."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(DRAIN_S + 2 * DRAIN_GRACE_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise


@contextlib.contextmanager
def real_parts(folder: Path, talk: Talk) -> Iterator[str]:
    """Kafka, HBase and Redis of our own, stopped when left: the configuration that names them."""
    # The jars are kept where those of `firecell stack up` are: beside the code.
    cache = Path(__file__).resolve().parent.parent / ".cache" / "stack"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a start is ended by both
    talk.say("starting Kafka, HBase on HDFS, its Thrift server, and Redis")
    temporary = folder.parent == Path(tempfile.gettempdir())
    with Stack(
        folder / "stack", ports="free", cache=cache, say=talk.say, throwaway=temporary
    ) as stack:
        yield _REAL.format(
            firehose=stack.firehose_url(),
            helper=stack.helper,
            c1=stack.hbase_url("c1"),
            c2=stack.hbase_url("c2"),
            redis=stack.urls["redis"],
        )


# --- the end --------------------------------------------------------------------------------------


async def verify(show: Show, folder: Path) -> check.Report:
    """The firehose read back into the oracle, then dashboards walked through the gateway, as many
    as the time allows."""
    oracle = Oracle()
    settings = load_settings(folder / "firecell.toml", environment={})
    firehose = open_log(settings.firehose, create=False)
    try:
        check.feed(oracle, firehose, firehose.begin_offsets())
    finally:
        firehose.close()
    readers = list(range(1, show.network.users + 1))
    random.Random(show.options.seed).shuffle(readers)
    deadline = time.monotonic() + CHECK_S

    def in_time() -> Iterator[int]:
        for number, reader in enumerate(readers):
            if number >= CHECK_READERS_MIN and time.monotonic() > deadline:
                return
            yield reader

    return await check.compare_all(show.live.url, oracle, in_time(), raw_keys=False)


def summary(show: Show, found: check.Report) -> dict[str, Any]:
    """JSON-ready: what was done, how fast, and whether it is right."""
    live = show.live
    seconds = max(live.seconds, 1e-3)
    return {
        "seconds": round(live.seconds, 1),
        "cells": len(show.cells),
        "users": show.network.users,
        "follows": live.follows,
        "follows_per_second": round(live.follows / max(show.import_seconds, 1e-3), 1),
        "events": live.events - live.follows,
        "posts": live.posts,
        "posts_per_second": round(live.posts / seconds, 1),
        "refused": live.refused,
        "inbox_writes": live.inbox_writes,
        "inbox_writes_per_second": round(live.inbox_writes / seconds, 1),
        "publish_to_inbox_ms": {
            "p50": round(percentile(show.inbox_counts, 0.5), 1),
            "p99": round(percentile(show.inbox_counts, 0.99), 1),
        },
        "pages": live.pages,
        "pages_per_second": round(live.pages / seconds, 1),
        "page_ms": show.page_ms.summary((50, 99)),
        "gaps": live.gaps,
        "oracle": found.document(),
        "ok": found.ok and live.gaps == 0 and live.refused == 0,
    }


def told(document: dict[str, Any], found: check.Report) -> str:
    """The summary for people."""
    inbox, page = document["publish_to_inbox_ms"], document["page_ms"]
    return "\n".join(
        (
            f"demo: {document['seconds']} s, {document['cells']} cells, {document['users']:,}"
            f" people, {document['follows']:,} follows (imported at"
            f" {document['follows_per_second']:,.0f}/s)",
            f"published  {document['events']:,} events, of which {document['posts']:,} posts:"
            f" {document['posts_per_second']:,.0f} posts/s, {document['refused']} refused",
            f"fanned out {document['inbox_writes']:,} inbox keys:"
            f" {document['inbox_writes_per_second']:,.0f} inbox writes/s, publish to inbox p50"
            f" {inbox['p50']:.0f} ms, p99 {inbox['p99']:.0f} ms",
            f"read       {document['pages']:,} pages: {document['pages_per_second']:,.0f}/s,"
            f" p50 {page['p50']:.1f} ms, p99 {page['p99']:.1f} ms",
            f"gaps {document['gaps']}",
            found.verdict(),
        )
    )


async def run(
    options: Options, folder: Path, config: str, talk: Talk
) -> tuple[dict[str, Any], check.Report]:
    """The whole demo on a configuration; the summary and what the check found."""
    loop = asyncio.get_running_loop()
    stop, whole = asyncio.Event(), asyncio.current_task()
    begun = False

    def on_signal() -> None:
        if whole is not None and (stop.is_set() or not begun):
            whole.cancel()  # a second time, or before there is anything to check: now
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    talk.say("starting `firecell up` with two cells")
    async with firecell_up(folder, config, options.port) as addresses:
        talk.say(f"ready at {addresses['url']}")
        show = Show(options, addresses, talk)
        show.stop = stop
        await show.import_network()
        begun = True
        talk.say(f"{options.users:,} people, {options.follows:,} follows; they begin to post")
        await show.run()
        talk.say("publishing has stopped; the cells apply the rest")
        await show.catch_up()
        await show.finish()
        talk.say("comparing dashboards with the oracle")
        found = await verify(show, folder)
        talk.say("draining")
    return summary(show, found), found


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    seconds: Annotated[
        float | None, typer.Option(help="End by itself after so long; else Ctrl-C ends it.")
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="A line every few seconds, no panel.")
    ] = False,
    port: Annotated[int, typer.Option(help="Where it listens; 0 takes a free port.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Keep the data here; else a temporary folder.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Events per second.")] = RATE,
    users: Annotated[int, typer.Option(help="People.")] = USERS,
    authors: Annotated[int, typer.Option(help="Of whom so many post.")] = AUTHORS,
    follows: Annotated[int, typer.Option(help="Follows among them.")] = FOLLOWS,
    seed: Annotated[int, typer.Option(help="Other people, other posts.")] = 1,
    real: Annotated[
        bool, typer.Option("--real", help="On Kafka, Faust, HBase and Redis, started for it.")
    ] = False,
    json_wanted: Annotated[bool, typer.Option("--json", help="The summary as JSON.")] = False,
) -> None:
    """The main job before your eyes: people post, dashboards fill; at the end all is checked.

    \b
    Examples:
      firecell demo                               until Ctrl-C
      firecell demo --seconds 20 --headless       ends by itself, with a summary
      firecell demo --rate 1000 --data ./demo     busier, and the data are kept
      firecell demo --real --seconds 30           the same on Kafka, Faust, HBase and Redis
    """
    options = Options(seconds, headless, port, data, rate, users, authors, follows, seed)
    with contextlib.ExitStack() as opened:
        if data is None:
            temporary = opened.enter_context(tempfile.TemporaryDirectory(prefix="firecell-demo-"))
            folder = Path(temporary)
        else:
            folder = data.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        talk = Talk()
        try:
            config = opened.enter_context(real_parts(folder, talk)) if real else _CONFIG
            document, found = asyncio.run(run(options, folder, config, talk))
        except (asyncio.CancelledError, KeyboardInterrupt):
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
    typer.echo(json.dumps(document) if json_wanted else told(document, found))
    raise typer.Exit(0 if document["ok"] else 1)


if __name__ == "__main__":
    sys.exit(run_app(app))
