"""The Triton kernels and cuBLAS by themselves, beside a copy and torch's dense attention.

    python ci/bench/gpu/kernels.py [--prefill-tile ROWS,KEYS,WARPS,STAGES ...] [--decode-tile ...]

Head size 128, bfloat16, blocks of 16 in random order; medians."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from triton.testing import do_bench

from pagoda_cuda import dense, hopper_dense
from pagoda_kernels_triton import decode, prefill, tuning
from pagoda_kernels_triton.one_row import one_row_linear
from pagoda_kernels_triton.tuning import Tile

SIZE, BLOCK = 128, 16
WEIGHTS = [  # inputs, outputs: llama3-8b's, then qwen3-0.6b's
    *((4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096), (4096, 128256)),
    *((1024, 4096), (2048, 1024), (1024, 6144), (3072, 1024), (1024, 151936)),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prefill-tile", nargs="*", type=tile, default=[])
    parser.add_argument("--decode-tile", nargs="*", type=tile, default=[])
    given = parser.parse_args()
    source = normal(1 << 31)
    target = torch.empty_like(source)
    seconds = median(target.copy_, source)
    print(f"copy: {2 * source.nbytes / seconds / 1e12:.2f} TB/s")
    del source, target
    for line in chain(products(), decodes(given.decode_tile), prompts(given.prefill_tile)):
        print(line, flush=True)


def tile(text: str) -> Tile:
    rows, keys, warps, stages = map(int, text.split(","))
    return Tile(rows, keys, warps, stages)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16, device="cuda")


def median(work: Callable[..., object], *arguments: object, **named: object) -> float:
    """Seconds."""
    call = partial(work, *arguments, **named)
    milliseconds: float = do_bench(call, warmup=5, rep=30, return_mode="median")
    return milliseconds / 1e3


def use(module: ModuleType, name: str, usual: Callable[..., Tile], wanted: Tile | None) -> None:
    """Have a kernel's launcher take this tile, or the usual one."""
    setattr(module, name, usual if wanted is None else lambda *_: wanted)


def products() -> Iterator[str]:
    """In a graph, over weights too many for the cache."""
    for rows in (1, 8, 64):
        for inputs, outputs in WEIGHTS:
            num_bytes = 2 * inputs * outputs
            weights = [
                normal(outputs, inputs) for _ in range(min(16, 2 + 300_000_000 // num_bytes))
            ]
            x = normal(rows, inputs)
            seconds = recorded(F.linear, x, weights)
            rate = num_bytes / seconds / 1e12
            yield f"linear {rows} x {inputs} to {outputs}: {seconds * 1e6:.1f} us, {rate:.2f} TB/s"
            if rows == 1:
                seconds = recorded(one_row_linear, x, weights)
                rate = num_bytes / seconds / 1e12
                yield f"  by our kernel: {seconds * 1e6:.1f} us, {rate:.2f} TB/s"


def recorded(linear: Callable[[Tensor, Tensor], object], x: Tensor, weights: list[Tensor]) -> float:
    """Seconds of one product, in a graph of one for each weight."""
    linear(x, weights[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            linear(x, weight)
    return median(graph.replay) / len(weights)


def cached(rows: int, length: int, kv_heads: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """A cache, block ids in random order, and where each row's begin."""
    per_row = length // BLOCK
    cache = normal(rows * per_row, 2, kv_heads, BLOCK, SIZE)
    blocks = torch.randperm(rows * per_row, device="cuda").int()
    return cache, blocks, np.arange(rows, dtype=np.int32) * per_row


def decodes(tiles: list[Tile]) -> Iterator[str]:
    name = "decode_cut"  # of what the launcher asks

    def cut(*asked: Any, tile: Tile | None) -> tuple[Tile, int]:
        """Of this tile, shared by as many programs as usual."""
        usual, splits = tuning.decode_cut(*asked)
        return tile or usual, splits

    for rows, length in ((256, 1024), (64, 768), (8, 4096), (1, 384)):
        cache, blocks, starts = cached(rows, length, 8)
        q, out = normal(rows, 32, SIZE), normal(rows, 32 * SIZE)
        lens = torch.full((rows,), length, dtype=torch.int32, device="cuda")
        start = torch.from_numpy(starts).cuda()
        for wanted in (None, *tiles):
            setattr(decode, name, partial(cut, tile=wanted))
            work = q, cache, out, lens, start, blocks, SIZE**-0.5
            seconds = median(decode.decode_attention, *work)
            rate = cache.nbytes / seconds / 1e12
            shape = f"{rows} rows x {length}, {wanted or 'usual tile'}"
            yield f"decode {shape}: {seconds * 1e6:.1f} us, {rate:.2f} TB/s"
    setattr(decode, name, tuning.decode_cut)


def prompts(tiles: list[Tile]) -> Iterator[str]:
    rows, length, usual = 4, 4096, tuning.prefill_tile
    for heads in (32, 16):
        cache, blocks, starts = cached(rows, length, 8)
        q, out = normal(rows * length, heads, SIZE), normal(rows * length, heads * SIZE)
        num_operations = 2 * length**2 * heads * SIZE * rows
        for wanted in (None, *tiles):
            use(prefill, "prefill_tile", usual, wanted)
            each = prefill.tokens_of_tile(q.device, heads // 8, SIZE, 2)
            query_start = np.arange(rows + 1, dtype=np.int32) * length
            tiled = prefill.prefill_tiles(query_start, starts * 0, starts, each)
            where = torch.from_numpy(tiled).cuda()
            work = q, cache, out, where, blocks, SIZE**-0.5
            seconds = median(prefill.prefill_attention, *work)
            rate = num_operations / seconds / 1e12
            yield f"prompts {heads} heads, {wanted or 'usual tile'}: {rate:.0f} TFLOP/s"
        k, v = normal(rows * length, 8, SIZE), normal(rows * length, 8, SIZE)
        for module, each in ((dense, dense.TILE.rows), (hopper_dense, hopper_dense.ROWS)):
            tiled = prefill.prefill_tiles(query_start, starts * 0, starts, each)
            work = q, k, v, out, torch.from_numpy(tiled).cuda(), SIZE**-0.5
            rate = num_operations / median(module.dense_attention, *work) / 1e12
            yield f"whole prompts {heads} heads, {module.__name__}: {rate:.0f} TFLOP/s"
        queries, keys = normal(rows, heads, length, SIZE), normal(rows, 8, length, SIZE)
        attend = F.scaled_dot_product_attention
        seconds = median(attend, queries, keys, keys, is_causal=True, enable_gqa=True)
        yield f"torch's dense {heads} heads: {num_operations / seconds / 1e12:.0f} TFLOP/s"
    use(prefill, "prefill_tile", usual, None)


if __name__ == "__main__":
    main()
