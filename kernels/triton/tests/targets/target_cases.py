"""The launchers of every kernel on shapes that models have, for compiling alone: nothing is ever
written or read, so large tensors cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pagoda_kernels_triton.activation import silu_and_mul
from pagoda_kernels_triton.decode import Fresh, decode_attention
from pagoda_kernels_triton.greedy import take_greedy
from pagoda_kernels_triton.inputs import decode_inputs
from pagoda_kernels_triton.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from pagoda_kernels_triton.one_row import GATED, one_row_linear
from pagoda_kernels_triton.prefill import prefill_attention, prefill_tiles, tokens_of_tile
from pagoda_kernels_triton.shared import Sharing, shared_attention
from pagoda_kernels_triton.store import rotate_and_store

CPU = torch.device("cpu")
PAST_32_BITS = (1 << 31) + 1
"""Elements: pointers to such tensors are not specialised to 32-bit offsets."""


@dataclass(frozen=True)
class Case:
    """One call of a launcher, which may start several kernels."""

    name: str
    launch: Callable[[], object]
    matrix: bool = False  # its first kernel is to use the matrix unit
    quick: bool = False  # compiled in every run
    shape: Heads | None = None  # of attention


@dataclass(frozen=True)
class Heads:
    """Attention as a model has it."""

    heads: int
    kv_heads: int
    size: int
    dtype: torch.dtype = torch.bfloat16
    window: int | None = None
    soft_cap: float | None = None
    large: bool = True  # a cache past 2^31 elements

    def __str__(self) -> str:
        extra = f" window {self.window}" if self.window else ""
        extra += " soft cap" if self.soft_cap else ""
        extra += "" if self.large else " small cache"
        return f"{str(self.dtype)[6:]} {self.heads}/{self.kv_heads}x{self.size}{extra}"

    def cache(self) -> Tensor:
        block = 2 * self.kv_heads * 16 * self.size
        num_blocks = PAST_32_BITS // block + 1 if self.large else 64
        return torch.empty((num_blocks, 2, self.kv_heads, 16, self.size), dtype=self.dtype)

    def queries(self, count: int) -> Tensor:
        return torch.empty((count, self.heads, self.size), dtype=self.dtype)


SHAPES = {
    Heads(32, 8, 128): True,  # Llama 3
    Heads(32, 8, 128, large=False): False,
    Heads(16, 8, 128, torch.float16): False,
    Heads(12, 12, 64): False,  # OPT
    Heads(14, 2, 64): False,  # Qwen 2.5
    Heads(32, 32, 80): False,  # Phi
    Heads(8, 4, 256, soft_cap=50.0, window=4096): False,  # Gemma 2
    Heads(32, 8, 128, torch.float32): False,
    Heads(8, 4, 256, torch.float32): False,
}


def cases() -> Iterator[Case]:
    for shape, quick in SHAPES.items():
        yield from _attention(shape, quick)
    yield from _small()


def _attention(shape: Heads, quick: bool) -> Iterator[Case]:
    matrix = shape.dtype != torch.float32
    for rows in (1, 8, 256):  # each shared by other numbers of programs
        for fresh in (False, True):
            yield Case(
                f"decode{', storing,' if fresh else ''} {shape}, {rows} rows",
                lambda rows=rows, fresh=fresh: _decode(shape, rows, fresh),
                matrix,
                quick and rows == 8 and fresh,
                shape,
            )
    yield Case(f"decode, sharing, {shape}", lambda: _sharing(shape), matrix, quick, shape)
    yield Case(f"prefill {shape}", lambda: _prefill(shape), matrix, quick, shape)
    for extra in (True, False):
        name = f"store{', norm and turn' if extra else ''} {shape}"
        yield Case(name, lambda extra=extra: _store(shape, extra), quick=quick and extra)


def _ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def _decode(shape: Heads, rows: int, fresh: bool) -> None:
    q, k, v = _stacked(shape, rows)
    out = torch.empty((rows, shape.heads * shape.size), dtype=shape.dtype)
    where = _ints(rows), _ints(rows), _ints(64)
    how = shape.size**-0.5, shape.window, shape.soft_cap, None
    stored = Fresh(k, v, _ints(rows, dtype=torch.int64), *_extra(shape, rows)) if fresh else None
    decode_attention(q, shape.cache(), out, *where, *how, stored)


def _sharing(shape: Heads) -> None:
    q, blocks = shape.queries(8), _ints(64)
    out = torch.empty((8, shape.heads * shape.size), dtype=shape.dtype)
    sharing, cache, scale = Sharing(_ints(8), _ints(2), _ints(8)), shape.cache(), shape.size**-0.5
    found = shared_attention(q, cache, sharing, _ints(8), blocks, scale, shape.soft_cap)
    where = out, _ints(8), _ints(8), blocks, scale
    decode_attention(q, cache, *where, None, shape.soft_cap, 1, shared=found)


def _prefill(shape: Heads) -> None:
    q = shape.queries(512)
    out = torch.empty((512, shape.heads * shape.size), dtype=shape.dtype)
    each = tokens_of_tile(CPU, shape.heads // shape.kv_heads, shape.size, q.element_size())
    tiles = prefill_tiles(np.array([0, 512], np.int32), *[np.zeros(1, np.int32)] * 2, each)
    scale = shape.size**-0.5
    work = torch.from_numpy(tiles), _ints(64), scale, shape.window, shape.soft_cap
    prefill_attention(q, shape.cache(), out, *work)


def _stacked(shape: Heads, rows: int = 8) -> tuple[Tensor, ...]:
    total = shape.heads + 2 * shape.kv_heads
    qkv = torch.empty((rows, total, shape.size), dtype=shape.dtype)
    return qkv.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)


def _extra(shape: Heads, rows: int = 8) -> tuple[Any, Any]:
    """Angles and norms."""
    cos, sin = torch.empty((rows, 2, shape.size), dtype=shape.dtype).split(1, 1)
    return (cos, sin), (*torch.empty((2, shape.size), dtype=shape.dtype), 1e-6)


def _store(shape: Heads, extra: bool) -> None:
    out = torch.empty((8, shape.heads * shape.size), dtype=shape.dtype)
    slots = _ints(8, dtype=torch.int64)
    more = _extra(shape) if extra else (None, None)
    rotate_and_store(*_stacked(shape), out, shape.cache(), slots, *more)


def _small() -> Iterator[Case]:
    for size, quick in ((768, False), (4096, True), (8192, False)):
        x, gain = torch.empty((2, 8, size), dtype=torch.bfloat16), torch.ones(size).bfloat16()
        norms: dict[str, Callable[[], object]] = {
            "norm": lambda x=x, w=gain: rms_norm(x[0], w, 1e-5),
            "norm of a sum": lambda x=x, w=gain: add_rms_norm(x[0], x[1], w, 1e-5),
            "layer norm": lambda x=x, w=gain: layer_norm(x[0], w, w, 1e-5),
            "layer norm of a sum": lambda x=x, w=gain: add_layer_norm(x[0], x[1], w, w, 1e-5),
        }
        for name, launch in norms.items():
            yield Case(f"{name} {size}", launch, quick=quick and name == "norm of a sum")
    silu = torch.empty((8, 28672), dtype=torch.bfloat16)
    yield Case("silu", lambda: silu_and_mul(silu), quick=True)
    yield Case("inputs of a recorded step", _inputs, quick=True)
    yield Case("likeliest token", _greedy, quick=True)
    yield Case("one row", lambda: _row(4096, 6144), quick=True)
    yield Case("one row, norm and gate", lambda: _row(4096, 28672, GATED), quick=True)
    yield Case("one row, norm and relu", lambda: _row(768, 3072, "relu"))
    yield Case("one row, norm and gate, float32", lambda: _row(1024, 6144, GATED, torch.float32))


def _row(
    inputs: int, outputs: int, activation: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> None:
    """With an activation: after a norm of a sum."""
    x, residual, gain = torch.empty((3, 1, inputs), dtype=dtype)
    weight, bias = torch.empty((outputs, inputs), dtype=dtype), torch.empty(outputs, dtype=dtype)
    if activation is None:
        one_row_linear(x, weight, bias)
        return
    shift = gain[0] if activation == "relu" else None
    one_row_linear(x, weight, bias, residual, (gain[0], shift, 1e-5), activation)


def _inputs() -> None:
    int64 = [_ints(8, dtype=torch.int64) for _ in range(4)]
    columns = [_ints(8) for _ in range(4)]
    decode_inputs(*columns, _ints(64), int64[0], 16, int64[1], int64[2], _ints(8), int64[3])


def _greedy() -> None:
    logits = torch.empty((8, 151936), dtype=torch.bfloat16)
    int64 = torch.int64
    take_greedy(logits, _ints(8), _ints(9, dtype=int64), _ints(8, dtype=int64))
