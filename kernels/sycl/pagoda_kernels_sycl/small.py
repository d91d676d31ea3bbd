"""Norms, rotation and activation, in one pass over memory each."""

from __future__ import annotations

import torch
from torch import Tensor

from pagoda_kernels_sycl.programs import Kernel, kernels
from pagoda_kernels_sycl.queues import finish
from pagoda_kernels_sycl.tuning import lanes_of

ITEMS = 128
"""Work-items of a work-group."""


def _kernel(name: str, device: torch.device, dtype: torch.dtype) -> Kernel:
    return kernels("small.sycl", device, dtype, LANES=lanes_of(device))[name]


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension of x, any leading strides that make rows."""
    return _norm(x, None, weight, epsilon)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The norm of ``x + residual`` [T, H], and that sum, written over ``residual``."""
    return _norm(x, residual, weight, epsilon), residual


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
    size = x.shape[-1]
    rows = x.reshape(-1, size)
    out = x.new_empty(x.shape)
    if len(rows):
        _kernel("rms_norm", x.device, x.dtype)(
            x.device, (1, len(rows), 1), ITEMS,
            rows, residual, weight, out,
            rows.stride(0), 0 if residual is None else residual.stride(0), size, epsilon,
        )  # fmt: skip
        finish(x.device)
    return out


def silu_and_mul(x: Tensor) -> Tensor:
    """silu of the first half times the second half of [T, 2 I]."""
    size = x.shape[-1] // 2
    out = x.new_empty((len(x), size))
    if len(x):
        _kernel("silu_and_mul", x.device, x.dtype)(
            x.device, (1, len(x), -(-size // ITEMS)), ITEMS, x, out, x.stride(0), size
        )
        finish(x.device)
    return out


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the heads of [T, heads, D] in place, first half against second half.

    cos, sin: [T, 1, R] in x's dtype, R the rotated part of a head; the first half of ``sin`` is
    negated."""
    half = cos.shape[-1] // 2
    if x.numel():
        items = min(ITEMS, -(-half // 16) * 16)
        _kernel("rotary", x.device, x.dtype)(
            x.device, (len(x), x.shape[1], -(-half // items)), items,
            x, cos, sin, x.stride(0), x.stride(1), cos.stride(0), sin.stride(0), half,
        )  # fmt: skip
        finish(x.device)
    return x


OPS = (rms_norm, add_rms_norm, silu_and_mul, rotary)
