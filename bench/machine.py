"""What machine this is, so that a number can be read in its light; and what a process has used.

Reads /proc where there is one and says so where there is none. No host, user or network names.
Safe from any thread.
"""

from __future__ import annotations

import os
import platform
import re
import resource
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def describe() -> dict[str, Any]:
    """JSON-ready: cores (usable by this process), cpu, memory_bytes, python, kernel, system."""
    return {
        "cores": cores(),
        "cpu": _cpu_model(),
        "memory_bytes": _memory_bytes(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "system": platform.system(),
        "kernel": re.split(r"[^0-9.]", platform.release())[0],  # a suffix names its builder
        "architecture": platform.machine(),
    }


def cores() -> float:
    """Cores that this process may use: its affinity, or less by a container's quota."""
    count = float(len(os.sched_getaffinity(0)))
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.strip().isdigit() and period.strip().isdigit():
        count = min(count, int(quota) / int(period))
    return count


def cpu_seconds(process: int | None = None) -> float:
    """User and system seconds of a process (default: this one) so far; 0.0 when it is gone."""
    if process is None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime
    stat = _read(_PROC / str(process) / "stat")
    words = stat.rpartition(")")[2].split()  # the name in brackets may hold blanks
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") if words else 0.0


def thread_cpu_seconds(process: int, name: str) -> float:
    """User and system seconds so far of a process's living threads of that name."""
    ticks = 0
    for path in (_PROC / str(process) / "task").glob("*/stat"):
        head, _, tail = _read(path).rpartition(")")
        if head.partition("(")[2] == name:
            words = tail.split()
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Seconds that all cores of this machine have worked since it started, whoever for; those that
    a host took away from it count as well. 0.0 where the kernel does not tell."""
    words = _read(_PROC / "stat").partition("\n")[0].split()[1:9]
    idle = (3, 4)  # idle and waiting for a disk
    ticks = sum(int(word) for place, word in enumerate(words) if place not in idle)
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes_max(process: int | None = None) -> int:
    """The most resident memory that a process (default: this one) had so far; 0 when it is gone."""
    if process is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for line in _read(_PROC / str(process) / "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(_CGROUP / "memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def _cpu_model() -> str:
    for line in _read(_PROC / "cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return "unknown"


def _read(path: Path) -> str:
    """The file's text; empty when it cannot be read: another system, or a process that ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
