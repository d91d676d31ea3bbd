"""What machine this is: for ``pagoda doctor`` and for the record beside every measurement."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from pagoda.registry import DISTRIBUTION, GROUP

GIB = 1 << 30


def describe() -> dict[str, str]:
    """Python, operating system, processor, the cores and memory this process may use."""
    facts = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "os": platform.platform(),
        "cpu": _processor(),
        "cores": _cores(),
        "memory": _memory(),
    }
    limits = {
        "cgroup cpu": _cgroup("cpu.max"),
        "cgroup memory": _cgroup("memory.max"),
    }
    return facts | {name: text for name, text in limits.items() if text}


def versions() -> dict[str, str]:
    """Versions of the core, the installed platforms and all that they ask for directly; nothing
    is imported."""
    found: dict[str, str] = {}
    owners = {
        entry.dist.metadata["Name"] for entry in metadata.entry_points(group=GROUP) if entry.dist
    }
    queue = [DISTRIBUTION, *sorted(owners - {DISTRIBUTION})]
    ours = set(queue)
    while queue:
        name = queue.pop(0)
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
            continue
        found[name] = distribution.version
        if name in ours:
            wanted = _requirements(distribution)
            ours |= {other for other in wanted if other.startswith("pagoda-")}
            queue += wanted
    return found


def _requirements(distribution: metadata.Distribution) -> list[str]:
    """The names a distribution requires, without extras and without those for other Pythons."""
    names = []
    for line in distribution.requires or []:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if name and not marker:
            names.append(name.group().lower())
    return names


def _processor() -> str:
    text = _read("/proc/cpuinfo")
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1).strip() if model else platform.processor() or platform.machine()


def _cores() -> str:
    total = os.cpu_count() or 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    return f"{usable} usable of {total}"


def _memory() -> str:
    text = _read("/proc/meminfo")
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    if "MemTotal" not in sizes:
        return "unknown"
    free = sizes.get("MemAvailable", 0)
    return f"{sizes['MemTotal'] / GIB:.1f} GiB, {free / GIB:.1f} GiB available"


def _cgroup(file: str) -> str:
    """A control group's limit as its file says it; empty when there is none."""
    group = _read("/proc/self/cgroup").strip().rpartition(":")[2].lstrip("/")
    for folder in (Path("/sys/fs/cgroup") / group, Path("/sys/fs/cgroup")):
        text = _read(str(folder / file)).strip()
        if text and not text.startswith("max"):
            if file.startswith("memory"):
                return f"{int(text) / GIB:.1f} GiB"
            quota, _, period = text.partition(" ")
            return f"{int(quota) / int(period or 100000):.2f} cores"
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
