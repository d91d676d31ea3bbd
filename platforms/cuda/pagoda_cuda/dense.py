"""Attention of whole prompts over their own keys as the product left them: whole tiles by Hopper's
copy engine, which a cache in small blocks has no use for."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from pagoda_kernels_triton.scores import LOG2E
from pagoda_kernels_triton.tuning import Tile

TILE = Tile(128, 128, 8, 3)


@triton.jit
def _attend(
    q, top, total, found, k_desc, v_desc, origin, head, start, end, position, scale,
    HEAD: tl.constexpr, KEYS: tl.constexpr, DIAGONAL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The keys from ``start`` to ``end``; without DIAGONAL every row sees all of them."""
    for first in tl.range(start, end, KEYS, num_stages=STAGES):
        k = k_desc.load([origin + first, head * HEAD])
        v = v_desc.load([origin + first, head * HEAD])
        score = tl.dot(q, k.T)
        if DIAGONAL:
            key = first + tl.arange(0, KEYS)
            score = tl.where(key[None, :] <= position[:, None], score, float("-inf"))
            v = tl.where((key < end)[:, None], v, 0.0)  # not a neighbour's, which may be NaN
        higher = tl.maximum(top, tl.max(score, axis=1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weight, axis=1)
        found = tl.dot(weight.to(v.dtype), v, found * shrink[:, None])
        top = higher
    return top, total, found


@triton.jit
def _dense(
    q_ptr,
    k_desc,
    v_desc,
    out_ptr,
    tiles_ptr,  # [tiles, 4] first token, tokens left, its position
    scale,
    stride_q,
    stride_out,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
):
    tile_ptr = tiles_ptr + tl.program_id(0) * 4
    q_head = tl.program_id(1)
    first = tl.load(tile_ptr)
    num_tokens = tl.load(tile_ptr + 1)
    place = tl.load(tile_ptr + 2)
    row = tl.arange(0, ROWS)
    d = tl.arange(0, HEAD)
    token = (first + row).to(tl.int64)
    real = (row < num_tokens)[:, None]
    at = token * stride_q + q_head * HEAD
    q = tl.load(q_ptr + at[:, None] + d[None, :], mask=real, other=0.0)
    position = place + row
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    found = tl.zeros([ROWS, HEAD], tl.float32)
    origin = first - place
    end = place + tl.minimum(num_tokens, ROWS)
    middle = (place + 1) // KEYS * KEYS
    top, total, found = _attend(
        q, top, total, found, k_desc, v_desc, origin, q_head // GROUP, 0, middle, position, scale,
        HEAD, KEYS, False, STAGES,
    )  # fmt: skip
    top, total, found = _attend(
        q, top, total, found, k_desc, v_desc, origin, q_head // GROUP, middle, end, position, scale,
        HEAD, KEYS, True, 1,
    )  # fmt: skip
    found = found / total[:, None]
    at = token * stride_out + q_head * HEAD
    tl.store(out_ptr + at[:, None] + d[None, :], found.to(out_ptr.dtype.element_ty), mask=real)


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, tiles: Tensor, scale: float, tile: Tile = TILE
) -> None:
    """Causal attention of whole prompts, nothing of theirs cached before.

    q [T, heads, D], k and v [T, kv heads, D], heads dense, D of 64 or 128, 16 bits a number, rows
    at multiples of 16 bytes; out [T, heads * D]; tiles [N, 4] from ``prefill_tiles`` for
    ``tile.rows`` tokens each."""
    heads, size = q.shape[1:]
    where = (
        TensorDescriptor(x, [len(x), x.shape[1] * size], [x.stride(0), 1], [tile.keys, size])
        for x in (k, v)
    )
    _dense[(len(tiles), heads)](
        q,
        *where,
        out,
        tiles,
        scale * LOG2E,
        q.stride(0),
        out.stride(0),
        GROUP=heads // k.shape[1],
        HEAD=size,
        ROWS=tile.rows,
        KEYS=tile.keys,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
