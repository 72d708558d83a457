"""What is said of the machine, and of what a process used of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from bench import machine


def test_the_machine_is_described_without_names() -> None:
    described = machine.describe()
    assert 0 < described["cores"] <= (os.cpu_count() or 1)
    assert described["memory_bytes"] > 2**28
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))
    assert described["cpu"]
    assert socket.gethostname() not in json.dumps(described)
    assert set(described["kernel"]) <= set("0123456789.")


def test_what_a_process_has_used() -> None:
    before = machine.cpu_seconds()
    while machine.cpu_seconds() < before + 0.02:
        sum(range(10_000))
    assert machine.memory_bytes_max() > 10 * 2**20
    assert abs(machine.memory_bytes_max(os.getpid()) / machine.memory_bytes_max() - 1) < 0.2
    assert abs(machine.cpu_seconds(os.getpid()) - machine.cpu_seconds()) < 0.5


def test_a_process_that_is_gone_has_used_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert machine.cpu_seconds(child.pid) == 0.0
    assert machine.memory_bytes_max(child.pid) == 0
