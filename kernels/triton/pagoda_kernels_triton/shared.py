"""Attention of decode rows over the keys that they share: read once for many rows, whose queries
are packed into one tile.  ``decode.py`` goes on from what it found with the rows' own keys."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.overlap import await_previous, overlapping
from pagoda_kernels_triton.scores import LOG2E, attend, places_of
from pagoda_kernels_triton.sizes import num_parts, up_to_power_of_two
from pagoda_kernels_triton.tuning import SHARES, shared_tile, target_of


class Sharing(NamedTuple):
    """Which rows begin with the same blocks, in buffers that a recorded step finds refilled."""

    members: Tensor  # [R] int32 the rows that do, then anything
    extent: Tensor  # [2] int32 how many rows those are, and how many keys they share
    own_start: Tensor  # [R] int32 a row's first key that is not shared; 0: it shares none


class Found(NamedTuple):
    """What parts of the shared keys gave every row that shares them."""

    parts: Tensor  # [R, heads, SHARES, PADDED] float32
    levels: Tensor  # [R, heads, SHARES, 2] float32: top and total
    own_start: Tensor


@triton.jit
def _shared(
    q_ptr, cache_ptr, parts_ptr, levels_ptr, members_ptr, extent_ptr, block_start_ptr, blocks_ptr,
    scale, stride_q, stride_q_head, stride_block,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    SOFT_CAP: tl.constexpr, SHARES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_previous(OVERLAP)
    head = tl.program_id(0)
    part = tl.program_id(1)
    first = tl.program_id(2) * TOKENS
    count = tl.load(extent_ptr)
    if first >= count:
        return
    shared = tl.load(extent_ptr + 1)
    size = tl.cdiv(tl.cdiv(shared, SHARES), KEYS) * KEYS
    start = part * size
    end = tl.minimum(start + size, shared)
    blocks_ptr += tl.load(block_start_ptr + tl.load(members_ptr))

    row = tl.arange(0, ROWS)
    d = tl.arange(0, PADDED)
    place = first + row // GROUP
    there = (place < count) & (row < TOKENS * GROUP)
    token = tl.load(members_ptr + place, mask=there, other=0).to(tl.int64)
    q_head = head * GROUP + row % GROUP
    q_at = token * stride_q + q_head * stride_q_head
    inside = there[:, None] & (d < HEAD)[None, :]
    q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=inside, other=0.0)
    position = tl.zeros([ROWS], tl.int32) + shared
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, PADDED], tl.float32)
    key_ptr, value_ptr = places_of(cache_ptr, head, KV_HEADS, BLOCK, HEAD)
    top, total, found = attend(
        q, top, total, found, position, start, end, end, blocks_ptr, key_ptr, value_ptr,
        stride_block.to(tl.int64), scale, HEAD, PADDED, BLOCK, KEYS, 0, SOFT_CAP, True,
    )  # fmt: skip
    at = (token * (KV_HEADS * GROUP) + q_head) * SHARES + part
    tl.store(levels_ptr + at * 2, top, mask=there)
    tl.store(levels_ptr + at * 2 + 1, total, mask=there)
    tl.store(parts_ptr + at[:, None] * PADDED + d[None, :], found, mask=there[:, None])


def shared_attention(
    q: Tensor,
    cache: Tensor,
    sharing: Sharing,
    block_start: Tensor,
    blocks: Tensor,
    scale: float,
    soft_cap: float | None = None,
) -> Found:
    """For ``decode_attention``, which is to be given the same q, stored keys and what this returns.

    q [R, heads, D], turned, any strides with a dense last dimension; the rest as there."""
    kv_heads, block_size, head_size = cache.shape[2:]
    num_rows, heads = q.shape[:2]
    group = heads // kv_heads
    tile = shared_tile(target_of(q.device), head_size, q.element_size())
    rows = max(tile.rows, up_to_power_of_two(group))
    padded = max(16, up_to_power_of_two(head_size))
    made = (num_rows, heads, SHARES)
    parts = torch.empty((*made, padded), dtype=torch.float32, device=q.device)
    levels = torch.empty((*made, 2), dtype=torch.float32, device=q.device)
    _shared[(kv_heads, SHARES, num_parts(num_rows, rows // group))](
        *(q, cache, parts, levels, sharing.members, sharing.extent, block_start, blocks),
        scale / soft_cap if soft_cap else scale * LOG2E,
        *(q.stride(0), q.stride(1), cache.stride(0)),
        KV_HEADS=kv_heads,
        GROUP=group,
        HEAD=head_size,
        PADDED=padded,
        BLOCK=block_size,
        TOKENS=rows // group,
        ROWS=rows,
        KEYS=tile.keys,
        SOFT_CAP=soft_cap or 0.0,
        SHARES=SHARES,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **overlapping(q.device),
    )
    return Found(parts, levels, sharing.own_start)
