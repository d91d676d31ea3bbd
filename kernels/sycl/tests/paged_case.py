"""Ragged sequences over a poisoned cache, and attention over them written out in float32."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pagoda_kernels_sycl.attention import attend, tiles_of, turn_and_store

OUTSIDE = 1 << 29  # a block id that nobody may follow


@dataclass
class Paged:
    """Sequences of ``lens`` tokens, of which the last ``queries`` run now; every place of the cache
    that no token has is NaN, and so is everything near it."""

    queries: list[int]
    lens: list[int]
    heads: int
    kv_heads: int
    size: int
    block: int
    dtype: torch.dtype
    seed: int
    keys: list[Tensor] = field(init=False)  # [length, kv heads, size] each
    values: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(self.seed)

        def make(count: int, heads: int) -> Tensor:
            return torch.randn(count, heads, self.size, generator=random).to(self.dtype)

        counts = [-(-length // self.block) for length in self.lens]
        order = torch.randperm(sum(counts) + 3, generator=random).int()
        self.table = torch.full((len(self.lens), max(counts) + 1), OUTSIDE, dtype=torch.int32)
        shape = (sum(counts) + 3, 2, self.kv_heads, self.block, self.size)
        self.cache = torch.full(shape, float("nan"), dtype=self.dtype)
        self.keys = [make(length, self.kv_heads) for length in self.lens]
        self.values = [make(length, self.kv_heads) for length in self.lens]
        slots, used = [], 0
        for row, (count, length, query) in enumerate(
            zip(counts, self.lens, self.queries, strict=True)
        ):
            self.table[row, :count] = order[used : used + count]
            used += count
            places = torch.arange(length)
            blocks = self.table[row][places // self.block].long()
            old = length - query
            for part, source in enumerate((self.keys[row], self.values[row])):
                self.cache[blocks[:old], part, :, places[:old] % self.block] = source[:old]
            slots.append(blocks[old:] * self.block + places[old:] % self.block)
        self.slots = torch.cat(slots)
        self.q = make(sum(self.queries), self.heads)

    def new(self, whole: list[Tensor]) -> Tensor:
        """The step's own tokens of all sequences."""
        return torch.cat([x[len(x) - n :] for x, n in zip(whole, self.queries, strict=True)])

    def run(self, scale: float, window: int | None, cap: float | None, part: int | None) -> Tensor:
        """Store, then attend; by parts of ``part`` keys where that is not None."""
        tokens = len(self.q)
        start = np.cumsum([0, *self.queries]).astype(np.int32)
        contexts = np.array(self.lens, np.int32) - np.array(self.queries, np.int32)
        begins = np.arange(len(self.lens), dtype=np.int32) * self.table.shape[1]
        tiles = torch.from_numpy(tiles_of(start, contexts, begins, self.heads // self.kv_heads))
        turned = torch.full((tokens, self.heads * self.size), float("nan"), dtype=self.dtype)
        out = torch.full_like(turned, float("nan"))
        new = self.new(self.keys), self.new(self.values)
        turn_and_store(self.q, *new, turned, self.cache, self.slots)
        q, blocks = turned.view(tokens, self.heads, self.size), self.table.reshape(-1)
        more = {} if part is None else {"longest": max(self.lens), "part_keys": part}
        attend(q, self.cache, out, tiles, blocks, scale, window, cap, **more)
        return out

    def expected(self, scale: float, window: int | None, cap: float | None) -> Tensor:
        group, rows, done = self.heads // self.kv_heads, [], 0
        for key, value, query in zip(self.keys, self.values, self.queries, strict=True):
            q = self.q[done : done + query].float()
            done += query
            key, value = (x.float().repeat_interleave(group, 1) for x in (key, value))
            scores = torch.einsum("qhd,khd->hqk", q, key) * scale
            scores = cap * torch.tanh(scores / cap) if cap else scores
            distance = torch.arange(len(key) - query, len(key))[:, None] - torch.arange(len(key))
            seen = (distance >= 0) & (distance < (window or 1 << 30))
            weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
            rows.append(torch.einsum("hqk,khd->qhd", weights, value).flatten(1))
        return torch.cat(rows)
