"""Memory and processors that this process may use; standard library only."""

from __future__ import annotations

import functools
import math
import os
import re
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def memory() -> tuple[int, int]:
    """Bytes in all and bytes free, a cgroup's limit counted in."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):  # not Linux: all of it, half of it
        total = _pages() or 8 << 30
        free = total // 2
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        used -= int(dict(line.split() for line in lines).get("inactive_file", 0))
    except (OSError, ValueError):  # absent, or "max"
        return total, free
    return min(total, limit), max(0, min(free, limit - used))


def num_cores() -> int:
    """Physical cores of the process's affinity mask, a cgroup's quota counted in."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    return max(1, min(len({_siblings(cpu) for cpu in allowed}), _quota()))


@functools.cache
def only_avx2() -> bool:
    """Whether the processor has vectors of 256 bits and none of 512; False where none can tell."""
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    words = flags[1].split() if flags else []
    return "avx2" in words and "avx512f" not in words


def _siblings(cpu: int) -> str:
    try:
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        return (folder / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return math.ceil(float(quota) / float(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        return 1 << 16


def _pages() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
