"""Paged attention in plain torch: gather the keys of like rows into one dense batch, then attend.

Correct on every device, and what a platform without kernels of its own uses.  The rows of a step
are cut into groups, one batched product each: rows of equal query length and like context, as
decodes are; long queries alone, for their work dwarfs a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pagoda_torch.attention import AttentionSpec, DecodeRows
from pagoda_torch.step import TorchStep

LONG_QUERY = 64
"""Queries from this length on are attended alone."""

GROUP_KEYS = 1 << 16
"""Keys gathered for one group at most, so that a step's work space stays small."""

CALL_KEYS = 1 << 10
"""Padding keys that cost about as much as attending in one more call."""


@dataclass(frozen=True)
class Group:
    """N rows of Q query tokens each, attended together over K keys, padding included."""

    num_rows: int
    tokens: slice | Tensor  # [N * Q] the queries, by token index
    keys: Tensor | None  # [N * K] cache positions, a row's last repeated; None: the tokens' own
    mask: Tensor | None  # [N, 1, Q, K] added to scores: 0 or -inf
    causal: bool  # without a mask: lower triangle, Q == K


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
        long = np.flatnonzero(queries >= LONG_QUERY)
        sets = list(long[:, None])
        for length in np.unique(queries[queries < LONG_QUERY]):
            rows = np.flatnonzero(queries == length)
            sets += _like_lengths(rows[np.argsort(-keys[rows], kind="stable")], keys)
        return sets

    def _first_keys(self, window: int | None) -> npt.NDArray[np.int64]:
        """[R] the first position that any query token of a row may see."""
        context = self.step.batch.context_lens.astype(np.int64)
        return np.zeros_like(context) if window is None else np.maximum(context - window + 1, 0)

    def _group(self, rows: npt.NDArray[np.int64], window: int | None) -> Group:
        step, batch = self.step, self.step.batch
        size, num_q = step.block_size, int(batch.query_lens[rows[0]])
        index = (batch.query_start[rows][:, None] + np.arange(num_q)).reshape(-1)
        dense = (np.diff(index) == 1).all()
        tokens = slice(int(index[0]), int(index[-1]) + 1) if dense else step.device.upload(index)
        context = batch.context_lens[rows].astype(np.int64)[:, None]  # [N, 1]
        unwindowed = window is None or num_q <= window
        if len(rows) == 1 and num_q > 1 and not context.any() and unwindowed:
            return Group(1, tokens, None, None, True)
        first = self._first_keys(window)[rows][:, None]
        count = context + num_q - first
        position = first + np.minimum(np.arange(int(count.max())), count - 1)  # [N, K]
        block = batch.block_tables[0].ids[rows[:, None], position // size].astype(np.int64)
        keys = step.device.upload((block * size + position % size).reshape(-1))
        last = context - first + np.arange(num_q)  # [N, Q] the key that is the query's own
        return Group(len(rows), tokens, keys, self._mask(last, count, window), False)

    def _mask(
        self, last: npt.NDArray[np.int64], count: npt.NDArray[np.int64], window: int | None
    ) -> Tensor | None:
        num_q, num_k = last.shape[1], int(count.max())
        if num_q == 1 and (count == num_k).all():
            return None
        key = torch.arange(num_k, device=self.step.device.device)
        own = self.step.device.upload(last[:, :, None])  # [N, Q, 1]
        seen = key <= own
        if window is not None:
            seen &= key > own - window
        mask = torch.zeros(seen.shape, dtype=self.step.dtype, device=key.device)
        return mask.masked_fill_(~seen, float("-inf")).unsqueeze(1)


def _like_lengths(
    rows: npt.NDArray[np.int64], keys: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    """Cut rows, longest first, where padding to the longest would cost more than a call, and where
    a group gets too large.  Lengths double from one possible cut to the next, so cuts are few."""
    lengths = keys[rows]
    cuts, start = [0], 0
    doubled = np.ceil(2 * np.log2(lengths)).astype(np.int64)
    for edge in np.flatnonzero(np.diff(doubled)) + 1:
        next_edges = np.flatnonzero(doubled < doubled[edge])
        end = int(next_edges[0]) if len(next_edges) else len(rows)
        if (lengths[start] * (end - edge) - lengths[edge:end].sum()) > CALL_KEYS:
            cuts.append(int(edge))
            start = int(edge)
    sets = []
    for begin, end in zip(cuts, [*cuts[1:], len(rows)], strict=True):
        each = max(1, GROUP_KEYS // int(lengths[begin]))
        sets += [rows[i : min(i + each, end)] for i in range(begin, end, each)]
    return sets


class GatherAttention:
    """The backend; caches are [2, blocks, block size, kv heads, head size], keys first."""

    name = "gather"
    can_record = False

    def refuses(self, layer: AttentionSpec) -> str | None:
        return None

    def cache_shape(
        self, num_blocks: int, block_size: int, layer: AttentionSpec
    ) -> tuple[int, ...]:
        return (2, num_blocks, block_size, layer.num_kv_heads, layer.head_size)

    def copy_blocks(self, cache: Tensor, source: Tensor, destination: Tensor) -> None:
        cache.index_copy_(1, destination, cache.index_select(1, source))

    def plan(self, step: TorchStep) -> GatherPlan:
        return GatherPlan(step, {})

    def plan_recorded(self, rows: DecodeRows) -> Any:
        raise NotImplementedError("groups follow the rows' lengths")

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: GatherPlan, layer: AttentionSpec
    ) -> Tensor:
        flat = cache.view(2, -1, layer.num_kv_heads, layer.head_size)
        flat[0].index_copy_(0, plan.step.cache_slots, k)
        flat[1].index_copy_(0, plan.step.cache_slots, v)
        groups = plan.groups(layer.window)
        if len(groups) == 1 and isinstance(groups[0].tokens, slice):
            return self._attend(q, k, v, flat, groups[0], layer)
        output = q.new_empty(len(q), layer.num_heads * layer.head_size)
        for group in groups:
            output[group.tokens] = self._attend(q, k, v, flat, group, layer)
        return output

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, flat: Tensor, group: Group, layer: AttentionSpec
    ) -> Tensor:
        """[N * Q, heads * head size]."""
        n, heads, size = group.num_rows, layer.num_kv_heads, layer.head_size
        query = q[group.tokens].view(n, -1, heads, layer.num_heads // heads, size)
        if group.keys is None:
            key, value = k[group.tokens], v[group.tokens]
        else:
            key, value = flat[0].index_select(0, group.keys), flat[1].index_select(0, group.keys)
        key, value = (torch.unflatten(x, 0, (n, -1)).transpose(1, 2) for x in (key, value))
        found = _product(query, key, value, group, layer)
        return found.reshape(-1, layer.num_heads * size)


def _product(
    query: Tensor, key: Tensor, value: Tensor, group: Group, layer: AttentionSpec
) -> Tensor:
    """query [N, Q, kv, per, D]; key, value [N, kv, K, D] -> [N, Q, kv, per, D]."""
    n, num_q, heads, per = query.shape[:4]
    if num_q == 1:  # the heads that share keys become the query tokens of one head
        packed = query[:, 0]
        return _softmax_product(packed, key, value, group.mask, False, layer)[:, None]
    if n == 1:  # shared keys by stride 0, the kv heads as the batch
        one = query[0].permute(1, 2, 0, 3)  # [kv, per, Q, D]
        shared = [x[0].unsqueeze(1).expand(-1, per, -1, -1) for x in (key, value)]
        if not key.is_cpu:  # CUDA's memory-efficient kernel misreads such heads beside a mask
            shared = [x.contiguous() for x in shared]
        found = _softmax_product(one, shared[0], shared[1], group.mask, group.causal, layer)
        return found.permute(2, 0, 1, 3)[None]
    many = query.flatten(2, 3).transpose(1, 2)
    key, value = (x.repeat_interleave(per, 1) for x in (key, value))
    found = _softmax_product(many, key, value, group.mask, group.causal, layer)
    return torch.unflatten(found.transpose(1, 2), 2, (heads, per))


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
