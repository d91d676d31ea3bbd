"""A decode step's layers as one graph, without an engine: linear layers by our kernels and by the
vendor's library.  ``python ci/bench/gpu/layers.py [MODEL/ROWS ...]``; median of 15 runs of ten."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pagoda_cuda.cuts import Cut, cut_of
from pagoda_cuda.hopper_products import product
from pagoda_kernels_triton.activation import silu_and_mul
from pagoda_kernels_triton.decode import Fresh, decode_attention
from pagoda_kernels_triton.norm import add_rms_norm
from pagoda_kernels_triton.one_row import GATED
from pagoda_kernels_triton.tuning import target_of

CASES = ("llama3-8b/16", "llama3-8b/64", "llama3-8b/128", "qwen3-0.6b/64", "qwen3-0.6b/128")
BLOCK, LAYERS, CUDA = 16, 8, torch.device("cuda")


@dataclass(frozen=True)
class Shape:
    """Of a model's layers, and the context that each row has."""

    hidden: int
    heads: int
    inner: int
    context: int
    kv_heads: int = 8
    head_size: int = 128

    @property
    def weights(self) -> list[tuple[int, int]]:
        """Outputs and inputs of q, k and v, of the output, of gate and up, of down."""
        width = self.heads * self.head_size
        qkv = width + 2 * self.kv_heads * self.head_size
        return [
            (qkv, self.hidden),
            (self.hidden, width),
            (2 * self.inner, self.hidden),
            (self.hidden, self.inner),
        ]


SHAPES = {"llama3-8b": Shape(4096, 32, 14336, 640), "qwen3-0.6b": Shape(1024, 16, 3072, 900)}


def normal(*shape: int) -> Tensor:
    spread: float = shape[-1] ** -0.5
    return torch.randn(shape, dtype=torch.bfloat16, device=CUDA) * spread


class Layers:
    """LAYERS of them, with weights and caches of their own."""

    def __init__(self, shape: Shape, rows: int):
        self.shape, self.rows = shape, rows
        per_row = -(-shape.context // BLOCK)
        blocks = (rows * per_row, 2, shape.kv_heads, BLOCK, shape.head_size)
        self.weights = [[normal(*size) for size in shape.weights] for _ in range(LAYERS)]
        self.caches = [normal(*blocks) for _ in range(2)]
        self.blocks = torch.randperm(rows * per_row, device=CUDA).int()
        self.starts = torch.arange(rows, device=CUDA).int() * per_row
        self.lens = torch.full((rows,), shape.context, dtype=torch.int32, device=CUDA)
        last = self.blocks.view(rows, -1)[:, -1].long()
        self.slots = last * BLOCK + (shape.context - 1) % BLOCK
        one = torch.ones(rows, shape.head_size, device=CUDA)
        self.angles = one, one * 0
        self.x = normal(rows, shape.hidden)
        self.gain = torch.ones(shape.hidden, dtype=torch.bfloat16, device=CUDA)
        self.residual = torch.zeros_like(self.x)
        units = target_of(CUDA).num_units
        halves = (1, 1, 2, 1)
        self.cuts = [
            cut_of(rows, outputs // half, inputs, half == 2, units)
            for half, (outputs, inputs) in zip(halves, shape.weights, strict=True)
        ]

    def linear(self, x: Tensor, weight: Tensor, which: int, cut: Cut | None) -> Tensor:
        gated = which == 2
        if cut is not None:
            return product(x, weight, None, GATED if gated else None, cut, early=which > 0)
        found = F.linear(x, weight)
        return silu_and_mul(found) if gated else found

    def step(self, cuts: list[Cut | None]) -> Tensor:
        shape, x = self.shape, self.x
        heads, kv_heads, size = shape.heads, shape.kv_heads, shape.head_size
        for i, (qkv, output, gate_up, down) in enumerate(self.weights):
            normed, _ = add_rms_norm(x, self.residual, self.gain, 1e-6)
            parts = self.linear(normed, qkv, 0, cuts[0]).view(self.rows, -1, size)
            q, k, v = parts[:, :heads], parts[:, heads:-kv_heads], parts[:, -kv_heads:]
            out = torch.empty(self.rows, heads * size, dtype=x.dtype, device=CUDA)
            where = self.lens, self.starts, self.blocks
            fresh = Fresh(k, v, self.slots, self.angles, None)
            decode_attention(q, self.caches[i % 2], out, *where, size**-0.5, fresh=fresh)
            x = self.linear(out, output, 1, cuts[1])
            normed, _ = add_rms_norm(x, self.residual, self.gain, 1e-6)
            x = self.linear(self.linear(normed, gate_up, 2, cuts[2]), down, 3, cuts[3])
        return x

    def microseconds(self, cuts: list[Cut | None]) -> float:
        """Of one layer."""
        self.residual.zero_()
        self.step(cuts)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(cuts)
        graph.replay()
        torch.cuda.synchronize()
        times = []
        for _ in range(15):
            began = time.perf_counter()
            for _ in range(10):
                graph.replay()
            torch.cuda.synchronize()
            times.append((time.perf_counter() - began) * 1e5 / LAYERS)
        return statistics.median(times)


def main() -> None:
    print("| model/rows | library, us a layer | ours | ratio |\n|---|---|---|---|")
    for case in sys.argv[1:] or CASES:
        model, _, rows = case.partition("/")
        layers = Layers(SHAPES[model], int(rows))
        library = layers.microseconds([None] * 4)
        ours = layers.microseconds(layers.cuts)
        print(f"| {case} | {library:.1f} | {ours:.1f} | {library / ours:.3f} |", flush=True)


if __name__ == "__main__":
    main()
