"""The products alone: weights read a second, and arithmetic a second, by rows and weight format.

    python ci/bench/cpu/products.py [--threads 2] [--formats bfloat16,int8] [--seconds 0.4]

Each number is the best of several runs; weights are more than the caches hold where rows are few.
Beside them the machine's own limits, by torch: reading memory, and a large product."""

from __future__ import annotations

import argparse

import limits
import torch

from pagoda_kernels_cpu import LEVEL, native

SHAPES = ((9728, 896), (896, 4864))
WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.53}
FEW, MANY = (1, 2, 4, 8, 16), (64, 512, 2048)


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

        took = limits.best(work, seconds)
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
    print(limits.measure(args.threads))
    for name in args.formats.split(","):
        for outputs, inputs in SHAPES:
            measure(name, outputs, inputs, args.seconds)


if __name__ == "__main__":
    main()
