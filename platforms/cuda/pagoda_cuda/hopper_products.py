"""Linear layers of some rows on Hopper, in Gluon: one warp fetches, the weights from before the
kernel ahead has ended, the rows of x after; one or two groups of warps multiply."""

from __future__ import annotations

from functools import cache

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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from pagoda_cuda.cuts import EACH, GROUP, Cut
from pagoda_kernels_triton.join import arrivals
from pagoda_kernels_triton.one_row import GATED
from pagoda_kernels_triton.sizes import num_parts

INPUTS = gl.constexpr(EACH)  # at a time
OUTPUTS = gl.constexpr(GROUP)  # of one product of a group of warps


@gluon.jit
def _place(where, SPLITS: gl.constexpr):
    """This program's tile, its tile of outputs and of rows, and its share of the inputs."""
    tiles_of_rows, chunks = where
    tile = gl.program_id(0) // SPLITS
    part = gl.program_id(0) % SPLITS
    share = part * chunks // SPLITS, (part + 1) * chunks // SPLITS
    return tile, tile // tiles_of_rows, tile % tiles_of_rows, part, share


@gluon.jit
def _next(stage, phase, STAGES: gl.constexpr):
    last = stage == STAGES - 1
    return gl.where(last, 0, stage + 1), gl.where(last, phase ^ 1, phase)


@gluon.jit
def _fetch_weights(
    w_desc, w_smem, ready, stage, n, other, k, there, SIZE: gl.constexpr, PARTS: gl.constexpr
):
    """One stage's weights on their way, and ``ready`` waiting for them and its rows of x."""
    mbarrier.expect(ready, SIZE, pred=there)
    into = w_smem.index(stage * PARTS)
    tma.async_copy_global_to_shared(w_desc, [n, k], ready, into, pred=there)
    if PARTS == 2:
        into = w_smem.index(stage * PARTS + 1)
        tma.async_copy_global_to_shared(w_desc, [other, k], ready, into, pred=there)


@gluon.jit
def _fetch(
    x_desc, w_desc, num_outputs, where, shared, barriers,
    ROWS: gl.constexpr, GROUPS: gl.constexpr, PARTS: gl.constexpr, SPLITS: gl.constexpr,
    STAGES: gl.constexpr, GATE: gl.constexpr,
):  # fmt: skip
    x_smem, w_smem = shared
    full, empty = barriers
    _, across, along, _, share = _place(where, SPLITS)
    start, end = share
    WIDE: gl.constexpr = GROUPS * OUTPUTS
    SIZE: gl.constexpr = (ROWS + PARTS * WIDE) * INPUTS * 2
    n = across * (WIDE if GATE else PARTS * WIDE)
    other = n + (num_outputs if GATE else WIDE)
    row = along * ROWS
    for i in gl.static_range(STAGES):
        k = (start + i) * INPUTS
        there = start + i < end
        _fetch_weights(w_desc, w_smem, full.index(i), i, n, other, k, there, SIZE, PARTS)
    gdc_wait()
    for i in gl.static_range(STAGES):
        at = [row, (start + i) * INPUTS]
        into, there = x_smem.index(i), start + i < end
        tma.async_copy_global_to_shared(x_desc, at, full.index(i), into, pred=there)
    stage, phase = 0, 0
    for i in range(start + STAGES, end):
        mbarrier.wait(empty.index(stage), phase)
        ready = full.index(stage)
        _fetch_weights(w_desc, w_smem, ready, stage, n, other, i * INPUTS, True, SIZE, PARTS)
        tma.async_copy_global_to_shared(x_desc, [row, i * INPUTS], ready, x_smem.index(stage))
        stage, phase = _next(stage, phase, STAGES)


@gluon.jit
def _sums(
    group, share, shared, barriers, ROWS: gl.constexpr, PARTS: gl.constexpr, STAGES: gl.constexpr
):
    """Of this program's inputs, [OUTPUTS, ROWS] twice; the second is nothing where PARTS is 1.
    A stage is given back once the products behind it are under way."""
    LAYOUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, ROWS, 16])
    x_smem, w_smem = shared
    full, empty = barriers
    start, end = share
    first = gl.zeros([OUTPUTS, ROWS], gl.float32, LAYOUT)
    other = first
    stage, phase, before = 0, 0, 0
    for i in range(start, end):
        mbarrier.wait(full.index(stage), phase)
        x = x_smem.index(stage).permute((1, 0))
        w = w_smem.index(stage * PARTS).slice(group * OUTPUTS, OUTPUTS)
        first = warpgroup_mma(w, x, first, is_async=True)
        if PARTS == 2:
            w = w_smem.index(stage * PARTS + 1).slice(group * OUTPUTS, OUTPUTS)
            other = warpgroup_mma(w, x, other, is_async=True)
            first, other = warpgroup_mma_wait(PARTS, deps=[first, other])
        else:
            first = warpgroup_mma_wait(PARTS, deps=[first])
        debug_barrier()
        mbarrier.arrive(empty.index(before), count=1, pred=i > start)
        before = stage
        stage, phase = _next(stage, phase, STAGES)
    if PARTS == 2:
        first, other = warpgroup_mma_wait(0, deps=[first, other])
    else:
        first = warpgroup_mma_wait(0, deps=[first])
    return first, other


@gluon.jit
def _all_parts(first_ptr, step: gl.constexpr, SPLITS: gl.constexpr):
    """What all programs found, in their order, past this multiprocessor's own cache."""
    total = gl.load(first_ptr, cache_modifier=".cg")
    for part in gl.static_range(1, SPLITS):
        total += gl.load(first_ptr + part * step, cache_modifier=".cg")
    return total


@gluon.jit
def _joined(
    first, other, parts_ptr, arrived_ptr, part,
    ROWS: gl.constexpr, PARTS: gl.constexpr, SPLITS: gl.constexpr,
):  # fmt: skip
    """The sums of all programs that share a tile, and whether this is the last of them to come,
    which alone has them."""
    SIZE: gl.constexpr = OUTPUTS * ROWS
    o = gl.arange(0, OUTPUTS, layout=gl.SliceLayout(1, first.type.layout))[:, None]
    m = gl.arange(0, ROWS, layout=gl.SliceLayout(0, first.type.layout))[None, :]
    # Where a warp's stores lie side by side, as its lanes hold the sums.
    lane = o // 16 * 32 + o % 8 * 4 + m % 8 // 2
    place = (m // 8 * 4 + o % 16 // 8 * 2 + m % 2) * 128 + lane
    mine = parts_ptr + part * (PARTS * SIZE) + place
    gl.store(mine, first)
    if PARTS == 2:
        gl.store(mine + SIZE, other)
    debug_barrier()  # every thread's part is written before the program says so
    last = gl.atomic_add(arrived_ptr, 1, sem="acq_rel") == SPLITS - 1
    if last:
        gl.store(arrived_ptr, 0)
        first = _all_parts(parts_ptr + place, PARTS * SIZE, SPLITS)
        if PARTS == 2:
            other = _all_parts(parts_ptr + SIZE + place, PARTS * SIZE, SPLITS)
    return first, other, last


@gluon.jit
def _biased(sums, bias_ptr, n, num_outputs, BIAS: gl.constexpr):
    if BIAS:
        n += gl.arange(0, OUTPUTS, layout=gl.SliceLayout(1, sums.type.layout))
        bias = gl.load(bias_ptr + n, mask=n < num_outputs, other=0.0)
        sums += bias.to(gl.float32)[:, None]
    return sums


@gluon.jit
def _store(sums, out_ptr, n, row, num_rows, num_outputs, ROWS: gl.constexpr, RELU: gl.constexpr):
    LAYOUT: gl.constexpr = gl.BlockedLayout([8, 1], [8, 4], [1, 4], [0, 1])
    if RELU:
        sums = gl.maximum(sums, 0.0)
    out = gl.convert_layout(sums.to(out_ptr.dtype.element_ty), LAYOUT)
    n += gl.arange(0, OUTPUTS, layout=gl.SliceLayout(1, LAYOUT))
    m = row + gl.arange(0, ROWS, layout=gl.SliceLayout(0, LAYOUT))
    mask = (n < num_outputs)[:, None] & (m < num_rows)[None, :]
    gl.store(out_ptr + m[None, :] * num_outputs + n[:, None], out, mask=mask)


@gluon.jit
def _multiply(
    group, pointers, num_rows, num_outputs, where, shared, barriers,
    ROWS: gl.constexpr, GROUPS: gl.constexpr, PARTS: gl.constexpr, SPLITS: gl.constexpr,
    STAGES: gl.constexpr, BIAS: gl.constexpr, RELU: gl.constexpr, GATE: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    out_ptr, bias_ptr, parts_ptr, arrived_ptr = pointers
    tile, across, along, part, share = _place(where, SPLITS)
    first, other = _sums(group, share, shared, barriers, ROWS, PARTS, STAGES)
    if EARLY:
        gdc_launch_dependents()
    last = True
    if SPLITS > 1:
        piece = tile * GROUPS + group
        parts_ptr += piece * (SPLITS * PARTS * OUTPUTS * ROWS)
        first, other, last = _joined(
            first, other, parts_ptr, arrived_ptr + piece, part, ROWS, PARTS, SPLITS
        )
    if last:
        WIDE: gl.constexpr = GROUPS * OUTPUTS
        n = across * (WIDE if GATE else PARTS * WIDE) + group * OUTPUTS
        row = along * ROWS
        first = _biased(first, bias_ptr, n, num_outputs, BIAS)
        if GATE:
            kind: gl.constexpr = out_ptr.dtype.element_ty
            other = _biased(other, bias_ptr + num_outputs, n, num_outputs, BIAS)
            gate = first.to(kind).to(gl.float32)
            first = gate / (1.0 + gl.exp(-gate)) * other.to(kind).to(gl.float32)
        _store(first, out_ptr, n, row, num_rows, num_outputs, ROWS, RELU)
        if PARTS == 2 and not GATE:
            n += WIDE
            other = _biased(other, bias_ptr, n, num_outputs, BIAS)
            _store(other, out_ptr, n, row, num_rows, num_outputs, ROWS, RELU)


@gluon.jit(do_not_specialize=["num_rows", "tiles_of_rows", "chunks"])
def _product(
    x_desc, w_desc, out_ptr, bias_ptr,
    parts_ptr,  # [tiles, GROUPS, SPLITS, PARTS, OUTPUTS * ROWS] float32
    arrived_ptr,  # [tiles, GROUPS] int32, 0 before and after
    num_rows, num_outputs, tiles_of_rows, chunks,
    ROWS: gl.constexpr, GROUPS: gl.constexpr, PARTS: gl.constexpr, SPLITS: gl.constexpr,
    STAGES: gl.constexpr, BIAS: gl.constexpr, RELU: gl.constexpr, GATE: gl.constexpr,
    EARLY: gl.constexpr,
):  # fmt: skip
    kind: gl.constexpr = x_desc.dtype
    x_smem = gl.allocate_shared_memory(kind, [STAGES, ROWS, INPUTS], x_desc.layout)
    WIDE: gl.constexpr = GROUPS * OUTPUTS
    w_smem = gl.allocate_shared_memory(kind, [STAGES * PARTS, WIDE, INPUTS], w_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=GROUPS)
    fence_async_shared()
    where, shared, barriers = (tiles_of_rows, chunks), (x_smem, w_smem), (full, empty)
    pointers = (out_ptr, bias_ptr, parts_ptr, arrived_ptr)
    if GROUPS == 2:
        REGISTERS: gl.constexpr = 152 if ROWS * PARTS <= 128 else 232
        gl.warp_specialize([
            (_multiply, (0, pointers, num_rows, num_outputs, where, shared, barriers,
                ROWS, GROUPS, PARTS, SPLITS, STAGES, BIAS, RELU, GATE, EARLY)),
            (_multiply, (1, pointers, num_rows, num_outputs, where, shared, barriers,
                ROWS, GROUPS, PARTS, SPLITS, STAGES, BIAS, RELU, GATE, EARLY)),
            (_fetch, (x_desc, w_desc, num_outputs, where, shared, barriers,
                ROWS, GROUPS, PARTS, SPLITS, STAGES, GATE)),
        ], [4, 1], [REGISTERS, 24])  # fmt: skip
    else:
        gl.warp_specialize([
            (_multiply, (0, pointers, num_rows, num_outputs, where, shared, barriers,
                ROWS, GROUPS, PARTS, SPLITS, STAGES, BIAS, RELU, GATE, EARLY)),
            (_fetch, (x_desc, w_desc, num_outputs, where, shared, barriers,
                ROWS, GROUPS, PARTS, SPLITS, STAGES, GATE)),
        ], [1], [24])  # fmt: skip


@cache
def _layout(rows: int, kind: gl.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([rows, EACH], kind)


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
    cut: Cut,
    early: bool = True,
) -> Tensor:
    """``activation(x W^T + bias)`` [R, O].

    x [R, I], weight [O, I], both contiguous, 16 bits a number, I a multiple of 8.  activation: one
    of ``one_row.ACTIVATIONS``; GATED halves the outputs.  early: the kernel behind this one may
    begin before this one has ended; not well for one of many programs, which would crowd where
    this one has left room."""
    num_rows, size = x.shape
    gated = activation == GATED
    num_outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    tiles_of_rows = num_parts(num_rows, cut.rows)
    tiles = num_parts(num_outputs, cut.outputs // (2 if gated else 1)) * tiles_of_rows
    out = torch.empty((num_rows, num_outputs), dtype=x.dtype, device=x.device)
    parts = arrived = out
    if cut.splits > 1:
        count = tiles * cut.splits * cut.outputs * cut.rows
        parts = torch.empty(count, dtype=torch.float32, device=x.device)
        arrived = arrivals(x.device, tiles * cut.groups)
    kind = gl.bfloat16 if x.dtype == torch.bfloat16 else gl.float16
    wide = cut.groups * GROUP
    _product[(tiles * cut.splits,)](
        TensorDescriptor.from_tensor(x, [cut.rows, EACH], _layout(cut.rows, kind)),
        TensorDescriptor.from_tensor(weight, [wide, EACH], _layout(wide, kind)),
        *(out, out if bias is None else bias, parts, arrived),
        *(num_rows, num_outputs, tiles_of_rows, num_parts(size, EACH)),
        ROWS=cut.rows,
        GROUPS=cut.groups,
        PARTS=cut.parts,
        SPLITS=cut.splits,
        STAGES=cut.stages,
        BIAS=bias is not None,
        RELU=activation == "relu",
        GATE=gated,
        EARLY=early,
        num_warps=4,
        maxnreg=cut.registers,
        launch_pdl=True,
    )
    return out
