"""Steps over caches full of poison for the NKI kernels, dense attention in NumPy float32, and what
runs a kernel: AWS's simulator where it is installed, else our shim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nki_shim
import numpy as np

try:
    import nki  # AWS's; the package of this name that others may have put there raises
except ImportError:
    nki_shim.install()
    import nki

BY = "the shim" if hasattr(nki, "is_pagoda_shim") else "AWS's simulator"


@dataclass(frozen=True)
class Shape:
    heads: tuple[int, int]  # query, kv
    size: int
    tile_tokens: int = 1
    dtype: Any = np.float32
    window: int = 0
    soft_cap: float = 0.0
    scale: float = 0.1
    block_size: int = 16


@dataclass(frozen=True)
class Step:
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    wanted: np.ndarray  # [N, kv heads, M, D]; NaN where nothing is asked

    def error(self, found: np.ndarray) -> float:
        asked = ~np.isnan(self.wanted)
        error = np.abs(found.astype(np.float32)[asked] - self.wanted[asked])
        return float("inf") if np.isnan(error).any() else float(error.max())


def run(kernel: Callable[..., Any], step: Step) -> np.ndarray:
    return nki.simulate(kernel)(*step.arguments, **step.options)


def make_step(
    shape: Shape, queries: Sequence[int], lens: Sequence[int], seed: int, num_keys: int = 512
) -> Step:
    """Requests of ``lens`` cached tokens whose last ``queries`` are run now, in blocks of random
    order; places that no token was stored to are NaN."""
    random = np.random.default_rng(seed)
    num_heads, num_kv = shape.heads
    group, count = num_heads // num_kv, shape.tile_tokens
    blocks = [-(-n // shape.block_size) for n in lens]
    order = list(random.permutation(sum(blocks) + 3))
    num_slots = len(order) * shape.block_size
    cache = np.full((num_slots, num_kv, 2, shape.size), np.nan, np.float32)
    q, slots, own, wanted = [], [], [], []
    for num_queries, length, num_blocks in zip(queries, lens, blocks, strict=True):
        table = np.array([order.pop() for _ in range(num_blocks)])
        position = np.minimum(np.arange(num_keys), length - 1)
        slot = table[position // shape.block_size] * shape.block_size + position % shape.block_size
        both = random.standard_normal((length, num_kv, 2, shape.size)).astype(shape.dtype)
        cache[slot[:length]] = both
        for start in range(length - num_queries, length, count):
            tile = random.standard_normal((num_kv, group, count, shape.size))
            tile = (tile * shape.scale / (shape.soft_cap or 1)).astype(shape.dtype)
            at = np.arange(start, start + count)
            found = dense(shape, tile.astype(np.float32), both.astype(np.float32), at)
            found[:, :, at >= length] = np.nan
            q.append(tile.reshape(num_kv, -1, shape.size).swapaxes(1, 2))
            slots.append(slot[:, None])
            own.append(np.tile(at, group)[:, None])
            wanted.append(found.reshape(num_kv, -1, shape.size))
    arguments = (
        np.ascontiguousarray(q),
        cache.reshape(num_slots, -1).astype(shape.dtype),
        np.array(slots, np.int32),
        np.array(own, np.float32),
    )
    options = {"window": shape.window, "soft_cap": shape.soft_cap}
    return Step(arguments, options, np.array(wanted))


def dense(shape: Shape, q: np.ndarray, both: np.ndarray, at: np.ndarray) -> np.ndarray:
    """q [kv, G, Q, D], already scaled, at positions ``at`` [Q], over both [L, kv, 2, D]."""
    scores = np.einsum("hgqd,khd->hgqk", q, both[:, :, 0])
    if shape.soft_cap:
        scores = shape.soft_cap * np.tanh(scores)
    position = np.arange(len(both))
    hidden = position > at[:, None]
    if shape.window:
        hidden |= position <= at[:, None] - shape.window
    hidden[at >= len(both)] = False
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hgqk,khd->hgqd", weights / weights.sum(-1, keepdims=True), both[:, :, 1])
