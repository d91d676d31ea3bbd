"""Paged attention for queries of one token: each sequence's keys are split over several programs,
and a second kernel joins what they found.  No launch depends on a length: they can be recorded."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.scores import LOG2E, attend
from pagoda_kernels_triton.tuning import decode_tile, num_splits, target_of


@triton.jit
def _share(length, part, SPLITS: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr):
    """The keys of one program of a sequence: from, to; empty when from >= length."""
    low = 0
    if WINDOW > 0:
        low = tl.maximum(length - WINDOW, 0) // KEYS * KEYS
    size = tl.cdiv(tl.cdiv(length - low, SPLITS), KEYS) * KEYS
    start = low + part * size
    return start, tl.minimum(start + size, length)


@triton.jit(do_not_specialize_on_alignment=["lens_ptr", "block_start_ptr", "blocks_ptr"])
def _decode(
    q_ptr,
    cache_ptr,
    out_ptr,  # SPLITS == 1: the output; else [rows, heads, SPLITS, PADDED] float32
    levels_ptr,  # [rows, heads, SPLITS, 2] float32: top and total
    lens_ptr,
    block_start_ptr,
    blocks_ptr,
    scale,
    stride_q,
    stride_q_head,
    stride_out,
    stride_block,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
    SPLITS: tl.constexpr,
):
    head = tl.program_id(0)
    part = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64)
    length = tl.load(lens_ptr + token)
    start, end = _share(length, part, SPLITS, KEYS, WINDOW)
    if SPLITS > 1 and start >= length:
        return
    blocks_ptr += tl.load(block_start_ptr + token)

    row = tl.arange(0, ROWS)
    d = tl.arange(0, PADDED)
    q_head = head * GROUP + row
    real = (row < GROUP)[:, None] & (d < HEAD)[None, :]
    q_at = token * stride_q + q_head * stride_q_head
    q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=real, other=0.0)
    position = tl.zeros([ROWS], tl.int32) + (length - 1)

    key_ptr = cache_ptr + head * (BLOCK * HEAD)
    value_ptr = key_ptr + KV_HEADS * BLOCK * HEAD
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, PADDED], tl.float32)
    top, total, found = attend(
        q, top, total, found, position, start, end, end, blocks_ptr, key_ptr, value_ptr,
        stride_block.to(tl.int64), scale, HEAD, PADDED, BLOCK, KEYS, WINDOW, SOFT_CAP, True,
    )  # fmt: skip
    if SPLITS == 1:
        found = found / tl.where(total > 0.0, total, 1.0)[:, None]
        out_at = token * stride_out + q_head * HEAD
        out = found.to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + out_at[:, None] + d[None, :], out, mask=real)
    else:
        at = (token * (KV_HEADS * GROUP) + q_head) * SPLITS + part
        tl.store(levels_ptr + at * 2, top, mask=row < GROUP)
        tl.store(levels_ptr + at * 2 + 1, total, mask=row < GROUP)
        tl.store(out_ptr + at[:, None] * PADDED + d[None, :], found, mask=(row < GROUP)[:, None])


@triton.jit(do_not_specialize_on_alignment=["lens_ptr"])
def _join(
    parts_ptr,
    levels_ptr,
    lens_ptr,
    out_ptr,
    stride_out,
    HEADS: tl.constexpr,
    HEAD: tl.constexpr,
    PADDED: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    SPLITS: tl.constexpr,
):
    head = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    length = tl.load(lens_ptr + token)
    part = tl.arange(0, SPLITS)
    d = tl.arange(0, PADDED)
    start, _ = _share(length, part, SPLITS, KEYS, WINDOW)
    made = start < length
    at = (token * HEADS + head) * SPLITS + part
    top = tl.load(levels_ptr + at * 2, mask=made, other=float("-inf"))
    total = tl.load(levels_ptr + at * 2 + 1, mask=made, other=0.0)
    parts = tl.load(parts_ptr + at[:, None] * PADDED + d[None, :], mask=made[:, None], other=0.0)
    level = tl.max(top, axis=0)
    weight = tl.exp2(top - tl.where(level == float("-inf"), 0.0, level))
    whole = tl.sum(total * weight, axis=0)
    found = tl.sum(parts * weight[:, None], axis=0) / tl.where(whole > 0.0, whole, 1.0)
    out_at = token * stride_out + head * HEAD
    tl.store(out_ptr + out_at + d, found.to(out_ptr.dtype.element_ty), mask=d < HEAD)


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
) -> None:
    """Attention of one token a row over the cache, its own key stored before.

    q [R, heads, D], any strides with a dense last dimension; cache [blocks, 2, kv heads, block
    size, D], contiguous; out [R, heads * D]; lens [R] int32 tokens cached, the row's own included
    (0: the row is padding); block_start [R] int32: where in ``blocks`` (int32 ids) its ids begin.
    Cache places that hold no token yet may hold anything."""
    kv_heads, block_size, head_size = cache.shape[2:]
    num_rows, heads = q.shape[:2]
    target = target_of(q.device)
    tile = decode_tile(target, head_size, q.element_size())
    splits = splits or num_splits(target, num_rows, kv_heads)
    padded = max(16, triton.next_power_of_2(head_size))
    parts, levels = out, out
    if splits > 1:
        parts = torch.empty((num_rows, heads, splits, padded), dtype=torch.float32, device=q.device)
        levels = torch.empty((num_rows, heads, splits, 2), dtype=torch.float32, device=q.device)
    _decode[(kv_heads, splits, num_rows)](
        q,
        cache,
        parts,
        levels,
        lens,
        block_start,
        blocks,
        scale / soft_cap if soft_cap else scale * LOG2E,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        cache.stride(0),
        KV_HEADS=kv_heads,
        GROUP=heads // kv_heads,
        HEAD=head_size,
        PADDED=padded,
        BLOCK=block_size,
        ROWS=max(tile.rows, triton.next_power_of_2(heads // kv_heads)),
        KEYS=tile.keys,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap or 0.0,
        SPLITS=splits,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    if splits > 1:
        _join[(heads, num_rows)](
            parts,
            levels,
            lens,
            out,
            out.stride(0),
            HEADS=heads,
            HEAD=head_size,
            PADDED=padded,
            KEYS=tile.keys,
            WINDOW=window or 0,
            SPLITS=splits,
            num_warps=4 if padded * splits >= 4096 else 1,
        )
