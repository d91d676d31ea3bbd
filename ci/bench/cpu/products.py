"""The products alone: weights read a second, and arithmetic a second, by rows and weight format.

    python ci/bench/cpu/products.py [--threads 2] [--formats bfloat16,int8] [--seconds 0.4]

Each number is the best of several runs; weights are more than the caches hold where rows are few.
Beside them the machine's own limits, by torch: reading memory, and a large product."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from pagoda_kernels_cpu import LEVEL, native

SHAPES = ((9728, 896), (896, 4864))
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.53}
FEW, MANY = (1, 2, 4, 8, 16), (64, 512, 2048)


def best(work: Callable[[], object], seconds: float) -> float:
    work()
    times: list[float] = []
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times) < 3:
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return min(times)


def limits(seconds: float) -> None:
    numbers = torch.ones(1 << 27)
    read = best(numbers.max, seconds)
    print(f"reading: {numbers.numel() * 4 / read / 1e9:.1f} GB/s")
    dtypes = [torch.float32]
    if LEVEL in ("avx512", "amx"):  # elsewhere torch multiplies bfloat16 number by number
        dtypes.append(torch.bfloat16)
    for dtype in dtypes:
        a = torch.randn(1024, 4096).to(dtype)
        b = torch.randn(4096, 4096).to(dtype)
        flops = 2 * 1024 * 4096 * 4096
        print(f"{dtype} product: {flops / best(partial(a.matmul, b), seconds) / 1e9:.0f} GFLOP/s")


def measure(name: str, outputs: int, inputs: int, seconds: float) -> None:
    count = max(1, int(400e6 / (outputs * inputs * WEIGHT_BYTES[name])))
    weight = torch.randn(outputs, inputs)
    packed = [native.Matrix([weight], name) for _ in range(count)]
    num_bytes = sum(matrix.num_bytes for matrix in packed)
    dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
    found = []
    for rows in FEW + MANY:
        used = packed if rows in FEW else packed[:1]
        x, out = torch.randn(rows, inputs).to(dtype), torch.empty(rows, outputs, dtype=dtype)

        def work() -> None:
            for matrix in used:  # noqa: B023
                matrix.multiply(x, out)  # noqa: B023

        took = best(work, seconds)
        gflops = 2 * rows * outputs * inputs * len(used) / took / 1e9
        read = f"{num_bytes / took / 1e9:.1f} GB/s " if rows in FEW else ""
        found.append(f"{rows}: {read}{gflops:.0f}")
    print(f"{name} [{outputs}, {inputs}], GFLOP/s by rows: " + "; ".join(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--formats", default=",".join(WEIGHT_BYTES))
    parser.add_argument("--seconds", type=float, default=0.4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    native.set_num_threads(args.threads)
    print(f"level {LEVEL}, {args.threads} threads")
    limits(args.seconds)
    for name in args.formats.split(","):
        for outputs, inputs in SHAPES:
            measure(name, outputs, inputs, args.seconds)


if __name__ == "__main__":
    main()
