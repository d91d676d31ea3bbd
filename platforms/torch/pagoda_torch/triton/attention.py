"""Paged attention by the Triton kernels: rows of one token by the split kernel, the others, prompts
mostly, by the ragged one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pagoda_kernels_triton.decode import Fresh, decode_attention
from pagoda_kernels_triton.prefill import prefill_attention, prefill_tiles, tokens_of_tile
from pagoda_kernels_triton.shared import Sharing, shared_attention
from pagoda_kernels_triton.store import rotate_and_store
from pagoda_torch.attention import Angles, AttentionSpec, DecodeRows, SharedRows
from pagoda_torch.family import TorchDevice
from pagoda_torch.step import TorchStep


@dataclass(frozen=True)
class Turning:
    """Queries, keys and values of some tokens, as the product gave them, and where they belong."""

    q: Tensor  # [T, heads, D]
    k: Tensor  # [T, kv heads, D]
    v: Tensor
    slots: Tensor  # [T] int64
    angles: Angles | None
    norms: tuple[Tensor, Tensor, float] | None

    def store(self, q_out: Tensor, cache: Tensor, k_out: Tensor | None = None) -> None:
        """Keys and values to the cache; turned queries [T, heads * D], and keys, to the others."""
        inputs = self.q, self.k, self.v
        rotate_and_store(*inputs, q_out, cache, self.slots, self.angles, self.norms, k_out)


@dataclass
class Prompts:
    """The rows behind the step's leading decodes, and their tiles once a layer asked."""

    query_start: np.ndarray  # [P+1] from the first prompt's token on
    contexts: np.ndarray  # [P]
    block_start: np.ndarray  # [P]
    device: TorchDevice
    tiles: dict[tuple[int, bool | None], Tensor] = field(default_factory=dict)

    def tiled(self, tokens: int, whole: bool | None = None) -> Tensor:
        """Tiles of so many tokens, of all prompts, or of those that are ``whole``, nothing of
        theirs cached before, or of the others  # [N, 4]"""
        key = tokens, whole
        if key not in self.tiles:
            wanted = None if whole is None else (self.contexts == 0) == whole
            where = self.query_start, self.contexts, self.block_start
            self.tiles[key] = self.device.upload(prefill_tiles(*where, tokens, wanted))
        return self.tiles[key]


@dataclass(frozen=True)
class TritonPlan:
    """Decodes are the first ``num_decodes`` tokens, a row each."""

    rows: DecodeRows  # cache_slots has all tokens of the step
    num_decodes: int
    prompts: Prompts | None


class TritonAttention:
    """The backend; caches are [blocks, 2, kv heads, block size, head size], keys first."""

    name = "triton"
    can_record = True

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
        raw = cache.view(torch.uint8) if cache.element_size() == 1 else cache
        raw.index_copy_(0, destination, raw.index_select(0, source))

    def plan(self, step: TorchStep) -> TritonPlan:
        batch, upload = step.batch, step.device.upload
        ids = batch.block_tables[0].ids
        starts = np.arange(len(ids), dtype=np.int32) * ids.shape[1]
        blocks = upload(ids.reshape(-1))
        longer = np.flatnonzero(batch.query_lens != 1)
        num_decodes = int(longer[0]) if len(longer) else len(ids)
        lens = starts_here = blocks
        if num_decodes:
            lens = upload(batch.seq_lens[:num_decodes])
            starts_here = upload(starts[:num_decodes])
        prompts = None
        if num_decodes < len(ids):
            prompts = Prompts(
                batch.query_start[num_decodes:] - num_decodes,
                batch.context_lens[num_decodes:],
                starts[num_decodes:],
                step.device,
            )
        rows = DecodeRows(lens, step.cache_slots, starts_here, blocks)
        return TritonPlan(rows, num_decodes, prompts)

    def plan_recorded(self, rows: DecodeRows) -> TritonPlan:
        return TritonPlan(rows, len(rows.lens), None)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: TritonPlan, layer: AttentionSpec
    ) -> Tensor:
        return self.forward_turning(q, k, v, cache, plan, layer, None, None)

    def forward_turning(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: TritonPlan,
        layer: AttentionSpec,
        angles: Angles | None,
        norms: tuple[Tensor, Tensor, float] | None,
    ) -> Tensor:
        out = torch.empty(
            (len(q), layer.num_heads * layer.head_size), dtype=q.dtype, device=q.device
        )
        rows, count = plan.rows, plan.num_decodes
        if rows.shared is not None and layer.window is None:
            step = Turning(q, k, v, rows.cache_slots, angles, norms)
            _attend_sharing(step, cache, out, rows, rows.shared, layer)
        elif count:
            turn = None if angles is None else (angles[0][:count], angles[1][:count])
            decode_attention(
                q[:count],
                cache,
                out[:count],
                *(rows.lens, rows.block_start, rows.blocks),
                *(layer.scale, layer.window, layer.soft_cap),
                fresh=Fresh(k[:count], v[:count], rows.cache_slots[:count], turn, norms),
                order=rows.order,
            )
        if plan.prompts is not None:
            turn = None if angles is None else (angles[0][count:], angles[1][count:])
            slots = rows.cache_slots[count:]
            step = Turning(q[count:], k[count:], v[count:], slots, turn, norms)
            self.attend_prompts(step, cache, out[count:], plan.prompts, rows.blocks, layer)
        return out

    def attend_prompts(
        self,
        step: Turning,
        cache: Tensor,
        out: Tensor,
        prompts: Prompts,
        blocks: Tensor,
        layer: AttentionSpec,
    ) -> None:
        """Store the prompts' keys and values, then attend over the cache."""
        turned = torch.empty_like(out)
        step.store(turned, cache)
        self.attend_cached(turned.view(step.q.shape), cache, out, prompts, blocks, layer)

    def attend_cached(
        self,
        q: Tensor,
        cache: Tensor,
        out: Tensor,
        prompts: Prompts,
        blocks: Tensor,
        layer: AttentionSpec,
        whole: bool | None = None,
    ) -> None:
        """Attention of the prompts that ``tiled(..., whole)`` names over what is stored."""
        group = layer.num_heads // layer.num_kv_heads
        tokens = tokens_of_tile(q.device, group, layer.head_size, q.element_size())
        tiles = prompts.tiled(tokens, whole)
        if len(tiles):
            where = layer.scale, layer.window, layer.soft_cap
            prefill_attention(q, cache, out, tiles, blocks, *where)


def _attend_sharing(
    step: Turning,
    cache: Tensor,
    out: Tensor,
    rows: DecodeRows,
    shared: SharedRows,
    layer: AttentionSpec,
) -> None:
    """Rows of one token, some of which share keys: those once for all, then what each has alone."""
    turned = torch.empty_like(out)
    step.store(turned, cache)
    q = turned.view(step.q.shape)
    sharing = Sharing(shared.members, shared.extent, shared.own_start)
    where = rows.block_start, rows.blocks, layer.scale
    found = shared_attention(q, cache, sharing, *where, layer.soft_cap)
    decode_attention(q, cache, out, rows.lens, *where, None, layer.soft_cap, shared=found)
