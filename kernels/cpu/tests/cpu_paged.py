"""Paged caches full of poison around what was stored, and dense attention in float64."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclass
class Shape:
    """One layer and its cache."""

    heads: int = 8
    kv_heads: int = 2
    head_size: int = 64
    block_size: int = 16
    dtype: str = "float32"
    kv_dtype: str = "auto"
    window: int | None = None
    soft_cap: float | None = None
    scale: float = 0.0

    def __post_init__(self) -> None:
        self.scale = self.scale or self.head_size**-0.5
        self.kv_dtype = self.dtype if self.kv_dtype == "auto" else self.kv_dtype


def empty_cache(shape: Shape, num_blocks: int, poison: float = float("nan")) -> torch.Tensor:
    """Every number of it poison; of an int8 cache every scale is NaN."""
    page = 2 * shape.block_size * shape.head_size
    if shape.kv_dtype == "int8":
        page += 8 * shape.block_size
        return torch.full((num_blocks, shape.kv_heads, page), -1, dtype=torch.int8)
    return torch.full((num_blocks, shape.kv_heads, page), poison, dtype=DTYPES[shape.kv_dtype])


@dataclass
class Step:
    """R requests whose last ``queries[i]`` tokens run now, all their keys stored already."""

    shape: Shape
    q: torch.Tensor  # [T, heads, D]
    keys: list[np.ndarray]  # a request: [L, kv heads, D] float64
    values: list[np.ndarray]
    cache: torch.Tensor
    tables: np.ndarray  # [R, W]
    query_start: np.ndarray
    seq_lens: np.ndarray

    def run(self, native: ModuleType) -> np.ndarray:
        """[T, heads * D] float64."""
        shape = self.shape
        out = torch.full((len(self.q), shape.heads * shape.head_size), 7.0, dtype=self.q.dtype)
        native.paged_attention(
            *(self.q, self.cache, out, self.tables, self.query_start, self.seq_lens),
            *(shape.block_size, shape.scale, shape.window, shape.soft_cap),
        )
        return out.double().numpy()

    def expected(self) -> np.ndarray:
        parts = []
        for i, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            query = self.q[self.query_start[i] : self.query_start[i + 1]].double().numpy()
            parts.append(dense(query, keys, values, self.shape))
        return np.concatenate(parts)


def dense(q: np.ndarray, keys: np.ndarray, values: np.ndarray, shape: Shape) -> np.ndarray:
    """[Q, heads * D] of the last Q positions over all keys."""
    group = shape.heads // shape.kv_heads
    keys, values = np.repeat(keys, group, 1), np.repeat(values, group, 1)
    scores = np.einsum("qhd,khd->hqk", q, keys) * shape.scale
    if shape.soft_cap is not None:
        scores = shape.soft_cap * np.tanh(scores / shape.soft_cap)
    position = np.arange(len(keys) - len(q), len(keys))[:, None]
    distance = position - np.arange(len(keys))
    seen = distance >= 0
    if shape.window is not None:
        seen &= distance < shape.window
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, values).reshape(len(q), -1)


def make_step(
    native: ModuleType,
    shape: Shape,
    rng: np.random.Generator,
    rows: list[tuple[int, int]],
    poison: float = float("nan"),
    gain: float = 1.0,
) -> Step:
    """Requests of (tokens cached before, tokens run now), their blocks in random order, stored by
    the kernel.  Table entries past a request's blocks, and before its window, point nowhere."""
    lens = np.array([context + query for context, query in rows], np.int32)
    needed = -(-lens // shape.block_size)
    num_blocks = int(needed.sum()) + 3
    free = rng.permutation(num_blocks)
    tables = rng.integers(1 << 20, 1 << 30, (len(rows), int(needed.max(initial=1)) + 1), np.int32)
    starts = np.cumsum([0, *needed])
    cache = empty_cache(shape, num_blocks, poison)
    keys, values = [], []
    for i, length in enumerate(lens):
        tables[i, : needed[i]] = free[starts[i] : starts[i + 1]]
        k, v = (random(rng, shape, length, shape.kv_heads, gain) for _ in range(2))
        position = np.arange(length)
        block = tables[i, position // shape.block_size].astype(np.int64)
        slots = block * shape.block_size + position % shape.block_size
        native.store_kv(k, v, cache, slots, shape.block_size)
        key, value = stored(cache, slots, shape)
        limit = int8_step(k, shape), int8_step(v, shape)
        assert (np.abs(key - k.double().numpy()) <= limit[0]).all(), "the store moved keys"
        assert (np.abs(value - v.double().numpy()) <= limit[1]).all(), "the store moved values"
        keys.append(key)
        values.append(value)
        if shape.window is not None:
            first = max(0, rows[i][0] - shape.window + 1) // shape.block_size
            tables[i, :first] = 1 << 30
    query_start = np.cumsum([0, *(query for _, query in rows)], dtype=np.int32)
    q = random(rng, shape, int(query_start[-1]), shape.heads, gain)
    return Step(shape, q, keys, values, cache, tables, query_start, lens)


def random(
    rng: np.random.Generator, shape: Shape, tokens: Any, heads: int, gain: float = 1.0
) -> torch.Tensor:
    x = rng.standard_normal((tokens, heads, shape.head_size), np.float32) * np.float32(gain)
    return torch.from_numpy(x).to(DTYPES[shape.dtype])


def stored(cache: torch.Tensor, slots: np.ndarray, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values [L, kv heads, D] float64 as they lie in the cache."""
    size, heads, dim = shape.block_size, shape.kv_heads, shape.head_size
    block, offset = slots // size, slots % size
    key_scale = value_scale = np.ones((len(slots), heads, 1))
    pages = cache[torch.from_numpy(block)]  # [L, kv heads, page]
    if shape.kv_dtype == "int8":
        scales = pages[..., : 8 * size].contiguous().view(torch.float32).double().numpy()
        scales = scales.reshape(-1, heads, 2, size)
        key_scale, value_scale = (
            np.stack([scales[i, :, which, o] for i, o in enumerate(offset)])[..., None]
            for which in (0, 1)
        )
        pages = pages[..., 8 * size :]
    numbers = pages.double().numpy().reshape(len(slots), heads, 2, -1)
    keys = numbers[:, :, 0].reshape(-1, heads, dim, size)
    values = numbers[:, :, 1].reshape(-1, heads, size, dim)
    token = np.arange(len(slots))
    return keys[token, :, :, offset] * key_scale, values[token, :, offset] * value_scale


def int8_step(x: torch.Tensor, shape: Shape) -> np.ndarray:
    """[L, kv heads, 1] how far rounding to the cache's dtype may move a number."""
    largest = x.double().abs().amax(-1, keepdim=True).numpy()
    if shape.kv_dtype == "int8":
        return largest / 127 * 0.5001
    return largest * (0.0 if shape.kv_dtype == shape.dtype else ROUNDOFF[shape.kv_dtype])


def allowed(shape: Shape) -> float:
    """Largest error of values of size 1: 8 roundings of the widest step on the way."""
    return max(8 * ROUNDOFF[shape.dtype], 2e-5)
