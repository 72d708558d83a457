"""Three processes append at once, one is killed (SIGKILL) again and again at random moments:
nothing acknowledged is lost, nothing is torn, no offset is skipped or given twice."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

from engine.ports import Record
from tests.topics.firehoses import run_python, small_log

PARTITIONS = 4
KILLS = 6
WRITER = """if True:
    import random, sys
    from topics.log_embedded import EmbeddedLog
    folder, writer, seed = sys.argv[1:]
    rng = random.Random(seed)
    log = EmbeddedLog.open(folder, create=False, segment_bytes=2**20)
    count = 0
    while True:
        batch = []
        for _ in range(rng.choice([1, 1, 3, 20])):
            batch.append((rng.randrange(4), f"{writer}.{count} ".encode() * rng.choice([1, 40])))
            count += 1
        placed = log.append(batch)
        # One write, so a line is whole or not there. An acknowledgement is what was written.
        sys.stdout.write("".join(
            f"{partition} {offset} {time_ms} {frame.split()[0].decode()}\\n"
            for (partition, frame), (offset, time_ms) in zip(batch, placed)))
        sys.stdout.flush()
    """


def start(folder: Path, name: str) -> tuple[subprocess.Popen[str], Path]:
    """A writer whose acknowledgements go to a file (a pipe would fill up)."""
    path = folder.parent / f"acknowledged-{name}"
    script = folder.parent / "writer.py"
    script.write_text(WRITER)
    process = run_python(
        "import os, sys; out = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT);"
        " os.dup2(out, 1); sys.argv[1:] = sys.argv[2:]; exec(open(sys.argv.pop(1)).read())",
        path,
        script,
        folder,
        name,
        name,
    )
    return process, path


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=10)


def test_killed_writers_restart(tmp_path: Path) -> None:
    folder = tmp_path / "firehose"
    log = small_log(folder, partitions=PARTITIONS)
    rng = random.Random(7)
    steady = [start(folder, name) for name in ("a", "b")]
    paths = [path for _, path in steady]
    for number in range(KILLS):
        process, path = start(folder, f"killed{number}")
        paths.append(path)
        deadline = time.monotonic() + 10
        while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.random() * 0.15)
        finish(process)
    for process, _ in steady:
        assert process.poll() is None, "a writer failed"
        finish(process)

    placed: dict[tuple[int, int], Record] = {}
    for partition in range(PARTITIONS):
        offset, last_ms = 0, 0
        while records := log.read(partition, offset, 5_000, 10**6):
            for record in records:
                assert record.offset == offset
                assert record.time_ms >= last_ms
                placed[partition, offset] = record
                offset, last_ms = offset + 1, record.time_ms
        assert offset == log.end_offsets()[partition]
    frames = [record.frame.split()[0] for record in placed.values()]
    assert len(set(frames)) == len(frames)
    for writer in {frame.split(b".")[0] for frame in frames}:  # batches are whole: no number lacks
        numbers = sorted(int(f.split(b".")[1]) for f in frames if f.split(b".")[0] == writer)
        assert numbers == list(range(len(numbers)))

    acknowledged = 0
    for path in paths:
        text = path.read_text()
        lines = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
        acknowledged += len(lines)
        for line in lines:
            where, offset_text, time_ms, name = line.split()
            record = placed[int(where), int(offset_text)]
            assert (record.frame.split()[0].decode(), record.time_ms) == (name, int(time_ms))
    assert acknowledged > 1_000
    assert log.stats()["segments"] > 1
    assert log.append([(0, b"after all that")])[0][0] == log.end_offsets()[0] - 1
    log.close()
