"""Paged attention against what the CPU can do: bytes read in a decode, products in a prompt.

    python kernels/cpu/bench/attention.py --threads 2 [--level avx2] [--peak PATH]

``--peak`` is peak.cpp, compiled; without it only absolute numbers are printed.  A line of JSON a
case."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import time
from collections.abc import Callable

import numpy as np
import torch

from pagoda_kernels_cpu import level

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYERS = {"qwen2.5-0.5b": (14, 2, 64), "llama-8b": (32, 8, 128), "no groups": (8, 8, 128)}


class Case:
    """One layer's cache in random block order, and rows of (tokens cached, tokens run)."""

    def __init__(
        self,
        heads: tuple[int, int, int],
        dtypes: tuple[str, str],
        rows: list[tuple[int, int]],
        block_size: int,
    ):
        rng = np.random.default_rng(0)
        num_heads, kv_heads, size = heads
        self.block_size, self.scale = block_size, size**-0.5
        self.lens = np.array([sum(row) for row in rows], np.int32)
        counts = -(-self.lens // block_size)
        order = rng.permutation(int(counts.sum())).astype(np.int32)
        self.tables = np.zeros((len(rows), int(counts.max())), np.int32)
        for row, start, count in zip(self.tables, np.cumsum([0, *counts]), counts, strict=False):
            row[:count] = order[start : start + count]
        self.query_start = np.cumsum([0, *(query for _, query in rows)], dtype=np.int32)
        dtype = DTYPES[dtypes[0]]
        self.query = torch.randn(int(self.query_start[-1]), num_heads, size).to(dtype)
        self.out = torch.empty(len(self.query), num_heads * size, dtype=dtype)
        if dtypes[1] == "int8":
            page = 2 * block_size * (size + 4)
            self.cache = torch.ones(len(order), kv_heads, page, dtype=torch.int8)
        else:
            page = 2 * block_size * size
            self.cache = torch.empty(len(order), kv_heads, page, dtype=DTYPES[dtypes[1]])
            self.cache.copy_(torch.randn(1, 1, page))

    def run(self, native: object) -> None:
        native.paged_attention(  # type: ignore[attr-defined]
            *(self.query, self.cache, self.out, self.tables, self.query_start, self.lens),
            *(self.block_size, self.scale),
        )


def best(work: Callable[[], None], limit: float) -> float:
    """Seconds of the fastest run, a few tries within ``limit`` seconds."""
    work()
    took: list[float] = []
    started = time.perf_counter()
    while len(took) < 3 or (time.perf_counter() - started < limit and len(took) < 50):
        begin = time.perf_counter()
        work()
        took.append(time.perf_counter() - begin)
    return min(took)


def report(
    peak: dict[str, float], bound: str, amount: float, seconds: float, **what: object
) -> None:
    rate = amount / seconds / 1e9
    said = {**what, "ms": round(seconds * 1e3, 3), "rate": round(rate, 1), "of": bound}
    if bound in peak:
        said["share"] = round(rate / peak[bound], 3)
    print(json.dumps(said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--level", default=level.LEVEL)
    parser.add_argument("--peak")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each case")
    args = parser.parse_args()
    native = level.load(args.level)
    native.set_num_threads(args.threads)
    peak: dict[str, float] = {}
    if args.peak:
        told = subprocess.run([args.peak, str(args.threads)], capture_output=True, check=True)
        peak = json.loads(told.stdout)
        print(json.dumps(peak), flush=True)
    kinds = [("bfloat16", "bfloat16"), ("float32", "float32"), ("bfloat16", "int8")]
    for (name, heads), dtypes in itertools.product(LAYERS.items(), kinds):
        rows = [(args.context - 1, 1)] * (64 // heads[1])
        case = Case(heads, dtypes, rows, 16)
        seconds = best(lambda case=case: case.run(native), args.seconds)  # type: ignore[misc]
        size = case.cache.numel() * case.cache.element_size()
        report(peak, "read", size, seconds, decode=name, dtypes=dtypes)
    tiles = args.level == "amx"
    vectors = "fma_avx2" if args.level in ("avx2", "portable") else "fma_avx512"
    for (name, heads), dtype in itertools.product(LAYERS.items(), ("bfloat16", "float32")):
        for tokens in (512, 2048):
            case = Case(heads, (dtype, dtype), [(0, tokens)], 16)
            seconds = best(lambda case=case: case.run(native), args.seconds)  # type: ignore[misc]
            products = 4 * heads[0] * heads[2] * tokens * (tokens + 1) / 2
            bound = "amx_bf16" if tiles and dtype == "bfloat16" else vectors
            report(peak, bound, products, seconds, prompt=name, tokens=tokens, dtype=dtype)
    for count in (1, 16):
        case = Case(LAYERS["qwen2.5-0.5b"], ("bfloat16", "bfloat16"), [(127, 1)] * count, 16)
        seconds = best(lambda case=case: case.run(native), args.seconds)  # type: ignore[misc]
        print(json.dumps({"requests": count, "context": 128, "us": round(seconds * 1e6, 1)}))


if __name__ == "__main__":
    main()
