"""Paged attention for queries of several tokens, ragged: each program takes a few query tokens of
one request, with all query heads that share a key head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.scores import LOG2E, attend, places_of
from pagoda_kernels_triton.sizes import up_to_power_of_two
from pagoda_kernels_triton.tuning import prefill_tile, target_of


@triton.jit
def _prefill(
    q_ptr,
    cache_ptr,
    out_ptr,
    tiles_ptr,  # [tiles, 4] first token, tokens left, its position, where its blocks begin
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
    TOKENS: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFT_CAP: tl.constexpr,
):
    tile_ptr = tiles_ptr + tl.program_id(0) * 4
    head = tl.program_id(1)
    token = tl.load(tile_ptr).to(tl.int64)
    num_tokens = tl.load(tile_ptr + 1)
    place = tl.load(tile_ptr + 2)
    blocks_ptr += tl.load(tile_ptr + 3)

    row = tl.arange(0, ROWS)
    d = tl.arange(0, PADDED)
    mine = row // GROUP
    real = (mine < num_tokens)[:, None] & (row < TOKENS * GROUP)[:, None] & (d < HEAD)[None, :]
    q_head = head * GROUP + row % GROUP
    q_at = (token + mine) * stride_q + q_head * stride_q_head
    q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=real, other=0.0)
    position = place + mine

    key_ptr, value_ptr = places_of(cache_ptr, head, KV_HEADS, BLOCK, HEAD)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, PADDED], tl.float32)
    end = place + tl.minimum(num_tokens, TOKENS)
    start = 0
    stride_block = stride_block.to(tl.int64)
    if WINDOW > 0:
        start = tl.maximum(place - WINDOW + 1, 0) // KEYS * KEYS
    else:  # the keys that every row sees need no mask
        start = (place + 1) // KEYS * KEYS
        top, total, found = attend(
            q, top, total, found, position, 0, start, end, blocks_ptr, key_ptr, value_ptr,
            stride_block, scale, HEAD, PADDED, BLOCK, KEYS, WINDOW, SOFT_CAP, False,
        )  # fmt: skip
    top, total, found = attend(
        q, top, total, found, position, start, end, end, blocks_ptr, key_ptr, value_ptr,
        stride_block, scale, HEAD, PADDED, BLOCK, KEYS, WINDOW, SOFT_CAP, True,
    )  # fmt: skip
    found = found / tl.where(total > 0.0, total, 1.0)[:, None]
    out_at = (token + mine) * stride_out + q_head * HEAD
    tl.store(out_ptr + out_at[:, None] + d[None, :], found.to(out_ptr.dtype.element_ty), mask=real)


def tokens_of_tile(device: torch.device, group: int, head_size: int, itemsize: int) -> int:
    """How many query tokens one program takes: what ``prefill_tiles`` is to be given."""
    return max(1, prefill_tile(target_of(device), head_size, itemsize).rows // group)


def prefill_tiles(
    query_start: npt.NDArray[np.int32],
    context_lens: npt.NDArray[np.int32],
    block_start: npt.NDArray[np.int32],
    tokens: int,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int32]:
    """The programs' work  # [tiles, 4]

    query_start [R+1], context_lens [R], block_start [R]: where a request's tokens and block ids
    begin, and how many tokens it has cached; wanted [R]: which requests, None: all.  A request's
    longest tiles come first, neighbours share keys."""
    lens = np.diff(query_start)
    counts = -(-lens // tokens)
    if wanted is not None:
        counts = np.where(wanted, counts, 0)
    row = np.repeat(np.arange(len(lens)), counts)
    ends = np.cumsum(counts)
    first = (ends[row] - 1 - np.arange(len(row))) * tokens  # the last tile of a request first
    return np.stack(
        (
            query_start[row] + first,
            lens[row] - first,
            context_lens[row] + first,
            block_start[row],
        ),
        1,
    ).astype(np.int32)


def prefill_attention(
    q: Tensor,
    cache: Tensor,
    out: Tensor,
    tiles: Tensor,
    blocks: Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
) -> None:
    """Causal attention of the tiles' tokens over the cache, their own keys stored before.

    q [T, heads, D], any strides with a dense last dimension; cache [blocks, 2, kv heads, block
    size, D], contiguous; out [T, heads * D]; tiles [N, 4] from ``prefill_tiles``; blocks: int32
    block ids.  Cache places that hold no token yet may hold anything."""
    kv_heads, block_size, head_size = cache.shape[2:]
    group = q.shape[1] // kv_heads
    tile = prefill_tile(target_of(q.device), head_size, q.element_size())
    rows = max(tile.rows, up_to_power_of_two(group))
    _prefill[(len(tiles), kv_heads)](
        q,
        cache,
        out,
        tiles,
        blocks,
        scale / soft_cap if soft_cap else scale * LOG2E,
        q.stride(0),
        q.stride(1),
        out.stride(0),
        cache.stride(0),
        KV_HEADS=kv_heads,
        GROUP=group,
        HEAD=head_size,
        PADDED=max(16, up_to_power_of_two(head_size)),
        BLOCK=block_size,
        TOKENS=max(1, tile.rows // group),
        ROWS=rows,
        KEYS=tile.keys,
        WINDOW=window or 0,
        SOFT_CAP=soft_cap or 0.0,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
