"""The gateway's process on a real firehose: published, killed, started again: nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from topics.runfiles import find

ROOT = Path(__file__).resolve().parents[2]
_START_S = 30
_GATEWAY = """
import sys
from pathlib import Path
from cells.gateway import run_gateway
from cells.settings import load_settings
folder = Path(sys.argv[1])
flags = {"http.port": 0, "firehose.partitions": 4}
sys.exit(run_gateway(load_settings(folder=folder, environment={}, flags=flags)))
"""
POST = {"type": "post", "author": "7", "text": "hello"}


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """A gateway process on `folder`, killed at the end unless it ended by itself."""
    process = subprocess.Popen([sys.executable, "-c", _GATEWAY, str(folder)], cwd=ROOT)
    try:
        url = None
        deadline = time.monotonic() + _START_S
        while url is None:
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline, "it did not start"
            running = find(folder / "data", "gateway", "main")
            url = running.url if running is not None and running.pid == process.pid else None
            time.sleep(0.02)
        with httpx.Client(base_url=url, trust_env=False, timeout=10) as client:
            yield client, process
    finally:
        process.kill()
        process.wait(10)


def published(client: httpx.Client, event: dict[str, str]) -> dict[str, str]:
    response = client.post("/v1/events", json=event)
    assert response.status_code == 201, response.text
    answer: dict[str, str] = response.json()
    return answer


def test_events_survive_a_kill_and_ids_are_never_reused_restart(tmp_path: Path):
    with gateway(tmp_path) as (client, process):
        first = published(client, POST)
        lines = b"".join(json.dumps({**POST, "author": str(n)}).encode() + b"\n" for n in range(50))
        batch = client.post(
            "/v1/events", content=lines, headers={"content-type": "application/x-ndjson"}
        )
        ids = [int(json.loads(line)["id"]) for line in batch.content.splitlines()]
        assert ids == sorted(set(ids))
        ends = client.get("/v1/admin/status").json()["firehose"]["end"]
        assert sum(ends.values()) == 51
        os.kill(process.pid, signal.SIGKILL)
    with gateway(tmp_path) as (client, process):
        assert client.get("/v1/admin/status").json()["firehose"]["end"] == ends
        second = published(client, POST)
        partition, offset = second["position"].split(":")
        assert int(offset) == ends[partition]
        assert int(second["id"]) > max(*ids, int(first["id"]))
        problem = client.get("/readyz").json()
        assert problem["cells"] == [
            {"cell": "c1", "ready": False, "reason": "cell c1 is not running: try again"}
        ]
        missing = client.get("/v1/users/7/dashboard")
        assert (missing.status_code, missing.headers["retry-after"]) == (503, "1")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert find(tmp_path / "data", "gateway", "main") is None
