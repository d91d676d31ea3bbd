"""What the machine itself allows: reading memory, and large products in each format, by torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch


def best(work: Callable[[], object], seconds: float = 1.0) -> float:
    """Seconds of the fastest of several runs."""
    work()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 2:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return min(times)


def measure(threads: int) -> dict[str, float]:
    """GB/s read, and GFLOP/s (int8: GOP/s) by dtype; the best that was seen."""
    torch.set_num_threads(threads)
    numbers = torch.ones(1 << 27, dtype=torch.int64)  # 1 GiB: caches of 300 MB exist
    found = {"read_GBs": numbers.numel() * 8 / best(numbers.sum) / 1e9}
    for name, dtype, size in (("float32", torch.float32, 2048), ("bfloat16", torch.bfloat16, 1024)):
        a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
        found[f"{name}_GFLOPs"] = 2 * size**3 / best(partial(a.matmul, b)) / 1e9
    size = 512
    a, b = (torch.randint(-127, 127, (size, size), dtype=torch.int8) for _ in range(2))
    found["int8_GOPs"] = 2 * size**3 / best(partial(torch._int_mm, a, b)) / 1e9
    return {name: round(value, 1) for name, value in found.items()}
