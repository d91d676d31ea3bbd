"""Linear layers of one row: each weight is read once, at the speed of memory, and what stands
beside the product, the norm before it, bias and activation after it, is done on the way."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.norm import ROOT_MEAN_SQUARE, WHOLE_NORM
from pagoda_kernels_triton.overlap import await_previous, overlapping
from pagoda_kernels_triton.sizes import num_parts, up_to_power_of_two
from pagoda_kernels_triton.tuning import product_tile, target_of

GATED = "silu_and_mul"
ACTIVATIONS = (None, "relu", GATED)


@triton.jit
def _row(x_ptr, residual_ptr, k, inside, ADD: tl.constexpr):
    """Some of the row, float32, rounded as the sum is kept."""
    x = tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + k, mask=inside, other=0.0).to(tl.float32)
        x = x.to(x_ptr.dtype.element_ty).to(tl.float32)
    return x


@triton.jit
def _weights(weight_ptr, n, k, there, SIZE: tl.constexpr, DENSE: tl.constexpr):
    at = weight_ptr + n.to(tl.int64)[:, None] * SIZE + k[None, :]
    if DENSE:
        return tl.load(at)
    return tl.load(at, mask=there[:, None] & (k < SIZE)[None, :], other=0.0)


@triton.jit(do_not_specialize_on_alignment=["kept_ptr"])
def _one_row(
    x_ptr,
    residual_ptr,
    kept_ptr,  # the sum of the two above, written by the first program
    gain_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    epsilon,
    num_outputs,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    OUTPUTS: tl.constexpr,  # of a program
    EACH: tl.constexpr,  # inputs at a time
    CHUNKS: tl.constexpr,
    DENSE: tl.constexpr,  # the two above divide what there is: no masks
    NORM: tl.constexpr,  # 0: none, 1: root mean square, 2: mean and variance
    ADD: tl.constexpr,
    BIAS: tl.constexpr,
    GATE: tl.constexpr,  # silu of the first half of the outputs times the second half
    RELU: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    first = tl.program_id(0) * OUTPUTS
    n = first + tl.arange(0, OUTPUTS)
    there = n < num_outputs
    kind = x_ptr.dtype.element_ty
    lane = tl.arange(0, EACH)
    # The first weights are on their way while the norm is worked out.
    weight = _weights(weight_ptr, n, lane, there, SIZE, DENSE)
    other = weight
    if GATE:
        other = _weights(weight_ptr, n + num_outputs, lane, there, SIZE, DENSE)
    await_previous(OVERLAP)

    mean = 0.0
    scale = 1.0
    if NORM > 0 or ADD:
        every = tl.arange(0, PADDED)
        x = _row(x_ptr, residual_ptr, every, every < SIZE, ADD)
        if ADD:
            tl.store(kept_ptr + every, x.to(kind), mask=(every < SIZE) & (first == 0))
        if NORM == 2:
            mean = tl.sum(x, axis=0) / SIZE
            x = tl.where(every < SIZE, x - mean, 0.0)
        if NORM > 0:
            scale = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + epsilon)

    total = tl.zeros([OUTPUTS], tl.float32)
    total_other = tl.zeros([OUTPUTS], tl.float32)
    for chunk in tl.static_range(CHUNKS):
        k = chunk * EACH + lane
        inside = k < SIZE
        now = weight.to(tl.float32)
        now_other = other.to(tl.float32)
        if chunk + 1 < CHUNKS:
            weight = _weights(weight_ptr, n, k + EACH, there, SIZE, DENSE)
            if GATE:
                other = _weights(weight_ptr, n + num_outputs, k + EACH, there, SIZE, DENSE)
        x = _row(x_ptr, residual_ptr, k, inside, ADD)
        if NORM > 0:
            x = (x - mean) * scale * tl.load(gain_ptr + k, mask=inside, other=0.0).to(tl.float32)
            if NORM == 2:
                x += tl.load(shift_ptr + k, mask=inside, other=0.0).to(tl.float32)
            x = x.to(kind).to(tl.float32)
        total += tl.sum(now * x[None, :], axis=1)
        if GATE:
            total_other += tl.sum(now_other * x[None, :], axis=1)

    if BIAS:
        total += tl.load(bias_ptr + n, mask=there, other=0.0).to(tl.float32)
        if GATE:
            total_other += tl.load(bias_ptr + num_outputs + n, mask=there, other=0.0).to(tl.float32)
    if GATE:
        gate = total.to(kind).to(tl.float32)
        total = gate / (1.0 + tl.exp(-gate)) * total_other.to(kind).to(tl.float32)
    if RELU:
        total = tl.maximum(total, 0.0)
    tl.store(out_ptr + n, total.to(kind), mask=there)


def one_row_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    norm: tuple[Tensor, Tensor | None, float] | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """``activation(norm(x + residual) W^T + bias)`` [1, O], and the sum ``x + residual`` (``x``
    itself where there is no residual).

    x, residual [1, I], dense; weight [O, I], contiguous.  norm: weight, bias (None: a root mean
    square norm) and epsilon.  activation: one of ACTIVATIONS; GATED halves the outputs."""
    size, gated = x.shape[1], activation == GATED
    num_outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    tile = product_tile(target_of(x.device), size, norm is not None)
    outputs = max(1, tile.outputs // 2) if gated else tile.outputs
    out = torch.empty((1, num_outputs), dtype=x.dtype, device=x.device)
    kept = x if residual is None else torch.empty_like(x)
    gain, shift, epsilon = norm if norm is not None else (x, None, 0.0)
    kind = 0 if norm is None else ROOT_MEAN_SQUARE if shift is None else WHOLE_NORM
    _one_row[(num_parts(num_outputs, outputs),)](
        x,
        x if residual is None else residual,
        kept,
        gain,
        gain if shift is None else shift,
        weight,
        weight if bias is None else bias,
        out,
        epsilon,
        num_outputs,
        SIZE=size,
        PADDED=up_to_power_of_two(size),
        OUTPUTS=outputs,
        EACH=tile.inputs,
        CHUNKS=num_parts(size, tile.inputs),
        DENSE=num_outputs % outputs == 0 and size % tile.inputs == 0,
        NORM=kind,
        ADD=residual is not None,
        BIAS=bias is not None,
        GATE=gated,
        RELU=activation == "relu",
        **overlapping(x.device),
        num_warps=tile.warps,
    )
    return out, kept
