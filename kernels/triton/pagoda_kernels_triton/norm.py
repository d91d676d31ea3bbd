"""Norms of rows, alone or of a sum that becomes the new residual: by root mean square, or by mean
and variance."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.overlap import await_previous, begin_next, overlapping
from pagoda_kernels_triton.sizes import up_to_power_of_two

ROOT_MEAN_SQUARE, WHOLE_NORM = 1, 2
"""What ``NORM`` says in the kernels that norm on their way."""


@triton.jit
def _norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    epsilon,
    stride_x,
    stride_residual,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ADD: tl.constexpr,
    NORM: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    begin_next(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, PADDED)
    inside = d < SIZE
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32)
    await_previous(OVERLAP)
    x = tl.load(x_ptr + row * stride_x + d, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        at = residual_ptr + row * stride_residual + d
        total = x + tl.load(at, mask=inside, other=0.0).to(tl.float32)
        kept = total.to(residual_ptr.dtype.element_ty)
        tl.store(at, kept, mask=inside)
        x = kept.to(tl.float32)  # what the plain version norms: the sum as it is kept
    if NORM == 2:
        x = tl.where(inside, x - tl.sum(x, axis=0) / SIZE, 0.0)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + epsilon)
    out = x * scale * weight
    if NORM == 2:
        out += tl.load(bias_ptr + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * SIZE + d, out.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Over the last dimension of ``x`` [..., D], dense in it."""
    return _launch(x.reshape(-1, x.shape[-1]), None, weight, None, epsilon).view(x.shape)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Norm of ``x + residual`` [T, D], and that sum, written over ``residual``."""
    return _launch(x, residual, weight, None, epsilon), residual


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Of mean and variance, over the last dimension of ``x`` [..., D], dense in it."""
    return _launch(x.reshape(-1, x.shape[-1]), None, weight, bias, epsilon).view(x.shape)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Norm of ``x + residual`` [T, D], and that sum, written over ``residual``."""
    return _launch(x, residual, weight, bias, epsilon), residual


def _launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, epsilon: float
) -> Tensor:
    num_rows, size = x.shape
    out = torch.empty((num_rows, size), dtype=x.dtype, device=x.device)
    padded = up_to_power_of_two(size)
    if num_rows:
        _norm[(num_rows,)](
            x,
            x if residual is None else residual,
            weight,
            weight if bias is None else bias,
            out,
            epsilon,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            SIZE=size,
            PADDED=padded,
            ADD=residual is not None,
            NORM=ROOT_MEAN_SQUARE if bias is None else WHOLE_NORM,
            **overlapping(x.device),
            num_warps=min(16, max(1, padded // 512)),
        )
    return out
