"""A cell as a process, seen from outside: started, paused, asked over HTTP, looked at in /proc.

Nothing of the cell is imported: it is `firecell cell c1 --config ...`, found by its run file, as
any other client would find it. It dies with this process. Main thread only (ops/children.py says
why).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from bench import machine
from cells.settings import Settings, load_settings
from engine.errors import FirecellError, Unavailable
from engine.limits import DRAIN_GRACE_S, DRAIN_S, WORKER_REST_S
from ops.children import child_command, child_environment
from topics import runfiles

CELL = "c1"
CONFIG_FILE = "firecell.toml"
DATA, LOG_FILE = "data", "cell.log"
READY_S = 600  # a cell that loads a graph from its store, without a snapshot, may take minutes
STALL_S = 120  # a cell that applies nothing for so long has failed
SETTLE_S_MAX = 300.0  # all inboxes of a large bench into one run, beside nothing else
_SETTLED_S = WORKER_REST_S + 1.0  # no merge for so long: settled
_SETTLE_POLL_S = 0.1
_POLL_S = 0.02
_TAIL_BYTES = 2_000
_CONFIG = """\
[firehose]
url = "{urls.firehose}"
partitions = {partitions}
[data]
folder = "./data"
[cells.{cell}]
store = "{urls.store}"
cache = "{urls.cache}"
{more}"""


@dataclass(frozen=True)
class Urls:
    """Where the parts are; `embedded:` is relative to the run folder. `helper` is the argument file
    of HBase's Java helper, if any."""

    firehose: str = "embedded:./firehose"
    store: str = "embedded:./c1"
    cache: str = "memory:"
    helper: str = ""

    @property
    def real(self) -> bool:
        """Whether something lies outside of the run folder."""
        return self != Urls()

    @property
    def names(self) -> str:
        """Short, for files: `kafka-embedded`, `kafka-hbase-redis`."""
        schemes = [url.partition(":")[0] for url in (self.firehose, self.store, self.cache)]
        return "-".join(scheme for scheme in schemes if scheme != "memory")


def write_config(folder: Path, partitions: int, urls: Urls, cell: str = CELL) -> None:
    """The configuration of a firehose and one cell in `folder`; paths in it are relative."""
    folder.mkdir(parents=True, exist_ok=True)
    more = f'[hbase]\nhelper = "{urls.helper}"\n' if urls.helper else ""
    text = _CONFIG.format(partitions=partitions, urls=urls, more=more, cell=cell)
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def settings_of(folder: Path) -> Settings:
    """The settings that the cell of a run folder has."""
    return load_settings(folder / CONFIG_FILE, environment={})


def set_push_followers_max(folder: Path, followers: int) -> None:
    """Let the cell of a run folder pull authors with more followers than this."""
    with (folder / CONFIG_FILE).open("a", encoding="utf-8") as file:
        file.write(f"push_followers_max = {followers}\n")


class CellProcess:
    """The cell of a run folder. A context manager: on leaving it, the process is gone."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        cell: str = CELL,
    ) -> None:
        """`command` instead of `firecell cell NAME`, with `environment` beside what it inherits."""
        self.folder = folder
        self.cell = cell
        config = str(folder / CONFIG_FILE)
        self._command = command or child_command("cell", cell, "--config", config)
        self._environment = dict(environment or {})
        self.url = ""
        self.start_seconds = 0.0
        self._log = folder / LOG_FILE
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(timeout=60, trust_env=False)

    def __enter__(self) -> CellProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            if error is None:
                self.stop()
            else:
                self.kill()
        self._http.close()

    @property
    def pid(self) -> int:
        """Of the process; FirecellError when it does not run."""
        code = self._process.poll() if self._process is not None else -1
        if self._process is None or code is not None:
            words = self._last_words()
            raise FirecellError(f"the cell ended with exit code {code}; its last words: {words}")
        return self._process.pid

    # --- its life ---

    def start(self) -> None:
        """Start it and wait until it is ready; `start_seconds` is how long that took."""
        started = time.monotonic()
        mine = {key: value for key, value in os.environ.items() if not key.startswith("FIRECELL_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(mine) | self._environment,
                process_group=0,  # Ctrl-C at a terminal is for us; the cell gets our TERM
            )
        try:
            while not self._is_ready():
                if time.monotonic() - started > READY_S:
                    raise Unavailable(f"the cell is not ready after {READY_S} s: see {self._log}")
                time.sleep(_POLL_S)
        except BaseException:
            self.kill()
            raise
        self.start_seconds = time.monotonic() - started

    def _is_ready(self) -> bool:
        pid = self.pid
        if not self.url:
            running = runfiles.find(self.folder / DATA, "cell", self.cell)
            if running is None or running.pid != pid:
                return False
            self.url = running.url
        with contextlib.suppress(httpx.TransportError):
            return self._http.get(f"{self.url}/readyz").status_code == httpx.codes.OK
        return False

    def stop(self) -> float:
        """One TERM; the seconds until it was gone. FirecellError when its exit code is not 0."""
        started = time.monotonic()
        process, self._process, self.url = self._process, None, ""
        if process is None:
            return 0.0
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(DRAIN_S + DRAIN_GRACE_S)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0:
            words = self._last_words()
            raise FirecellError(f"the cell ended with exit code {code}; its last words: {words}")
        return time.monotonic() - started

    def kill(self) -> None:
        """End it at once."""
        process, self._process, self.url = self._process, None, ""
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: it stands still where it is."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    # --- what it says of itself, and what the kernel says of it ---

    def stats(self) -> dict[str, Any]:
        """Its numbers (cells/progress.py), and `at`: when they had arrived, by our clock."""
        return {**self._ask("/v1/admin/stats"), "at": time.monotonic()}

    def status(self) -> dict[str, Any]:
        """What `firecell status` tells of it."""
        found: dict[str, Any] = self._ask("/v1/admin/status")["cells"][0]
        return found

    def _ask(self, path: str) -> dict[str, Any]:
        try:
            answer = self._http.get(f"{self.url}{path}")
        except httpx.TransportError as error:
            raise Unavailable(f"the cell does not answer ({error}); {self._last_words()}") from None
        if answer.status_code != httpx.codes.OK:
            raise FirecellError(f"GET {path}: {answer.status_code} {answer.text[:300]}")
        answered: dict[str, Any] = answer.json()
        return answered

    def wait_applied(
        self,
        events: int,
        poll_s: float = 0.25,
        on_look: Callable[[dict[str, Any]], int] = lambda numbers: 0,
    ) -> dict[str, Any]:
        """Wait until `events` events since its start are durable; the numbers then.

        `on_look` gets each look's numbers, and may raise the number of events by its result.
        Close to the end it looks more often, so the end is seen within some 20 ms.
        FirecellError when it stops applying.
        """
        moved_at, applied, rate = time.monotonic(), -1, 0.0
        while True:
            numbers = self.stats()
            now = int(numbers["events_total"])
            if now != applied:
                spent = numbers["at"] - moved_at
                rate = (now - applied) / spent if applied >= 0 and spent > 0 else 0.0
                moved_at, applied = numbers["at"], now
            events += on_look(numbers)
            if applied >= events:
                return numbers
            if time.monotonic() - moved_at > STALL_S:
                raise FirecellError(
                    f"the cell has applied nothing for {STALL_S} s, {events - applied} events"
                    f" before the end; see {self._log}"
                )
            left_s = (events - applied) / rate if rate else poll_s
            time.sleep(min(poll_s, max(left_s / 2, _POLL_S)))

    def wait_settled(self) -> dict[str, Any]:
        """Until no merge of the store has run for _SETTLED_S (a resting cell begins some after
        WORKER_REST_S, so none is due then), or SETTLE_S_MAX: how long that took, whether it got
        there, and the sorted runs that a page looks into now. HBase merges unseen, and tells
        neither."""
        started = busy_at = time.monotonic()
        while True:
            numbers = self.stats()
            if numbers.get("store_merges"):
                busy_at = numbers["at"]
            settled = numbers["at"] - busy_at > _SETTLED_S
            if settled or numbers["at"] - started > SETTLE_S_MAX:
                break
            time.sleep(_SETTLE_POLL_S)
        return {
            "settled": settled,
            "seconds": round(numbers["at"] - started, 1),
            "sorted_runs": int(numbers.get("store_sorted_runs", 0)),
        }

    def cpu_seconds(self) -> float:
        """User and system seconds so far."""
        return machine.cpu_seconds(self.pid)

    def python_cpu_seconds(self) -> float:
        """Of which in threads that Python made: fan-out and HTTP. The rest is the store's own,
        for it merges in threads of other names."""
        name = Path(f"/proc/{self.pid}/comm").read_text().strip()
        return machine.thread_cpu_seconds(self.pid, name)

    def memory_bytes_max(self) -> int:
        """The most resident memory so far (VmHWM)."""
        return machine.memory_bytes_max(self.pid)

    def memory_bytes(self) -> dict[str, int]:
        """Resident now: `all` of it, and `own`, without the pages of files that it maps."""
        found = {"VmRSS:": 0, "RssAnon:": 0}
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            words = line.split()
            if words and words[0] in found:
                found[words[0]] = int(words[1]) * 1024
        return {"all": found["VmRSS:"], "own": found["RssAnon:"]}

    def written_bytes(self) -> int:
        """Bytes that it caused to be sent to the disk so far; 0 where the kernel does not tell."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/io").read_text().splitlines():
                if line.startswith("write_bytes:"):
                    return int(line.split()[1])
        return 0

    def _last_words(self) -> str:
        try:
            return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        except OSError:
            return f"none in {self._log}"
