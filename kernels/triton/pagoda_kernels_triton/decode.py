"""Paged attention for queries of one token: each sequence's keys are split over several programs,
the last of which joins what all found.  No launch depends on a length: they can be recorded."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.heads import normed_and_turned
from pagoda_kernels_triton.join import after_shared, arrivals, hand_in
from pagoda_kernels_triton.overlap import await_previous, overlapping
from pagoda_kernels_triton.scores import LOG2E, attend, capped, places_of
from pagoda_kernels_triton.shared import Found
from pagoda_kernels_triton.sizes import up_to_power_of_two
from pagoda_kernels_triton.stored import as_stored
from pagoda_kernels_triton.tuning import SHARES, decode_cut, ordered, target_of


class Fresh(NamedTuple):
    """What the rows' own tokens bring, not in the cache yet: stored on the way."""

    k: Tensor  # [R, kv heads, D]
    v: Tensor
    slots: Tensor  # [R] int64 block * block size + offset; below 0: not stored
    angles: tuple[Tensor, Tensor] | None  # cos and sin, as ``rotate_and_store`` takes them
    norms: tuple[Tensor, Tensor, float] | None


@triton.jit
def _own_key(
    q, k_ptr, v_ptr, cache_ptr, slot, cos_ptr, sin_ptr, norm_ptr, epsilon, head, store,
    stride_block, scale,
    KV_HEADS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
    SOFT_CAP: tl.constexpr, ROTATE: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Each query's score for the row's own key, and its value [PADDED]; both go to the cache."""
    d = tl.arange(0, PADDED)
    one = tl.arange(0, 1)
    k = normed_and_turned(
        k_ptr + one[:, None], one == 0, d, cos_ptr, sin_ptr, norm_ptr + one[:, None], epsilon,
        HEAD, ROTATE, NORM,
    )  # fmt: skip
    kind = cache_ptr.dtype.element_ty
    k = as_stored(k.to(q.dtype), kind)
    v = as_stored(tl.load(v_ptr + d, mask=d < HEAD, other=0.0), kind)
    place = (slot // BLOCK) * stride_block + (slot % BLOCK) * HEAD
    key_ptr, value_ptr = places_of(cache_ptr, head, KV_HEADS, BLOCK, HEAD)
    keep = store & (slot >= 0) & (d < HEAD)
    tl.store(key_ptr + place + one[:, None] + d[None, :], k, mask=keep[None, :])
    tl.store(value_ptr + place + d, v, mask=keep)
    score = tl.sum(q.to(tl.float32) * k.to(tl.float32), axis=1)
    if SOFT_CAP > 0:
        score = capped(score, scale, SOFT_CAP)
    else:
        score *= scale
    return score, v.to(tl.float32)


@triton.jit(
    do_not_specialize_on_alignment=[
        "lens_ptr",
        "block_start_ptr",
        "blocks_ptr",
        "slots_ptr",
        "own_start_ptr",
        "order_ptr",
    ]
)
def _decode(
    q_ptr, cache_ptr, out_ptr,
    parts_ptr, levels_ptr, arrived_ptr,  # as ``join.py`` has them
    lens_ptr, block_start_ptr, blocks_ptr, order_ptr,
    shared_ptr, shared_levels_ptr, own_start_ptr,  # as ``shared.py`` made them
    k_ptr, v_ptr, slots_ptr, cos_ptr, sin_ptr, q_norm_ptr, k_norm_ptr, epsilon, scale,
    stride_q, stride_q_head, stride_k, stride_k_head, stride_v, stride_v_head, stride_angle,
    stride_out, stride_block,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    WINDOW: tl.constexpr, SOFT_CAP: tl.constexpr, FRESH: tl.constexpr, ROTATE: tl.constexpr,
    NORM: tl.constexpr, SPLITS: tl.constexpr, JOINED: tl.constexpr, ORDERED: tl.constexpr,
    SHARES: tl.constexpr, OVERLAP: tl.constexpr,  # no SHARES: rows share nothing
):  # fmt: skip
    await_previous(OVERLAP)
    head, part = tl.program_id(0), tl.program_id(1)
    token = tl.program_id(2).to(tl.int64)
    if ORDERED:
        token = tl.load(order_ptr + token).to(tl.int64)
    length = tl.load(lens_ptr + token)
    cached = length - FRESH
    low = tl.maximum(length - WINDOW, 0) // KEYS * KEYS if WINDOW > 0 else 0
    if SHARES > 0:
        low = tl.load(own_start_ptr + token)
    size = tl.maximum(tl.cdiv(tl.cdiv(cached - low, SPLITS), KEYS), 1) * KEYS
    start = low + part * size
    if part > 0 and start >= cached:
        return
    end = tl.minimum(start + size, cached)
    blocks_ptr += tl.load(block_start_ptr + token)

    row, d = tl.arange(0, ROWS), tl.arange(0, PADDED)
    q_head = head * GROUP + row
    real = (row < GROUP)[:, None] & (d < HEAD)[None, :]
    cos_ptr, sin_ptr = cos_ptr + token * stride_angle, sin_ptr + token * stride_angle
    q_at = token * stride_q + q_head * stride_q_head
    q = normed_and_turned(
        q_ptr + q_at[:, None], row < GROUP, d, cos_ptr, sin_ptr, q_norm_ptr + row[:, None] * 0,
        epsilon, HEAD, ROTATE, NORM,
    ).to(q_ptr.dtype.element_ty)  # fmt: skip
    position = tl.zeros([ROWS], tl.int32) + (length - 1)

    stride_block = stride_block.to(tl.int64)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, PADDED], tl.float32)
    if FRESH:
        own = (part == 0) & (length > 0)
        score, value = _own_key(
            q, k_ptr + token * stride_k + head * stride_k_head,
            v_ptr + token * stride_v + head * stride_v_head, cache_ptr, tl.load(slots_ptr + token),
            cos_ptr, sin_ptr, k_norm_ptr, epsilon, head, own, stride_block, scale,
            KV_HEADS, HEAD, PADDED, BLOCK, SOFT_CAP, ROTATE, NORM,
        )  # fmt: skip
        if own:
            top = score
            total += 1.0
            found += value[None, :]
    if SHARES > 0:
        first = (token * (KV_HEADS * GROUP) + q_head) * SHARES
        sharing = (row < GROUP) & (part == 0) & (low > 0)
        top, total, found = after_shared(
            shared_ptr, shared_levels_ptr, first, sharing, top, total, found, PADDED, SHARES
        )
    key_ptr, value_ptr = places_of(cache_ptr, head, KV_HEADS, BLOCK, HEAD)
    top, total, found = attend(
        q, top, total, found, position, start, end, end, blocks_ptr, key_ptr, value_ptr,
        stride_block, scale, HEAD, PADDED, BLOCK, KEYS, WINDOW, SOFT_CAP, True,
    )  # fmt: skip
    kind = out_ptr.dtype.element_ty
    out_at = out_ptr + token * stride_out
    if SPLITS == 1:
        found /= tl.where(total > 0.0, total, 1.0)[:, None]
        tl.store(out_at + (q_head * HEAD)[:, None] + d[None, :], found.to(kind), mask=real)
    else:
        hand_in(
            parts_ptr, levels_ptr, arrived_ptr, out_at, token, head, part, cached - low, size,
            top, total, found, KV_HEADS, GROUP, HEAD, PADDED, ROWS, SPLITS, JOINED,
        )  # fmt: skip


def decode_attention(
    q: Tensor,
    cache: Tensor,
    out: Tensor,
    lens: Tensor,
    block_start: Tensor,
    blocks: Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    splits: int | None = None,
    fresh: Fresh | None = None,
    shared: Found | None = None,
    order: Tensor | None = None,
) -> None:
    """Attention of one token a row over the cache, its own key stored before, or with ``fresh`` on
    the way, q and k normed by head and rotated.

    q [R, heads, D], any strides with a dense last dimension; cache [blocks, 2, kv heads, block
    size, D], contiguous; out [R, heads * D]; lens [R] int32 tokens cached, the row's own included
    (0: the row is padding); block_start [R] int32: where in ``blocks`` (int32 ids) its ids begin.
    Cache places that hold no token yet may hold anything.  shared: what ``shared_attention`` found
    in the keys that rows begin with, for layers without a window.  order [R] int32: the rows by
    falling length, so that the chip is not left with a few long ones at the end."""
    kv_heads, block_size, head_size = cache.shape[2:]
    num_rows, heads = q.shape[:2]
    target = target_of(q.device)
    group = heads // kv_heads
    tile, shares = decode_cut(target, head_size, q.element_size(), group, num_rows * kv_heads)
    splits = splits or shares
    padded = max(16, up_to_power_of_two(head_size))
    parts = levels = arrived = out
    if splits > 1:
        parts = torch.empty((num_rows, heads, splits, padded), dtype=torch.float32, device=q.device)
        levels = torch.empty((num_rows, heads, splits, 2), dtype=torch.float32, device=q.device)
        arrived = arrivals(q.device, num_rows * kv_heads)
    k, v, slots, angles, norms = fresh or Fresh(q, q, lens, None, None)
    shared_parts, shared_levels, own_start = shared or Found(q, q, lens)
    cos, sin = angles or (q, q)
    q_norm, k_norm, epsilon = norms or (q, q, 0.0)
    _decode[(kv_heads, splits, num_rows)](
        *(q, cache, out, parts, levels, arrived, lens, block_start, blocks),
        *(lens if order is None else order, shared_parts, shared_levels, own_start),
        *(k, v, slots, cos, sin, q_norm, k_norm, epsilon),
        scale / soft_cap if soft_cap else scale * LOG2E,
        *(q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)),
        *(cos.stride(0), out.stride(0), cache.stride(0)),
        KV_HEADS=kv_heads,
        GROUP=group,
        HEAD=head_size,
        PADDED=padded,
        BLOCK=block_size,
        ROWS=max(tile.rows, up_to_power_of_two(group)),
        KEYS=tile.keys,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap or 0.0,
        SPLITS=splits,
        JOINED=min(4, up_to_power_of_two(group)),
        FRESH=fresh is not None,
        ORDERED=order is not None and ordered(target, num_rows, kv_heads),
        SHARES=0 if shared is None else SHARES,
        ROTATE=angles is not None,
        NORM=norms is not None,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **overlapping(q.device),
    )
