"""Steps in tiles over caches full of poison, and dense attention in NumPy float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from pagoda_kernels_pallas.layout import stored_width

JUNK = -7777
"""What a block table holds where there is no block."""


@dataclass(frozen=True)
class Shape:
    """What a kernel is compiled for."""

    heads: tuple[int, int]  # query, kv
    size: int
    block_size: int = 16
    tile_tokens: int = 1
    num_rows: int = 4
    num_tiles: int = 4
    num_blocks: int = 24
    table_width: int = 8
    dtype: Any = np.float32
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None

    @property
    def options(self) -> dict[str, Any]:
        return {
            "block_size": self.block_size,
            "tile_tokens": self.tile_tokens,
            "scale": self.scale or self.size**-0.5,
            "window": self.window,
            "soft_cap": self.soft_cap,
        }


@dataclass(frozen=True)
class Step:
    """One step's arguments, and what must come out."""

    arguments: tuple[Any, ...]
    wanted: np.ndarray  # like q; NaN where nothing is asked

    def error(self, found: Any) -> float:
        """The largest absolute error; NaN counts as infinite."""
        asked = ~np.isnan(self.wanted)
        error = np.abs(np.asarray(found, np.float32)[asked] - self.wanted[asked])
        return float("inf") if np.isnan(error).any() else float(error.max(initial=0.0))


def rounded(x: np.ndarray, dtype: Any) -> np.ndarray:
    return np.asarray(jnp.asarray(x, dtype), np.float32)


def make_step(shape: Shape, queries: Sequence[int], lens: Sequence[int], seed: int) -> Step:
    """Requests of ``lens`` cached tokens whose last ``queries`` are run now.  Blocks in random
    order; every place that no token was stored to is NaN, and unused table entries are junk."""
    random = np.random.default_rng(seed)
    num_heads, num_kv = shape.heads
    width, group = stored_width(shape.size), num_heads // num_kv
    cache = np.full((shape.num_blocks * shape.block_size, num_kv, 2, width), np.nan, np.float32)
    tables = np.full((shape.num_rows, shape.table_width), JUNK, np.int32)
    order = list(random.permutation(np.arange(1, shape.num_blocks)))
    tiles = np.zeros((3, shape.num_tiles), np.int32)  # rows, starts, lens
    q = random.standard_normal((shape.num_tiles, num_kv, group, shape.tile_tokens, shape.size))
    q = rounded(q.astype(np.float32), shape.dtype)
    wanted = np.full_like(q, np.nan)
    tile = 0
    for row, (num_queries, length) in enumerate(zip(queries, lens, strict=True)):
        position = np.arange(length)
        blocks = np.array([order.pop() for _ in range(-(-length // shape.block_size))], np.int64)
        tables[row, : len(blocks)] = blocks
        key, value = (
            rounded(random.standard_normal((length, num_kv, shape.size)), shape.dtype)
            for _ in range(2)
        )
        slot = blocks[position // shape.block_size] * shape.block_size
        slot += position % shape.block_size
        cache[slot] = 0
        cache[slot, :, 0, : shape.size], cache[slot, :, 1, : shape.size] = key, value
        for start in range(length - num_queries, length, shape.tile_tokens):
            count = min(shape.tile_tokens, length - start)
            tiles[:, tile] = row, start, count
            own = position[start : start + count]
            wanted[tile, :, :, :count] = dense(shape, q[tile, :, :, :count], key, value, own)
            tile += 1
    wanted[tile:] = 0
    merged = (shape.num_tiles, num_kv, group * shape.tile_tokens, shape.size)
    floats = (q.reshape(merged), cache.reshape(len(cache), -1))
    arguments = (*(jnp.asarray(x, shape.dtype) for x in floats), jnp.asarray(tables))
    return Step((*arguments, *map(jnp.asarray, tiles)), wanted.reshape(merged))


def dense(
    shape: Shape, q: np.ndarray, key: np.ndarray, value: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """q [kv, G, Q, D] at positions ``own`` [Q], key and value [L, kv, D] -> [kv, G, Q, D]."""
    scores = np.einsum("hgqd,khd->hgqk", q, key) * (shape.scale or shape.size**-0.5)
    if shape.soft_cap:
        scores = shape.soft_cap * np.tanh(scores / shape.soft_cap)
    position = np.arange(len(key))
    hidden = position > own[:, None]
    if shape.window:
        hidden |= position <= own[:, None] - shape.window
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hgqk,khd->hgqd", weights, value)


def random_step(shape: Shape, seed: int) -> Step:
    """A step that fits the shape: decodes, prompts, later chunks and empty rows, at random."""
    random = np.random.default_rng(seed)
    blocks, tiles = shape.num_blocks - 1, shape.num_tiles
    queries: list[int] = []
    lens: list[int] = []
    for _ in range(int(random.integers(1, shape.num_rows + 1))):
        most = min(blocks, shape.table_width) * shape.block_size
        if tiles == 0 or most == 0:
            break
        length = int(random.integers(1, most + 1))
        most_queries = min(length, tiles * shape.tile_tokens)
        num_queries = 1 if random.random() < 0.4 else int(random.integers(1, most_queries + 1))
        queries.append(num_queries)
        lens.append(length)
        blocks -= -(-length // shape.block_size)
        tiles -= -(-num_queries // shape.tile_tokens)
    return make_step(shape, queries, lens, seed)


DECODE = Shape((8, 2), 128)
PROMPT = Shape((4, 2), 64, tile_tokens=8, num_tiles=8)
CASES = {
    "decode": DECODE,
    "decode of 7 heads a key, half a tile wide": replace(DECODE, heads=(14, 2), size=64),
    "decode in a window": replace(DECODE, window=20, heads=(2, 2)),
    "mixed": PROMPT,
    "mixed, padded heads": replace(PROMPT, size=80),
    "mixed, two tiles a head": replace(PROMPT, size=256, heads=(2, 1)),
    "mixed in a window, capped": replace(PROMPT, size=128, window=21, soft_cap=3.0, scale=0.5),
    "large blocks": replace(PROMPT, block_size=64, num_blocks=9, table_width=3),
    "bfloat16": replace(PROMPT, size=128, dtype=jnp.bfloat16),
}
