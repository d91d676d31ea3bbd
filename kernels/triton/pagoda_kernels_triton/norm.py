"""RMS norm of rows, alone or of a sum that becomes the new residual."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _rms_norm(
    x_ptr,
    residual_ptr,
    weight_ptr,
    out_ptr,
    epsilon,
    stride_x,
    stride_residual,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, PADDED)
    inside = d < SIZE
    x = tl.load(x_ptr + row * stride_x + d, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        at = residual_ptr + row * stride_residual + d
        total = x + tl.load(at, mask=inside, other=0.0).to(tl.float32)
        kept = total.to(residual_ptr.dtype.element_ty)
        tl.store(at, kept, mask=inside)
        x = kept.to(tl.float32)  # what the plain version norms: the sum as it is kept
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + epsilon)
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32)
    out = (x * scale * weight).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * SIZE + d, out, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Over the last dimension of ``x`` [..., D], dense in it."""
    rows = x.reshape(-1, x.shape[-1])
    return _launch(rows, None, weight, epsilon).view(x.shape)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Norm of ``x + residual`` [T, D], and that sum, written over ``residual``."""
    return _launch(x, residual, weight, epsilon), residual


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    num_rows, size = x.shape
    out = torch.empty((num_rows, size), dtype=x.dtype, device=x.device)
    padded = triton.next_power_of_2(size)
    if num_rows:
        _rms_norm[(num_rows,)](
            x,
            x if residual is None else residual,
            weight,
            out,
            epsilon,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            SIZE=size,
            PADDED=padded,
            ADD=residual is not None,
            num_warps=min(16, max(1, padded // 512)),
        )
    return out
