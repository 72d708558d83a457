"""Gateways of one firehose in Kafka, each with a data folder of its own, as on machines of their
own: started, stopped and killed by their process; and somebody who publishes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from engine.codec import encode
from engine.errors import FirecellError
from engine.events import Post
from tests.conftest import ROOT
from tests.topics.taps import eventually
from topics.log_kafka import KafkaLog
from topics.runfiles import find
from topics.urls import KafkaPlace

PARTITIONS = 4


class Gate:
    """`firecell gateway` in a folder of its own; it is ready once somebody coordinates."""

    def __init__(self, folder: Path, place: KafkaPlace, node: int) -> None:
        folder.mkdir()
        self.folder = folder
        firehose = f'url = "kafka://{place.servers}/{place.topic}"\npartitions = {PARTITIONS}'
        text = f"[firehose]\n{firehose}\nnode = {node}\n[cells.c1]\n"
        (folder / "firecell.toml").write_text(text)
        self._log = (folder / "gateway.log").open("ab")
        self.process: subprocess.Popen[bytes]
        self.url = ""
        self.start()

    def start(self) -> None:
        """A process, anew."""
        command = [sys.executable, "-m", "ops.main", "gateway", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--config", str(self.folder / "firecell.toml")],
            cwd=ROOT, stdout=self._log, stderr=self._log,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )  # fmt: skip
        found: Any = eventually(lambda: find(self.folder / "data", "gateway", "main"), "a gateway")
        self.url = found.url
        eventually(lambda: "ready" in self.log(), "it is ready")

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request."""
        return httpx.request(method, self.url + path, trust_env=False, timeout=20, **options)

    def leads(self) -> bool:
        """Whether it coordinates the groups: only then it answers what is not to be passed on."""
        with suppress(httpx.HTTPError):
            passed_on = {"x-firecell-forwarded": "1"}
            return self.ask("GET", "/v1/admin/groups", headers=passed_on).status_code == 200
        return False

    def log(self) -> str:
        """What it said."""
        return (self.folder / "gateway.log").read_text(errors="replace")

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """One TERM; it must drain."""
        if self.process.poll() is None:
            self.resume()
            self.process.terminate()
            assert self.process.wait(40) == 0, self.log()[-4_000:]
        self._log.close()


class Saying:
    """Appends posts until told to stop; `positions` were acknowledged."""

    def __init__(self, log: KafkaLog, pause_s: float = 0.02) -> None:
        self._log = log
        self._pause_s = pause_s
        self._stop = threading.Event()
        self.positions: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            with suppress(FirecellError):  # a broker that is away: the next ones
                self.positions += say(self._log, 2 * PARTITIONS)

    def stop(self) -> list[str]:
        """What was published."""
        self._stop.set()
        self._thread.join(30)
        return self.positions


def say(log: KafkaLog, count: int) -> list[str]:
    """Posts over all partitions; their positions."""
    author = time.monotonic_ns() % 2**40
    posts = [Post(author + n, author, 0, f"text {n}") for n in range(count)]
    entries = [(n % PARTITIONS, encode(post)) for n, post in enumerate(posts)]
    placed = log.append(entries)
    return [f"{entry[0]}:{at[0]}" for entry, at in zip(entries, placed, strict=True)]
