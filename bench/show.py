"""The demo while it runs: people publish, readers read, and somebody looks at the numbers.

Everything goes over HTTP: events and pages through the gateway, numbers from each cell. One event
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.live import Live as LiveDisplay

from bench.demo_panel import Live, line, panel
from bench.load import Client
from bench.measured import latency_between
from bench.people import Event, Network, People
from bench.report import Histogram
from bench.talk import Talk
from engine.errors import FirecellError
from topics.histogram import percentile

USERS, AUTHORS, FOLLOWS = 2_000, 400, 40_000
RATE = 300  # events a second
IMPORT_BATCH = 5_000
TICK_S = 0.05  # between two batches of events
READERS_AT_ONCE = 2
READ_PAUSE_S = 0.02  # of a reader between two pages: people, not a load test
LOOK_S = 0.5
LINE_EVERY_S = 5.0
CATCH_UP_S = 30.0
_WINDOW = 10  # looks that p50 and p99 are taken over
_NDJSON = {"content-type": "application/x-ndjson"}


@dataclass
class Options:
    """What the command line asks for."""

    seconds: float | None = None  # None: until Ctrl-C
    headless: bool = False
    port: int = 0
    data: Path | None = None
    rate: float = RATE
    users: int = USERS
    authors: int = AUTHORS
    follows: int = FOLLOWS
    seed: int = 1


class Show:
    """The demo while it runs: tasks that publish, read and look, and the numbers they leave."""

    def __init__(self, options: Options, addresses: dict[str, Any], talk: Talk) -> None:
        self.options = options
        self.talk = talk
        self.stop = asyncio.Event()
        self.network = Network.make(
            options.seed, users=options.users, authors=options.authors, follows=options.follows
        )
        self.people = People(self.network, options.seed)
        self.cells: dict[str, str] = addresses["cells"]
        readers = Counter(reader for reader, _ in self.network.follows)
        self.live = Live(
            url=addresses["url"],
            cells=list(self.cells),
            follows=len(self.network.follows),
            reader=readers.most_common(1)[0][0],
        )
        self.page_ms = Histogram()
        self.import_seconds = 0.0
        self.inbox_counts: list[int] = []  # the cells' histograms of publish to inbox, summed
        self._http = httpx.AsyncClient(base_url=self.live.url, timeout=30, trust_env=False)
        self._first: list[dict[str, Any]] = []
        self._looks: list[tuple[float, list[dict[str, Any]]]] = []
        self._started = time.monotonic()
        self._published = 0
        self._read = 0

    async def import_network(self) -> None:
        """The follows, as NDJSON."""
        started = time.monotonic()
        batch: list[Event] = []
        for event in self.network.follow_events():
            batch.append(event)
            if len(batch) == IMPORT_BATCH:
                await self._publish(batch)
                batch = []
        if batch:
            await self._publish(batch)
        await self.catch_up()
        self.import_seconds = time.monotonic() - started

    async def run(self) -> None:
        """Until `stop`, or the time is over."""
        self._first = await self._stats()
        self._started = time.monotonic()
        self._published = 0
        tasks = [asyncio.create_task(self._post()), asyncio.create_task(self._look())]
        for _ in range(READERS_AT_ONCE):
            tasks.append(asyncio.create_task(self._watch()))
        halt = asyncio.create_task(self._wait())
        try:
            done, _ = await asyncio.wait({*tasks, halt}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # the error of a task that failed
        finally:
            self.stop.set()
            for task in (*tasks, halt):
                task.cancel()
            await asyncio.gather(*tasks, halt, return_exceptions=True)
        self.live.seconds = time.monotonic() - self._started

    async def catch_up(self) -> None:
        """Until every cell has applied what the firehose holds now."""
        deadline = time.monotonic() + CATCH_UP_S
        while True:
            answer = (await self._http.get("/v1/admin/status")).json()
            ends = answer["firehose"]["end"]
            behind = [cell["name"] for cell in answer["cells"] if cell["applied"] != ends]
            behind += [missing["cell"] for missing in answer["missing"]]
            if not behind:
                return
            if time.monotonic() > deadline:
                raise FirecellError(f"behind after {CATCH_UP_S:.0f} s: {', '.join(behind)}")
            await asyncio.sleep(TICK_S)

    async def finish(self) -> None:
        """After the catch-up: the final numbers."""
        last = await self._stats()
        self.inbox_counts = _latency_between(self._first, last)
        self.live.inbox_writes = int(_gain(self._first, last, "inbox_keys_total"))
        self.live.gaps = int(sum(numbers["gaps"] for numbers in last))
        await self._http.aclose()

    # --- the tasks ---

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.options.seconds):
                await self.stop.wait()

    async def _post(self) -> None:
        while True:
            due = int((time.monotonic() - self._started) * self.options.rate) - self._published
            if due > 0:
                await self._publish(self.people.next_events(min(due, IMPORT_BATCH)))
            await asyncio.sleep(TICK_S)

    async def _publish(self, batch: list[Event]) -> None:
        body = b"".join(json.dumps(event).encode() + b"\n" for event in batch)
        answer = await self._http.post("/v1/events", content=body, headers=_NDJSON)
        if answer.status_code != httpx.codes.OK:
            raise FirecellError(f"POST /v1/events: {answer.status_code} {answer.text[:300]}")
        for event, result in zip(batch, answer.text.splitlines(), strict=True):
            outcome = json.loads(result)
            self._published += 1
            self.live.refused += "error" in outcome
            self.live.posts += event["type"] == "post"
            self.people.published(event, outcome)
        self.live.events += len(batch)

    async def _watch(self) -> None:
        """A reader: opens a dashboard, sometimes goes on to the next page."""
        client = Client(self.live.url)
        limit = "dashboard?limit=20"
        try:
            while True:
                reader = self.live.reader if self._read % 20 == 0 else self.people.any_reader()
                path = f"/v1/users/{reader}/{limit}"
                page = await self._read_page(client, path)
                if reader == self.live.reader and page["posts"]:
                    post = page["posts"][0]
                    self.live.newest = f"{post['author']}: {post['text']}"
                if page["next"] is not None and self._read % 3 == 0:
                    await self._read_page(client, f"{path}&cursor={page['next']}")
                await asyncio.sleep(READ_PAUSE_S)
        finally:
            client.close()

    async def _read_page(self, client: Client, path: str) -> dict[str, Any]:
        started = time.perf_counter()
        status, body = await client.get(path)
        self.page_ms.record((time.perf_counter() - started) * 1_000)
        self._read += 1
        self.live.pages += 1
        if status != httpx.codes.OK:
            raise FirecellError(f"GET {path}: {status} {body[:300].decode(errors='replace')}")
        page: dict[str, Any] = json.loads(body)
        return page

    async def _look(self) -> None:
        """Ask the cells for their numbers, twice a second, and show them."""
        shown_at = time.monotonic()
        with self._display() as display:
            while True:
                await asyncio.sleep(LOOK_S)
                self._looks.append((time.monotonic(), await self._stats()))
                self._looks = self._looks[-_WINDOW - 1 :]
                self._update()
                if display is not None:
                    display.update(panel(self.live), refresh=True)
                elif time.monotonic() - shown_at >= LINE_EVERY_S:
                    shown_at = time.monotonic()
                    self.talk.say(line(self.live))

    @contextlib.contextmanager
    def _display(self) -> Iterator[LiveDisplay | None]:
        if self.options.headless or not self.talk.console.is_terminal:
            yield None
            return
        with LiveDisplay(panel(self.live), console=self.talk.console, auto_refresh=False) as shown:
            yield shown

    async def _stats(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for url in self.cells.values():
            answer = await self._http.get(f"{url}/v1/admin/stats")
            found.append(answer.json())
        return found

    def _update(self) -> None:
        live, now = self.live, time.monotonic()
        live.seconds = now - self._started
        (first_at, first), (last_at, last) = self._looks[0], self._looks[-1]
        spent = last_at - first_at
        if spent > 0:
            live.writes_per_second = _gain(first, last, "inbox_keys_total") / spent
            posts = _gain(first, last, "posts_total") / len(self.cells)  # each cell has every post
            live.posts_per_second = posts / spent
        live.note_writes()
        live.inbox_writes = int(_gain(self._first, last, "inbox_keys_total"))
        live.pages_per_second = live.pages / max(live.seconds, 1e-3)
        counts = _latency_between(first, last)
        live.inbox_p50_ms, live.inbox_p99_ms = percentile(counts, 0.5), percentile(counts, 0.99)
        live.page_p99_ms = self.page_ms.percentile(99)
        live.lag_events = int(max(numbers["lag_events"] for numbers in last))
        live.gaps = int(sum(numbers["gaps"] for numbers in last))


def _gain(first: list[dict[str, Any]], last: list[dict[str, Any]], name: str) -> float:
    return float(sum(numbers[name] for numbers in last) - sum(n[name] for n in first))


def _latency_between(first: list[dict[str, Any]], last: list[dict[str, Any]]) -> list[int]:
    """The cells' histograms of publish to inbox, between two looks, summed."""
    cells = [latency_between(before, after) for before, after in zip(first, last, strict=True)]
    return [sum(counts) for counts in zip(*cells, strict=True)]
