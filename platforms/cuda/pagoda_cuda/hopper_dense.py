"""Attention of whole prompts over their own keys on Hopper, in Gluon: one warp fetches, two groups
of warps multiply, each for half of a tile's rows, so that the softmax of one runs beside the
products of the other (FlashAttention-3, arXiv 2407.08608)."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.language import debug_barrier

from pagoda_kernels_triton.scores import LOG2E
from pagoda_kernels_triton.tuning import target_of

ROWS = 128
"""Tokens of a tile."""

HALF = gl.constexpr(ROWS // 2)
KEYS = gl.constexpr(ROWS)  # at a time, so that a tile has one diagonal
STAGES = gl.constexpr(2)


@gluon.jit
def _tile(work, tiles_ptr, num_tiles, heads):
    """Where piece ``work`` is: the last tiles come first, as each prompt's last has the most keys,
    heads beside each other."""
    tile_ptr = tiles_ptr + (num_tiles - 1 - work // heads) * 4
    first = gl.load(tile_ptr)
    left = gl.load(tile_ptr + 1)
    place = gl.load(tile_ptr + 2)
    return first, left, place, work % heads


@gluon.jit
def _fetch(
    q_desc, k_desc, v_desc, where, shared, barriers, GROUP: gl.constexpr, HEAD: gl.constexpr
):
    """Queries, and keys and values from the diagonal back to the prompt's begin."""
    tiles_ptr, num_tiles, heads = where
    q_smem, k_smem, v_smem = shared
    q_full, q_empty, k_full, k_empty, v_full, v_empty = barriers
    count = 0
    turn = 0
    for work in range(gl.program_id(0), num_tiles * heads, gl.num_programs(0)):
        first, _, place, head = _tile(work, tiles_ptr, num_tiles, heads)
        mbarrier.wait(q_empty, (turn & 1) ^ 1)
        mbarrier.expect(q_full, 2 * HALF * HEAD * 2)
        for half in gl.static_range(2):
            at = [first + half * HALF, head * HEAD]
            tma.async_copy_global_to_shared(q_desc, at, q_full, q_smem.index(half))
        turn += 1  # noqa: SIM113
        origin = first - place
        column = head // GROUP * HEAD
        key = place
        while key >= 0:
            stage = count % STAGES
            phase = ((count // STAGES) & 1) ^ 1
            mbarrier.wait(k_empty.index(stage), phase)
            mbarrier.expect(k_full.index(stage), KEYS * HEAD * 2)
            at = [origin + key, column]
            tma.async_copy_global_to_shared(k_desc, at, k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_empty.index(stage), phase)
            mbarrier.expect(v_full.index(stage), KEYS * HEAD * 2)
            tma.async_copy_global_to_shared(v_desc, at, v_full.index(stage), v_smem.index(stage))
            count += 1
            key -= KEYS


@gluon.jit
def _release(barrier):
    """Every warp of the group has done with what the barrier guards."""
    debug_barrier()
    mbarrier.arrive(barrier, count=1)


@gluon.jit
def _forget(v_smem, left, HEAD: gl.constexpr):
    """Values behind the prompt's end are a neighbour's, which may be NaN."""
    PIECE: gl.constexpr = 32
    LAYOUT: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    for i in gl.static_range(KEYS // PIECE):
        piece = v_smem.slice(i * PIECE, PIECE)
        row = i * PIECE + gl.arange(0, PIECE, layout=gl.SliceLayout(1, LAYOUT))
        value = piece.load(LAYOUT)
        piece.store(gl.where((row < left)[:, None], value, gl.full_like(value, 0.0)))
    fence_async_shared()
    debug_barrier()


@gluon.jit
def _multiply(half, out_ptr, stride_out, scale, where, shared, barriers, HEAD: gl.constexpr):
    """A half's rows.  Scores of the keys ahead are under way while values are weighted."""
    tiles_ptr, num_tiles, heads = where
    q_smem, k_smem, v_smem = shared
    q_full, q_empty, k_full, k_empty, v_full, v_empty = barriers
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    FOUND: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, FOUND, 2)
    BLOCKED: gl.constexpr = gl.BlockedLayout([1, 8], [256 // HEAD, HEAD // 8], [4, 1], [1, 0])
    kind: gl.constexpr = q_smem.dtype
    row = half * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(1, SCORES))
    key = gl.arange(0, KEYS, layout=gl.SliceLayout(0, SCORES))
    q = q_smem.index(half)
    nothing = gl.zeros([HALF, KEYS], gl.float32, SCORES)
    count = 0
    turn = 0
    for work in range(gl.program_id(0), num_tiles * heads, gl.num_programs(0)):
        first, left, place, head = _tile(work, tiles_ptr, num_tiles, heads)
        mbarrier.wait(q_full, turn & 1)
        turn += 1  # noqa: SIM113
        stage = count % STAGES
        phase = (count // STAGES) & 1
        mbarrier.wait(k_full.index(stage), phase)
        score = warpgroup_mma(q, k_smem.index(stage).permute((1, 0)), nothing, use_acc=False)
        _release(k_empty.index(stage))
        score = gl.where(key[None, :] <= row[:, None], score, float("-inf"))
        top = gl.max(score, axis=1) * scale
        weight = gl.exp2(score * scale - top[:, None])
        total = gl.sum(weight, axis=1)
        weights = gl.convert_layout(weight.to(kind), WEIGHTS)
        found = gl.zeros([HALF, HEAD], gl.float32, FOUND)
        if left < KEYS:  # the rows end within the diagonal
            mbarrier.wait(v_full.index(stage), phase)
            _forget(v_smem.index(stage), left, HEAD)
        for _ in range(place // KEYS):
            value_stage = count % STAGES
            value_phase = (count // STAGES) & 1
            count += 1
            stage = count % STAGES
            mbarrier.wait(k_full.index(stage), (count // STAGES) & 1)
            ahead = warpgroup_mma(
                q, k_smem.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True
            )
            mbarrier.wait(v_full.index(value_stage), value_phase)
            found = warpgroup_mma(weights, v_smem.index(value_stage), found, is_async=True)
            score = warpgroup_mma_wait(1, deps=[ahead])
            _release(k_empty.index(stage))
            higher = gl.maximum(top, gl.max(score, axis=1) * scale)
            shrink = gl.exp2(top - higher)
            weight = gl.exp2(score * scale - higher[:, None])
            total = total * shrink + gl.sum(weight, axis=1)
            top = higher
            found, weights = warpgroup_mma_wait(0, deps=[found, weights])
            _release(v_empty.index(value_stage))
            shrunk = gl.convert_layout(shrink, gl.SliceLayout(1, FOUND))
            found = found * shrunk[:, None]
            weights = gl.convert_layout(weight.to(kind), WEIGHTS)
        mbarrier.arrive(q_empty, count=1)
        stage = count % STAGES
        mbarrier.wait(v_full.index(stage), (count // STAGES) & 1)
        count += 1
        found = warpgroup_mma(weights, v_smem.index(stage), found)
        _release(v_empty.index(stage))
        whole = gl.convert_layout(total, gl.SliceLayout(1, FOUND))
        out = gl.convert_layout((found / whole[:, None]).to(kind), BLOCKED)
        mine = half * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(1, BLOCKED))
        d = gl.arange(0, HEAD, layout=gl.SliceLayout(0, BLOCKED))
        at = (first + mine).to(gl.int64) * stride_out + head * HEAD
        gl.store(out_ptr + at[:, None] + d[None, :], out, mask=(mine < left)[:, None])


@gluon.jit(do_not_specialize=["num_tiles"])
def _dense(
    q_desc, k_desc, v_desc, out_ptr,
    tiles_ptr,  # [tiles, 4] first token, tokens left, its position
    num_tiles, heads, scale, stride_out,
    GROUP: gl.constexpr, HEAD: gl.constexpr,
):  # fmt: skip
    kind: gl.constexpr = q_desc.dtype
    q_smem = gl.allocate_shared_memory(kind, [2, HALF, HEAD], q_desc.layout)
    k_smem = gl.allocate_shared_memory(kind, [STAGES, KEYS, HEAD], k_desc.layout)
    v_smem = gl.allocate_shared_memory(kind, [STAGES, KEYS, HEAD], v_desc.layout)
    LAYOUT: gl.constexpr = mbarrier.MBarrierLayout()
    q_full = gl.allocate_shared_memory(gl.int64, [1], LAYOUT)
    q_empty = gl.allocate_shared_memory(gl.int64, [1], LAYOUT)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], LAYOUT)
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], LAYOUT)
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], LAYOUT)
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], LAYOUT)
    mbarrier.init(q_full, count=1)
    mbarrier.init(q_empty, count=2)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=2)
    fence_async_shared()
    where = (tiles_ptr, num_tiles, heads)
    shared = (q_smem, k_smem, v_smem)
    barriers = (q_full, q_empty, k_full, k_empty, v_full, v_empty)
    gl.warp_specialize(
        [
            (_multiply, (0, out_ptr, stride_out, scale, where, shared, barriers, HEAD)),
            (_multiply, (1, out_ptr, stride_out, scale, where, shared, barriers, HEAD)),
            (_fetch, (q_desc, k_desc, v_desc, where, shared, barriers, GROUP, HEAD)),
        ],
        [4, 1],
        [240, 24],
    )


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, tiles: Tensor, scale: float
) -> None:
    """As ``dense.dense_attention``, with tiles for ROWS tokens each."""
    heads, size = q.shape[1:]
    kind = gl.bfloat16 if q.dtype == torch.bfloat16 else gl.float16
    where = []
    for x, rows in ((q, ROWS // 2), (k, ROWS), (v, ROWS)):
        shape, strides = [len(x), x.shape[1] * size], [x.stride(0), 1]
        layout = gl.NVMMASharedLayout.get_default_for([rows, size], kind)
        where.append(TensorDescriptor(x, shape, strides, [rows, size], layout))
    programs = min(len(tiles) * heads, target_of(q.device).num_units)
    _dense[(programs,)](
        *(*where, out, tiles, len(tiles), heads, scale * LOG2E, out.stride(0)),
        GROUP=heads // k.shape[1],
        HEAD=size,
        num_warps=4,
    )
