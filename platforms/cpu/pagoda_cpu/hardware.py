"""What this machine is: name, cores, instruction sets, memory.  Standard library only."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

from pagoda.platform import InvalidValue

_SHOWN = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_bf16", "amx_int8", "asimd", "sve", "bf16", "i8mm"),
)
_CGROUP = Path("/sys/fs/cgroup")


def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return ""
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine() or "CPU"


def isa_flags() -> list[str]:
    """The instruction sets that matter here, in a fixed order."""
    present = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [flag for flag in _SHOWN if flag in present]


def has_bfloat16() -> bool:
    """Whether bfloat16 products run on instructions made for them."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(isa_flags())


def num_cores() -> int:
    """Physical cores this process may run on, its cgroup's quota counted in."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return os.cpu_count() or 1
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota_cores()))


def _siblings(cpu: int) -> str:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return topology.read_text().strip()
    except OSError:
        return str(cpu)


def _quota_cores() -> int:
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return math.ceil(float(quota) / float(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        return 1 << 16


def num_threads(asked: object) -> int:
    """The option's value, else OMP_NUM_THREADS, else a thread for each core."""
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            raise InvalidValue("cpu_threads", asked, "must be a whole number above 0")
        return asked
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(said) if said.isdigit() and int(said) > 0 else num_cores()


def memory() -> tuple[int, int]:
    """Bytes in all and bytes free, as this process may use them."""
    total, free = _system_memory()
    limit, used = _cgroup_memory()
    return min(total, limit), max(0, min(free, limit - used))


def _system_memory() -> tuple[int, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return sizes["MemTotal"], sizes["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):  # not Linux: all of it, half of it
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            total = 8 << 30
        return total, total // 2


def _cgroup_memory() -> tuple[int, int]:
    """The limit, and what counts towards it and cannot be reclaimed."""
    files = (
        (_CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat"),
        (
            _CGROUP / "memory/memory.limit_in_bytes",
            _CGROUP / "memory/memory.usage_in_bytes",
            _CGROUP / "memory/memory.stat",
        ),
    )
    for limit_file, used_file, stat_file in files:
        try:
            limit, used = int(limit_file.read_text()), int(used_file.read_text())
            stat = dict(line.split() for line in stat_file.read_text().splitlines())
        except (OSError, ValueError):  # absent, or "max"
            continue
        return limit, used - int(stat.get("inactive_file", 0))
    return 1 << 62, 0
