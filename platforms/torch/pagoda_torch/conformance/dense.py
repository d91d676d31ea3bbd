"""Attention written out densely in float32, and steps to hold a backend to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pagoda.platform import BlockTable, SamplingBatch, ScheduledBatch
from pagoda_torch.attention import AttentionBackend, AttentionSpec
from pagoda_torch.family import TorchDevice
from pagoda_torch.step import make_step

ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def allowed(dtype: torch.dtype) -> float:
    """Largest error of values of size 1, by dtype: 8 roundings.  In float32 it is the order of a
    sum of some hundred terms that counts, and the library's exp: 2e-5."""
    return max(8 * ROUNDOFF[dtype], 2e-5)


@dataclass
class Line:
    """One request's keys and values so far, in float32, and its blocks."""

    keys: Tensor  # [length, kv heads, head size]
    values: Tensor
    blocks: list[int] = field(default_factory=list)


class Bench:
    """One layer's cache under one backend, beside the dense truth."""

    def __init__(
        self,
        backend: AttentionBackend,
        layer: AttentionSpec,
        block_size: int,
        device: TorchDevice,
        dtype: torch.dtype,
        rng: np.random.Generator,
        num_blocks: int = 48,
    ):
        self.backend, self.layer, self.block_size = backend, layer, block_size
        self.device, self.dtype, self.rng = device, dtype, rng
        shape = backend.cache_shape(num_blocks, block_size, layer)
        self.cache = torch.full(shape, float("nan"), dtype=dtype, device=device.device)
        self.free = rng.permutation(num_blocks).tolist()
        self.sequences: dict[int, Line] = {}

    def run(self, queries: dict[int, int]) -> float:
        """Run so many new tokens of each sequence in one step; the largest error."""
        layer = self.layer
        contexts = [len(self._sequence(i).keys) for i in queries]
        q, k, v = (
            self._random(sum(queries.values()), heads)
            for heads in (layer.num_heads, layer.num_kv_heads, layer.num_kv_heads)
        )
        parts = list(
            zip(queries, torch.split(k.float().cpu(), list(queries.values())), strict=True)
        )
        values = torch.split(v.float().cpu(), list(queries.values()))
        for (i, keys), new in zip(parts, values, strict=True):
            one = self._sequence(i)
            one.keys, one.values = torch.cat([one.keys, keys]), torch.cat([one.values, new])
            while len(one.blocks) * self.block_size < len(one.keys):
                one.blocks.append(self.free.pop())
        batch = self._batch(list(queries), list(queries.values()), contexts)
        last = torch.zeros(len(queries), dtype=torch.int64, device=self.device.device)
        step = make_step(batch, self.block_size, self.device, self.dtype, last)
        plan = self.backend.plan(step)
        got = self.backend.forward(q, k, v, self.cache, plan, layer).float().cpu()
        expected = self._dense(q.float().cpu(), queries, contexts)
        error = (got - expected).abs().max()
        return float("inf") if bool(error.isnan()) else float(error)

    def _sequence(self, index: int) -> Line:
        if index not in self.sequences:
            empty = torch.empty(0, self.layer.num_kv_heads, self.layer.head_size)
            self.sequences[index] = Line(empty, empty)
        return self.sequences[index]

    def _random(self, num_tokens: int, heads: int) -> Tensor:
        shape = num_tokens, heads, self.layer.head_size
        values = torch.from_numpy(self.rng.standard_normal(shape, np.float32))
        return values.to(self.dtype).to(self.device.device)

    def _batch(
        self, indices: Sequence[int], lens: Sequence[int], contexts: Sequence[int]
    ) -> ScheduledBatch:
        counts = [len(self.sequences[i].blocks) for i in indices]
        ids = self.rng.integers(-1, 1 << 30, (len(indices), max(counts) + 1), np.int32)
        for row, i in enumerate(indices):
            ids[row, : counts[row]] = self.sequences[i].blocks
        zeros: Any = np.zeros(0, np.float32)
        none: Any = np.zeros(0, np.int32)
        return ScheduledBatch(
            slots=np.array(indices, np.int32),
            admitted=np.array(contexts) == 0,
            query_start=np.cumsum([0, *lens], dtype=np.int32),
            token_ids=np.zeros(sum(lens), np.int32),
            context_lens=np.array(contexts, np.int32),
            block_tables=(BlockTable(ids, np.array(counts, np.int32)),),
            sample_rows=none,
            sampling=SamplingBatch(zeros, none, zeros, zeros, zeros, none),
        )

    def _dense(self, q: Tensor, queries: dict[int, int], contexts: Sequence[int]) -> Tensor:
        rows = []
        for (i, count), context, query in zip(
            queries.items(), contexts, torch.split(q, list(queries.values())), strict=True
        ):
            positions = torch.arange(context, context + count)
            one = self.sequences[i]
            rows.append(dense_attention(query, one.keys, one.values, positions, self.layer))
        return torch.cat(rows)


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, layer: AttentionSpec
) -> Tensor:
    """[Q, heads * size] of float32 query [Q, heads, size] at ``positions`` over all keys."""
    group = layer.num_heads // layer.num_kv_heads
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", query, key) * layer.scale
    if layer.soft_cap is not None:
        scores = layer.soft_cap * torch.tanh(scores / layer.soft_cap)
    distance = positions[:, None] - torch.arange(len(key))
    visible = distance >= 0
    if layer.window is not None:
        visible &= distance < layer.window
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).reshape(len(query), -1)
