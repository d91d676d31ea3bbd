"""Paged attention by the SYCL kernels: leading rows of one token by parts of their keys; the
others, prompts mostly, by tiles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_kernels_sycl.attention import attend, tiles_of, turn_and_store
from pagoda_torch.attention import Angles, AttentionSpec, DecodeRows
from pagoda_torch.family import TorchDevice
from pagoda_torch.step import TorchStep

PART_KEYS, MOST_PARTS = 512, 32
"""Keys of a part while that makes no more than so many parts of the longest sequence; what is added
up in which order then follows from a token's position and ``max_model_len`` alone."""


@dataclass
class Prompts:
    """The rows behind the step's leading decodes, and their tiles once a layer asked."""

    query_start: npt.NDArray[np.int32]  # [P+1] from the first decode's token on
    contexts: npt.NDArray[np.int32]  # [P]
    block_start: npt.NDArray[np.int32]  # [P]
    device: TorchDevice
    tiles: dict[int, Tensor] = field(default_factory=dict)  # by query heads a key head

    def tiled(self, group_heads: int) -> Tensor:
        if group_heads not in self.tiles:
            found = tiles_of(self.query_start, self.contexts, self.block_start, group_heads)
            self.tiles[group_heads] = self.device.upload(found)
        return self.tiles[group_heads]


@dataclass(frozen=True)
class SyclPlan:
    """Decodes are the first rows, a token each."""

    cache_slots: Tensor  # [T]
    blocks: Tensor
    decodes: Tensor | None  # [D, 4], as ``tiles_of`` makes them
    longest: int  # tokens of the longest decode
    prompts: Prompts | None
    recorded: DecodeRows | None = None  # whose numbers go into ``decodes`` at each replay


class SyclAttention:
    """The backend; caches are [blocks, 2, kv heads, block size, head size], keys first."""

    name = "sycl"
    can_record = True

    def __init__(self, max_model_len: int):
        parts = min(-(-max_model_len // PART_KEYS), MOST_PARTS)
        self.part_keys = -(-max_model_len // (parts * PART_KEYS)) * PART_KEYS
        self.max_model_len = max_model_len

    def refuses(self, layer: AttentionSpec) -> str | None:
        size = layer.head_size
        if size > 256 or size % 2:
            return f"head size {size} is not an even number up to 256"
        return None

    def cache_shape(
        self, num_blocks: int, block_size: int, layer: AttentionSpec
    ) -> tuple[int, ...]:
        return (num_blocks, 2, layer.num_kv_heads, block_size, layer.head_size)

    def copy_blocks(self, cache: Tensor, source: Tensor, destination: Tensor) -> None:
        cache.index_copy_(0, destination, cache.index_select(0, source))

    def plan(self, step: TorchStep) -> SyclPlan:
        batch, upload = step.batch, step.device.upload
        ids = batch.block_tables[0].ids
        starts = np.arange(len(ids), dtype=np.int32) * ids.shape[1]
        longer = np.flatnonzero(batch.query_lens != 1)
        count = int(longer[0]) if len(longer) else len(ids)
        start, contexts = batch.query_start, batch.context_lens
        decodes = prompts = None
        if count:
            decodes = upload(tiles_of(start[: count + 1], contexts[:count], starts[:count], 1))
        if count < len(ids):
            prompts = Prompts(start[count:], contexts[count:], starts[count:], step.device)
        longest = int(batch.seq_lens[:count].max(initial=0))
        return SyclPlan(step.cache_slots, upload(ids.reshape(-1)), decodes, longest, prompts)

    def plan_recorded(self, rows: DecodeRows) -> SyclPlan:
        decodes = torch.ones((len(rows.lens), 4), dtype=torch.int32, device=rows.lens.device)
        decodes[:, 0] = torch.arange(len(decodes), device=decodes.device)
        return SyclPlan(rows.cache_slots, rows.blocks, decodes, self.max_model_len, None, rows)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: SyclPlan, layer: AttentionSpec
    ) -> Tensor:
        return self.forward_turning(q, k, v, cache, plan, layer, None, None)

    def forward_turning(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: SyclPlan,
        layer: AttentionSpec,
        angles: Angles | None,
        norms: tuple[Tensor, Tensor, float] | None,
    ) -> Tensor:
        turned = q.new_empty((len(q), layer.num_heads * layer.head_size))
        turn_and_store(q, k, v, turned, cache, plan.cache_slots, angles, norms)
        q, out = turned.view(len(q), layer.num_heads, layer.head_size), torch.empty_like(turned)
        how = plan.blocks, layer.scale, layer.window, layer.soft_cap
        if plan.recorded is not None and plan.decodes is not None:
            plan.decodes[:, 2].copy_(plan.recorded.lens).sub_(1)
            plan.decodes[:, 3].copy_(plan.recorded.block_start)
        if plan.decodes is not None:
            count, parts = len(plan.decodes), (plan.longest, self.part_keys)
            attend(q[:count], cache, out[:count], plan.decodes, *how, *parts)
        if plan.prompts is not None:
            tiles = plan.prompts.tiled(layer.num_heads // layer.num_kv_heads)
            attend(q, cache, out, tiles, *how)
        return out
