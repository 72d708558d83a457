"""A Redis server of the test's own: a free port, its own folder, ended by its process."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


class RedisServer:
    """`redis-server` on loopback without persistence."""

    def __init__(self, folder: Path) -> None:
        try:
            import redis  # noqa: F401
        except ImportError:
            pytest.skip("needs Redis: redis-py, the [redis] extra, is not installed here")
        if shutil.which("redis-server") is None:
            pytest.skip("needs Redis: redis-server is not installed here")
        folder.mkdir(exist_ok=True)
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        options += ["--save", "", "--appendonly", "no", "--maxmemory", "64mb"]
        options += ["--maxmemory-policy", "allkeys-lru", "--logfile", str(self.folder / "log")]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail("redis-server did not start")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> None:
        """Killed: a cache has nothing to save."""
        self.process.kill()
        self.process.wait()
