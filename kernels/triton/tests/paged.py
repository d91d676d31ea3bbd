"""Paged caches full of poison around what was stored, and dense attention in float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class Paged:
    """R sequences whose last ``queries[i]`` tokens are run now."""

    q: Tensor  # [T, heads, D]
    keys: list[Tensor]  # a sequence: [L, kv heads, D]
    values: list[Tensor]
    cache: Tensor  # [blocks, 2, kv heads, block size, D]
    queries: list[int]
    lens: list[int]
    blocks: Tensor  # int32, ragged
    block_start: np.ndarray  # [R] int32

    @property
    def query_start(self) -> np.ndarray:
        return np.cumsum([0, *self.queries]).astype(np.int32)

    @property
    def contexts(self) -> np.ndarray:
        return np.array(self.lens, np.int32) - np.array(self.queries, np.int32)


def make(
    queries: list[int],
    lens: list[int],
    heads: tuple[int, int],
    size: int,
    block_size: int,
    dtype: torch.dtype,
    device: str,
    seed: int = 0,
) -> Paged:
    """Random sequences in random blocks; all that no token was stored to is NaN, block 0 too, and
    ids around the sequences' own point far outside."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    counts = [-(-n // block_size) for n in lens]
    num_blocks = sum(counts) + 4
    order = torch.randperm(num_blocks - 1, generator=random) + 1
    cache = torch.full((num_blocks, 2, heads[1], block_size, size), float("nan"), dtype=dtype)
    keys = [normal(n, heads[1], size) for n in lens]
    values = [normal(n, heads[1], size) for n in lens]
    ids: list[int] = [-7777, -7777]
    starts = []
    for i, length in enumerate(lens):
        mine = order[sum(counts[:i]) :][: counts[i]]
        starts.append(len(ids))
        ids += [*mine.tolist(), -7777]
        for part, tensor in enumerate((keys[i], values[i])):
            place = torch.arange(length)
            cache[mine[place // block_size], part, :, place % block_size] = tensor
    return Paged(
        q=normal(sum(queries), heads[0], size).to(device),
        keys=keys,
        values=values,
        cache=cache.to(device),
        queries=queries,
        lens=lens,
        blocks=torch.tensor(ids, dtype=torch.int32).to(device),
        block_start=np.array(starts, np.int32),
    )


def dense(case: Paged, scale: float, window: int | None, soft_cap: float | None) -> Tensor:
    """[T, heads * D] float32 on the CPU."""
    out = []
    start = case.query_start
    for i, (num_queries, length) in enumerate(zip(case.queries, case.lens, strict=True)):
        q = case.q[start[i] : start[i + 1]].float().cpu()
        group = q.shape[1] // case.keys[i].shape[1]
        k = case.keys[i].float().repeat_interleave(group, 1)
        v = case.values[i].float().repeat_interleave(group, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        own = torch.arange(length - num_queries, length)[:, None]
        key = torch.arange(length)[None]
        hidden = key > own
        if window:
            hidden |= key <= own - window
        scores = scores.masked_fill(hidden, float("-inf"))
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1))
    return torch.cat(out)


def error(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm of what was wanted; NaN counts as infinite."""
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found.float().cpu() - wanted).norm() / wanted.norm())


TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
