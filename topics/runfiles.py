"""Run files: `<data>/run/<role>-<name>.json`, how processes of one data folder find each other.

Written atomically by the process that it describes, removed at its exit. After a kill the file
stays, so readers look whether that process still lives: its id and, because ids are used again,
the time at which the kernel started it. Any number of processes may read and write at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from engine.limits import RUN_FILE_BYTES_MAX
from engine.times import format_ms

RUN_FOLDER = "run"


@dataclass(frozen=True)
class Running:
    """One living process as its run file tells it."""

    role: str
    name: str
    pid: int
    url: str
    started: str  # ISO 8601
    version: str
    extra: dict[str, object] = field(default_factory=dict)


def start_ticks(pid: int) -> int | None:
    """When the kernel started process `pid`, in clock ticks since boot; None: no such process,
    or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _alive_without_proc(pid)
    fields = text.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    return None if fields[0] in ("Z", "X") else int(fields[19])


def _alive_without_proc(pid: int) -> int | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


class RunFile:
    """The run file of this process."""

    def __init__(self, data_folder: Path, role: str, name: str) -> None:
        self.role = role
        self.name = name
        self.path = data_folder / RUN_FOLDER / f"{role}-{name}.json"
        self._started = format_ms(time.time_ns() // 1_000_000)

    def write(self, *, url: str, version: str, **extra: object) -> None:
        """Write or replace it, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            **extra,
            "role": self.role,
            "name": self.name,
            "pid": os.getpid(),
            "start_ticks": start_ticks(os.getpid()),
            "url": url,
            "started": self._started,
            "version": version,
        }
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        draft.write_text(json.dumps(document) + "\n")
        draft.replace(self.path)

    def remove(self) -> None:
        """Remove it, unless a successor has put its own there."""
        running = _read(self.path)
        if running is not None and running.pid == os.getpid():
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()


def running(data_folder: Path, role: str | None = None) -> list[Running]:
    """The living processes of a data folder, of one role or all, by role and name. Files of dead
    processes, and files that are no run files, are passed over."""
    found = []
    for path in sorted((data_folder / RUN_FOLDER).glob("*.json")):
        entry = _read(path)
        if entry is not None and role in (None, entry.role):
            found.append(entry)
    return found


def find(data_folder: Path, role: str, name: str) -> Running | None:
    """One living process, or None."""
    return _read(data_folder / RUN_FOLDER / f"{role}-{name}.json")


def _read(path: Path) -> Running | None:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(RUN_FILE_BYTES_MAX))
        entry = Running(
            role=str(document.pop("role")),
            name=str(document.pop("name")),
            pid=int(document.pop("pid")),
            url=str(document.pop("url")),
            started=str(document.pop("started")),
            version=str(document.pop("version")),
            extra={key: value for key, value in document.items() if key != "start_ticks"},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    ticks = start_ticks(entry.pid)
    return entry if ticks is not None and ticks == document.get("start_ticks") else None
