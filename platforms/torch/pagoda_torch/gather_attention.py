"""Paged attention in plain torch: gather the keys of like rows into one dense batch, then attend.

Correct on every device, and what a platform without kernels of its own uses.  The rows of a step
are cut into groups, one batched product each: decodes by length, short prefills by their two
lengths, long prefills alone (they need no padding, and their work dwarfs a call)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pagoda_torch.attention import AttentionSpec
from pagoda_torch.step import TorchStep

LONG_QUERY = 64
"""Queries from this length on are attended alone."""

GROUP_KEYS = 1 << 16
"""Keys gathered for one group at most, so that a step's work space stays small."""


@dataclass(frozen=True)
class Group:
    """Rows attended together, padded to Q query tokens and K keys."""

    num_rows: int
    queries: slice | Tensor  # [N * Q] token indices; padding repeats a row's last token
    keys: Tensor | None  # [N * K] cache positions; padding repeats a row's last; None: the queries'
    mask: Tensor | None  # [N, 1, Q, K] added to scores: 0 or -inf
    causal: bool  # without a mask: lower triangle, Q == K
    real: Tensor | None  # [tokens] which of the N * Q are not padding; None: all are
    tokens: slice | Tensor  # where the result goes


@dataclass
class GatherPlan:
    """A step's groups, made on first use for each window that its layers have."""

    step: TorchStep
    made: dict[int | None, list[Group]]

    def groups(self, window: int | None) -> list[Group]:
        if window not in self.made:
            self.made[window] = [self._group(rows, window) for rows in self._cut(window)]
        return self.made[window]

    def _cut(self, window: int | None) -> list[npt.NDArray[np.int64]]:
        """Sets of rows of about the same lengths."""
        batch = self.step.batch
        queries = batch.query_lens.astype(np.int64)
        keys = batch.seq_lens - self._first_keys(window)
        kind = _bucket(queries) * 1000 + _bucket(keys)
        long = np.flatnonzero(queries >= LONG_QUERY)
        kind[long] = -1 - long
        sets = []
        for value in np.unique(kind):
            rows = np.flatnonzero(kind == value)
            each = max(1, GROUP_KEYS // int(keys[rows].max()))
            sets += [rows[i : i + each] for i in range(0, len(rows), each)]
        return sets

    def _first_keys(self, window: int | None) -> npt.NDArray[np.int64]:
        """[R] the first position that any query token of a row may see."""
        context = self.step.batch.context_lens.astype(np.int64)
        return np.zeros_like(context) if window is None else np.maximum(context - window + 1, 0)

    def _group(self, rows: npt.NDArray[np.int64], window: int | None) -> Group:
        step, batch = self.step, self.step.batch
        upload, size = step.device.upload, step.block_size
        queries = batch.query_lens[rows].astype(np.int64)
        num_q = int(queries.max())
        offset = np.minimum(np.arange(num_q), queries[:, None] - 1)  # [N, Q]
        index = (batch.query_start[rows][:, None] + offset).reshape(-1)
        tokens: slice | Tensor = slice(int(index[0]), int(index[-1]) + 1)
        real = None
        if int(index[-1]) - int(index[0]) + 1 != len(index) or (np.diff(index) != 1).any():
            alive = (np.arange(num_q) < queries[:, None]).reshape(-1)
            real = None if alive.all() else upload(np.flatnonzero(alive))
            tokens = upload(index[alive])
        context = batch.context_lens[rows].astype(np.int64)
        fits = window is None or num_q <= window
        fresh = len(rows) == 1 and not context.any() and fits
        where = tokens if real is None else upload(index)
        if fresh and num_q > 1:
            return Group(1, where, None, None, True, real, tokens)
        first = self._first_keys(window)[rows][:, None]  # [N, 1]
        count = batch.seq_lens[rows].astype(np.int64)[:, None] - first
        position = first + np.minimum(np.arange(int(count.max())), count - 1)  # [N, K]
        block = batch.block_tables[0].ids[rows[:, None], position // size].astype(np.int64)
        keys = upload((block * size + position % size).reshape(-1))
        return Group(
            len(rows), where, keys, self._mask(context, offset, first, count, window), False,
            real, tokens,
        )  # fmt: skip

    def _mask(
        self,
        context: npt.NDArray[np.int64],
        offset: npt.NDArray[np.int64],
        first: npt.NDArray[np.int64],
        count: npt.NDArray[np.int64],
        window: int | None,
    ) -> Tensor | None:
        num_q, num_k = offset.shape[1], int(count.max())
        if num_q == 1:  # a decode: the window is in ``first`` already
            if (count == num_k).all():
                return None
            last = count[:, :, None] - 1
            oldest = None
        else:
            last = (context[:, None] + offset - first)[:, :, None]  # [N, Q, 1]
            oldest = None if window is None else last - window
        to_device = self.step.device.upload
        key = torch.arange(num_k, device=self.step.device.device)
        seen = key <= to_device(last)
        if oldest is not None:
            seen &= key > to_device(oldest)
        mask = torch.zeros(seen.shape, dtype=self.step.dtype, device=key.device)
        return mask.masked_fill_(~seen, float("-inf")).unsqueeze(1)


def _bucket(lengths: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """1, 2, 3, 4, 6, 8, 12, ... numbered: rows of one bucket differ by less than half."""
    number: npt.NDArray[np.int64] = np.ceil(2 * np.log2(lengths)).astype(np.int64)
    return number


class GatherAttention:
    """The backend; caches are [2, blocks, block size, kv heads, head size], keys first."""

    name = "gather"

    def refuses(self, layer: AttentionSpec) -> str | None:
        return None

    def cache_shape(
        self, num_blocks: int, block_size: int, layer: AttentionSpec
    ) -> tuple[int, ...]:
        return (2, num_blocks, block_size, layer.num_kv_heads, layer.head_size)

    def copy_blocks(self, cache: Tensor, source: Tensor, destination: Tensor) -> None:
        cache.index_copy_(1, destination, cache.index_select(1, source))

    def plan(self, step: TorchStep, into: Any = None) -> GatherPlan:
        return GatherPlan(step, {})

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: GatherPlan, layer: AttentionSpec
    ) -> Tensor:
        flat = cache.view(2, -1, layer.num_kv_heads, layer.head_size)
        flat[0].index_copy_(0, plan.step.cache_slots, k)
        flat[1].index_copy_(0, plan.step.cache_slots, v)
        groups = plan.groups(layer.window)
        if len(groups) == 1 and groups[0].num_rows == len(q):
            return self._attend(q, k, v, flat, groups[0], layer)
        output = q.new_empty(len(q), layer.num_heads * layer.head_size)
        for group in groups:
            found = self._attend(q, k, v, flat, group, layer)
            output[group.tokens] = found if group.real is None else found[group.real]
        return output

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, flat: Tensor, group: Group, layer: AttentionSpec
    ) -> Tensor:
        """[N * Q, heads * head size], padding included."""
        n, heads, size = group.num_rows, layer.num_kv_heads, layer.head_size
        query = q[group.queries]
        if group.keys is None:
            key, value = k[group.queries], v[group.queries]
        else:
            key, value = flat[0].index_select(0, group.keys), flat[1].index_select(0, group.keys)
        query = query.view(n, -1, heads, layer.num_heads // heads, size)  # [N, Q, kv, per, D]
        key, value = (x.view(n, -1, heads, size).transpose(1, 2) for x in (key, value))
        found = _product(query, key, value, group, layer)
        return found.reshape(-1, layer.num_heads * size)


def _product(
    query: Tensor, key: Tensor, value: Tensor, group: Group, layer: AttentionSpec
) -> Tensor:
    """query [N, Q, kv, per, D]; key, value [N, kv, K, D] -> [N, Q, kv, per, D]."""
    n, num_q, heads, per, size = query.shape
    if num_q == 1:  # the heads that share keys become the query tokens of one head
        packed = query.view(n, heads, per, size)
        found = _softmax_product(packed, key, value, group.mask, False, layer)
        return found.view(n, 1, heads, per, size)
    if n == 1:  # shared keys by stride 0, the kv heads as the batch
        one = query[0].permute(1, 2, 0, 3)  # [kv, per, Q, D]
        shared = [x[0].unsqueeze(1).expand(-1, per, -1, -1) for x in (key, value)]
        found = _softmax_product(one, shared[0], shared[1], group.mask, group.causal, layer)
        return found.permute(2, 0, 1, 3).unsqueeze(0)
    many = query.reshape(n, num_q, heads * per, size).transpose(1, 2)
    key, value = (x.repeat_interleave(per, 1) for x in (key, value))
    found = _softmax_product(many, key, value, group.mask, group.causal, layer)
    return found.transpose(1, 2).reshape(n, num_q, heads, per, size)


def _softmax_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    layer: AttentionSpec,
) -> Tensor:
    """[N, heads, Q, D] by [N, heads, K, D], mask [N, 1, Q, K] or broadcast."""
    if layer.soft_cap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=layer.scale
        )
    scores = query.float() @ key.float().transpose(-1, -2)
    scores.mul_(layer.scale / layer.soft_cap).tanh_().mul_(layer.soft_cap)
    if causal:
        above = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores.masked_fill_(above, float("-inf"))
    elif mask is not None:
        scores += mask
    return (scores.softmax(-1) @ value.float()).to(query.dtype)
