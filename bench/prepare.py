"""Folders for benchmarks: a firehose with the whole graph and a cell that has applied it, made once
per workload and format, kept, and copied for each run.

| in `--keep` (default: `.cache/bench` in the project) | content |
| --- | --- |
| `<workload>-<seed>-<sizes>-<formats>/` | firehose/, c1/, data/, firecell.toml, follows.npz |
| its `prepared.json` | written last: without it the folder is made anew |
| `run/` | the copy that the last `bench.fanout` used; `bench.reads` goes on there |

What lies in Kafka, HBase or Redis cannot be copied: such a run goes on in the kept folder itself,
and `run` is a link to it. Its firehose keeps the posts of every run, and all of them are checked.

The import is the real one: follow events are appended while an unmodified cell applies them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import processes
from bench.feeder import Feeder, Placed
from bench.processes import CellProcess, Urls, settings_of
from bench.talk import Talk
from bench.workload import FORMAT_VERSION as WORKLOAD_FORMAT
from bench.workload import Workload
from cells.cell import open_cell
from cells.settings import Settings
from engine import codec
from engine.errors import FirecellError, Precondition
from engine.limits import FORMAT_VERSION, PARTITIONS_DEFAULT, READ_BYTES_MAX, READ_RECORDS_MAX
from topics.urls import EmbeddedPlace

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
    ends: list[int] = field(default_factory=list)  # of the firehose, behind the follows; [] unknown


def kept_folder(keep: Path, workload: Workload, urls: Urls) -> Path:
    """Where the workload is kept."""
    sizes = f"u{len(workload.users)}-e{workload.edges}-a{len(workload.authors)}"
    largest = int(workload.follower_counts.max(initial=0))
    formats = f"w{WORKLOAD_FORMAT}-c{codec.VERSION}-f{FORMAT_VERSION}-p{PARTITIONS}"
    name = f"{workload.name}-{workload.seed}-{sizes}-l{largest}-{formats}"
    if urls.real:
        name += f"-{urls.names}-{hashlib.sha256(repr(urls).encode()).hexdigest()[:8]}"
    return keep / name


def prepare(
    keep: Path, workload: Workload, urls: Urls, talk: Talk, *, fresh: bool = False
) -> Prepared:
    """See to it that the kept folder is there; how it was made. `fresh`: make it anew."""
    folder = kept_folder(keep, workload, urls)
    marker = folder / PREPARED_FILE
    if marker.exists() and not fresh:
        talk.say(f"prepared already: {folder.name}")
        return Prepared(**json.loads(marker.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    processes.write_config(folder, PARTITIONS, urls)
    talk.say(f"importing {workload.edges:,} follows, once: {folder.name}")
    prepared = _import(folder, workload, talk)
    marker.write_text(json.dumps(asdict(prepared), indent=2) + "\n", encoding="utf-8")
    talk.say(
        f"imported {prepared.edges:,} follows in {prepared.seconds:.0f} s:"
        f" {prepared.edges_per_second:,.0f}/s, {prepared.disk_bytes / 1e9:.1f} GB"
    )
    return prepared


def _import(folder: Path, workload: Workload, talk: Talk) -> Prepared:
    settings = settings_of(folder)

    def look(numbers: dict[str, Any]) -> int:
        talk.progress("follows applied", numbers["events_total"], workload.edges)
        return 0

    with CellProcess(folder) as cell:
        empty, empty_start_s = cell.memory_bytes(), cell.start_seconds
        feeder = Feeder(settings.firehose.place, PARTITIONS, workload)
        try:
            _refuse_used(feeder)
            started = time.monotonic()
            placed = feeder.follow_all(
                lambda done: talk.progress("follows published", done, workload.edges)
            )
            publish_s = time.monotonic() - started
            ends = feeder.log.end_offsets()
        finally:
            feeder.close()
        talk.say(f"published at {workload.edges / publish_s:,.0f}/s; the cell applies the rest")
        if isinstance(settings.firehose.place, EmbeddedPlace):
            cell.wait_applied(workload.edges, on_look=look)
            quarantined = cell.stats()["quarantined_total"]
    if not isinstance(settings.firehose.place, EmbeddedPlace):
        quarantined = _apply_without_group(settings, look)
    if quarantined:
        raise FirecellError(f"the cell quarantined follows: see {folder}")
    seconds = time.monotonic() - started
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
        ends=ends,
    )


def _apply_without_group(settings: Settings, on_look: Callable[[dict[str, Any]], int]) -> int:
    """The import of a cell on Kafka: the same worker on the same firehose, without Faust, which
    hands on one event at a time. The cell's group gets its positions when it starts. The number of
    follows that were quarantined."""
    cell = open_cell(settings, processes.CELL)
    try:
        worker = cell.worker
        for partition, at in enumerate(worker.next_offsets):
            while records := cell.log.read(partition, at, READ_RECORDS_MAX, READ_BYTES_MAX):
                at = records[-1].offset + 1
                while records:
                    records = records[worker.apply(records) :]
                on_look({"events_total": worker.counts.events})
        return worker.counts.quarantined
    finally:
        cell.close()


def _refuse_used(feeder: Feeder) -> None:
    """A firehose that holds something already is not ours to fill, and would spoil the check."""
    if any(feeder.log.end_offsets()):
        raise Precondition("this firehose has events already: name a new topic or folder for it")


def folder_for_run(keep: Path, workload: Workload, urls: Urls, talk: Talk) -> Path:
    """`run`: a copy of the kept folder or, where parts lie outside of it, a link to it."""
    source, target = kept_folder(keep, workload, urls), keep / RUN
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    if urls.real:
        target.symlink_to(source, target_is_directory=True)
        return target
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
