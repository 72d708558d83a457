"""A whole real stack under load: `firecell up` with two cells, one thread that publishes, one that
reads, and what either of them saw that must not be.

The load is people's (bench/people.py) and one author's whose posts are numbered, so that a reader
can tell a lost or a doubled one at once. Pages may be right or 503 with Retry-After, nothing else.
"""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from bench.people import Network, People
from cells.hbase_client import Address, HBaseClient
from cells.hbase_schema import TABLES
from engine.errors import Unavailable
from ops.stack_run import Stack
from tests import real_parts
from tests.chaos.up import Up

USERS, AUTHORS, FOLLOWS, PARTITIONS = 120, 30, 1_200, 8
CELLS = ("c1", "c2")
_BATCH, _PAUSE_S = 5, 0.1  # of the load: some 50 events a second
_PREFIX = "number "
_NDJSON = {"content-type": "application/x-ndjson"}
_GIVE_UP_S = 20.0  # of one request: longer than any answer may take


class RealRun:
    """`up` on a stack, and the load. `numbered` is the author of numbered posts; all follow them.
    `acknowledged` are positions "partition:offset"; `wrong` is what must not have happened."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.config = folder / "firecell.toml"
        cells = {name: name for name in CELLS}
        text = real_parts.configuration(stack, "firehose", cells, PARTITIONS)
        self.config.write_text(text, encoding="utf-8")
        self.up = Up(folder, self.config)
        self.network = Network.make(1, users=USERS, authors=AUTHORS, follows=FOLLOWS)
        self.people = People(self.network, 1)
        self.numbered = USERS + 1
        self.acknowledged: list[str] = []
        self.refused_numbers: set[int] = set()  # perhaps kept, perhaps not
        self.wrong: list[str] = []
        self.statuses: dict[int, int] = {}
        self.page_s: list[float] = []
        self.must_serve = False  # no 503 is allowed just now
        self._newest: dict[int, int] = {}  # reader -> highest number seen
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,))
            for work in (self._post, self._read)
        ]

    def start(self) -> None:
        """Ready, the network imported, the load running."""
        self.up.wait_ready(len(CELLS), 150)
        follows = list(self.network.follow_events())
        everybody = range(1, USERS + 1)
        follows += [
            {"type": "follow", "reader": str(user), "author": str(self.numbered)}
            for user in everybody
        ]
        with self._client() as client:
            assert self._publish(client, follows), self.wrong
        self.catch_up()
        for thread in self._threads:
            thread.start()

    def halt(self) -> None:
        """The load ends."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def readers(self) -> list[int]:
        """Everybody, the numbered author too."""
        return list(range(1, self.numbered + 1))

    def recovered(self, within_s: float) -> float:
        """Seconds until what is published shows in both cells again; fails after `within_s`."""
        started = time.monotonic()
        homes = self._one_of_each_cell()
        said = "nothing was tried"
        with self._client() as client:
            while time.monotonic() - started < within_s:
                said = self._shows(client, homes)
                if not said:
                    return time.monotonic() - started
                time.sleep(0.2)
        states = [(one.name, one.state, one.problem) for one in self.stack.status()]
        raise AssertionError(
            f"not recovered after {within_s} s: {said}\n{states}\n{self.up.log()}"
        )

    def served(self, within_s: float) -> float:
        """Seconds until HBase serves every region of both cells again. Only then is it back: its
        own recovery reads its logs and opens one region after the other."""
        started = time.monotonic()
        for cell in CELLS:
            client = HBaseClient(Address.parse(self.stack.hbase_url(cell)))
            try:
                for table in TABLES:
                    left = started + within_s - time.monotonic()
                    _every_region(client, table, left)
            finally:
                client.close()
        return time.monotonic() - started

    def _shows(self, client: httpx.Client, homes: list[int]) -> str:
        """ "" when a new post of each of these users shows in their own dashboard."""
        for user in homes:
            try:
                event = {"type": "post", "author": str(user), "text": "are you back?"}
                done = client.post("/v1/events", json=event)
                if done.status_code != httpx.codes.CREATED:
                    return f"POST: {done.status_code} {done.text[:200]}"
                answer = done.json()
                self.acknowledged.append(answer["position"])
                query = {"after": answer["position"], "wait_ms": "5000"}
                page = client.get(f"/v1/users/{user}/dashboard", params=query)
                if page.status_code != httpx.codes.OK:
                    return f"page: {page.status_code} {page.text[:200]}"
                if answer["id"] not in [post["id"] for post in page.json()["posts"]]:
                    return f"user {user}: the post does not show"
            except httpx.HTTPError as error:
                return repr(error)
        return ""

    def _one_of_each_cell(self) -> list[int]:
        found: dict[str, int] = {}
        directory = json.loads((self.folder / "data" / "directory.json").read_text())
        from cells.directory import Directory
        from engine.homing import HomeRange

        ranges = {
            name: HomeRange(int(cell["first"]), int(cell["last"]))
            for name, cell in directory["cells"].items()
        }
        for user in range(1, USERS):
            found.setdefault(Directory(ranges).home(user), user)
        return sorted(found.values())

    def catch_up(self, within_s: float = 60) -> None:
        """Until both cells have applied what the firehose holds."""
        deadline = time.monotonic() + within_s
        while True:
            answer = self.up.get("/v1/admin/status").json()
            ends = answer.get("firehose", {}).get("end")
            cells = answer.get("cells", [])
            applied = [cell["applied"] == ends for cell in cells]
            if len(cells) == len(CELLS) and all(applied) and not answer["missing"]:
                return
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)

    def stats(self) -> list[dict[str, Any]]:
        """The cells' own numbers."""
        urls = [self.up.run_file("cell", name).url for name in CELLS]
        return [self.up.client.get(f"{url}/v1/admin/stats").json() for url in urls]

    # --- the load ---

    def _guarded(self, work: Any) -> None:
        try:
            with self._client() as client:
                work(client)
        except Exception as error:
            self.wrong.append(f"{work.__name__}: {error!r}")

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.up.url, timeout=_GIVE_UP_S, trust_env=False)

    def _post(self, client: httpx.Client) -> None:
        number = 0
        while not self._stop.wait(_PAUSE_S):
            number += 1
            event = {"type": "post", "author": str(self.numbered), "text": f"{_PREFIX}{number}"}
            if not self._publish(client, [*self.people.next_events(_BATCH), event]):
                self.refused_numbers.add(number)

    def _publish(self, client: httpx.Client, events: list[dict[str, Any]]) -> bool:
        """Whether all were acknowledged."""
        body = "".join(json.dumps(event) + "\n" for event in events)
        try:
            answer = client.post("/v1/events", content=body, headers=_NDJSON)
        except httpx.HTTPError as error:
            self.wrong.append(f"POST /v1/events: {error!r}")
            return False
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            if "retry-after" not in answer.headers:
                self.wrong.append(f"503 without Retry-After: {answer.text[:200]}")
            return False
        if answer.status_code != httpx.codes.OK:
            self.wrong.append(f"POST /v1/events: {answer.status_code} {answer.text[:200]}")
            return False
        good = True
        for event, line in zip(events, answer.text.splitlines(), strict=True):
            result = json.loads(line)
            if "error" in result:
                good = False
                if result["error"]["status"] != httpx.codes.SERVICE_UNAVAILABLE:
                    self.wrong.append(f"{event}: {line[:200]}")
            else:
                self.acknowledged.append(result["position"])
                if event.get("author") != str(self.numbered):  # those nobody edits or deletes
                    self.people.published(event, result)
        return good

    def _read(self, client: httpx.Client) -> None:
        choice = random.Random(2)
        while not self._stop.wait(0.02):
            reader = choice.randint(1, USERS)
            started = time.monotonic()
            try:
                answer = client.get(f"/v1/users/{reader}/dashboard", params={"limit": "20"})
            except httpx.HTTPError as error:
                self.wrong.append(f"page of {reader}: {error!r}")
                continue
            self.page_s.append(time.monotonic() - started)
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
            if answer.status_code == httpx.codes.OK:
                self._judge(reader, answer.json())
            elif answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or self.must_serve:
                self.wrong.append(f"page of {reader}: {answer.status_code} {answer.text[:200]}")
            elif "retry-after" not in answer.headers:
                self.wrong.append(f"503 without Retry-After: {answer.text[:200]}")

    def _judge(self, reader: int, page: dict[str, Any]) -> None:
        """In order, nothing twice, no gap; of the numbered posts none is left out, and what was
        there stays there."""
        ids = [int(post["id"]) for post in page["posts"]]
        if ids != sorted(set(ids), reverse=True) or page["gaps"]:
            self.wrong.append(f"page of {reader}: order {ids}, gaps {page['gaps']}")
        shown = [post for post in page["posts"] if post["author"] == str(self.numbered)]
        numbers = [int(post["text"].removeprefix(_PREFIX)) for post in shown]
        if not numbers:
            return
        left_out = set(range(numbers[-1], numbers[0] + 1)) - set(numbers) - self.refused_numbers
        if left_out:
            self.wrong.append(f"page of {reader}: {sorted(left_out)} left out of {numbers}")
        if numbers[0] < self._newest.get(reader, 0):
            self.wrong.append(f"page of {reader} went back: {numbers[0]}")
        self._newest[reader] = max(numbers[0], self._newest.get(reader, 0))


def _every_region(client: HBaseClient, table: str, within_s: float) -> None:
    """Read one row of each region of a table, however often that takes to ask."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            for start in client.regions(table):
                client.scan(table, start, None, 1)
        except Unavailable as error:
            assert time.monotonic() < deadline, f"HBase itself is not back: {error}"
        else:
            return
