"""Folders for benchmarks: a firehose with the whole graph and a cell that has applied it, made once
per workload and format, kept, and copied for each run.

| in `--keep` (default: `.cache/bench` in the project) | content |
| --- | --- |
| `<workload>-<seed>-<sizes>-<formats>/` | firehose/, c1/, data/, firecell.toml, follows.npz |
| its `prepared.json` | written last: without it the folder is made anew |
| `run/` | the copy that the last `bench.fanout` used; `bench.reads` goes on there |

The import is the real one: follow events are appended while an unmodified cell applies them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import processes
from bench.feeder import Feeder, Placed
from bench.processes import CellProcess
from bench.talk import Talk
from bench.workload import FORMAT_VERSION as WORKLOAD_FORMAT
from bench.workload import Workload
from engine import codec
from engine.errors import FirecellError
from engine.limits import FORMAT_VERSION, PARTITIONS_DEFAULT

KEEP = Path(__file__).resolve().parent.parent / ".cache" / "bench"
RUN = "run"
FOLLOWS_FILE, PREPARED_FILE = "follows.npz", "prepared.json"
RUN_FILE = "fanout.json"  # in `run/`, written last: what `bench.reads` must know of that run
PARTITIONS = PARTITIONS_DEFAULT


@dataclass(frozen=True)
class Prepared:
    """How a kept folder was made."""

    edges: int
    seconds: float  # from the first append until the cell had applied everything
    publish_seconds: float  # of which the appends took this long, beside the cell
    edges_per_second: float
    empty_memory_bytes: int  # resident in a cell without a graph
    empty_own_bytes: int  # of which its own, no pages of files that it maps
    empty_start_seconds: float
    disk_bytes: int


def kept_folder(keep: Path, workload: Workload) -> Path:
    """Where the workload is kept."""
    sizes = f"u{len(workload.users)}-e{workload.edges}-a{len(workload.authors)}"
    largest = int(workload.follower_counts.max(initial=0))
    formats = f"w{WORKLOAD_FORMAT}-c{codec.VERSION}-f{FORMAT_VERSION}-p{PARTITIONS}"
    return keep / f"{workload.name}-{workload.seed}-{sizes}-l{largest}-{formats}"


def prepare(keep: Path, workload: Workload, talk: Talk, *, fresh: bool = False) -> Prepared:
    """See to it that the kept folder is there; how it was made. `fresh`: make it anew."""
    folder = kept_folder(keep, workload)
    marker = folder / PREPARED_FILE
    if marker.exists() and not fresh:
        talk.say(f"prepared already: {folder.name}")
        return Prepared(**json.loads(marker.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    processes.write_config(folder, PARTITIONS)
    talk.say(f"importing {workload.edges:,} follows, once: {folder.name}")
    prepared = _import(folder, workload, talk)
    marker.write_text(json.dumps(asdict(prepared), indent=2) + "\n", encoding="utf-8")
    talk.say(
        f"imported {prepared.edges:,} follows in {prepared.seconds:.0f} s:"
        f" {prepared.edges_per_second:,.0f}/s, {prepared.disk_bytes / 1e9:.1f} GB"
    )
    return prepared


def _import(folder: Path, workload: Workload, talk: Talk) -> Prepared:
    with CellProcess(folder) as cell:
        empty, empty_start_s = cell.memory_bytes(), cell.start_seconds
        feeder = Feeder(folder / processes.FIREHOSE, PARTITIONS, workload)
        try:
            started = time.monotonic()
            placed = feeder.follow_all(
                lambda done: talk.progress("follows published", done, workload.edges)
            )
            publish_s = time.monotonic() - started
        finally:
            feeder.close()
        talk.say(f"published at {workload.edges / publish_s:,.0f}/s; the cell applies the rest")

        def look(numbers: dict[str, float]) -> int:
            talk.progress("follows applied", numbers["events_total"], workload.edges)
            return 0

        applied = cell.wait_applied(workload.edges, on_look=look)
        seconds = applied["at"] - started
        if applied["quarantined_total"]:
            raise FirecellError(f"the cell quarantined follows: see {folder}")
    placed.save(folder / FOLLOWS_FILE)
    return Prepared(
        edges=workload.edges,
        seconds=round(seconds, 2),
        publish_seconds=round(publish_s, 2),
        edges_per_second=round(workload.edges / seconds, 1),
        empty_memory_bytes=empty["all"],
        empty_own_bytes=empty["own"],
        empty_start_seconds=round(empty_start_s, 2),
        disk_bytes=_disk_bytes(folder),
    )


def copy_for_run(keep: Path, workload: Workload, talk: Talk) -> Path:
    """A copy of the kept folder to run in, as the only one in `run/`; its path."""
    source, target = kept_folder(keep, workload), keep / RUN
    shutil.rmtree(target, ignore_errors=True)
    started = time.monotonic()
    subprocess.run(
        ["cp", "-a", "--reflink=auto", "--sparse=auto", str(source), str(target)], check=True
    )
    os.sync()  # else the kernel writes the copy while we measure
    talk.say(f"copied {_disk_bytes(target) / 1e9:.1f} GB in {time.monotonic() - started:.1f} s")
    return target


def _disk_bytes(folder: Path) -> int:
    """Allocated, not apparent: a firehose's files are sparse."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def load_follows(folder: Path) -> Placed:
    """Where the follows lie in the firehose of a prepared folder or its copy."""
    return Placed.load(folder / FOLLOWS_FILE)
