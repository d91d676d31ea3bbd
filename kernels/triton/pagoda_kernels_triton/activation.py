"""Gated activations: silu of the first half times the second half."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.overlap import await_previous, overlapping
from pagoda_kernels_triton.sizes import num_parts


@triton.jit
def _silu_and_mul(x_ptr, out_ptr, stride_x, size, EACH: tl.constexpr, OVERLAP: tl.constexpr):
    await_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * EACH + tl.arange(0, EACH)
    inside = d < size
    gate = tl.load(x_ptr + row * stride_x + d, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * stride_x + size + d, mask=inside, other=0.0).to(tl.float32)
    found = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out_ptr + row * size + d, found.to(out_ptr.dtype.element_ty), mask=inside)


def silu_and_mul(x: Tensor) -> Tensor:
    """[T, 2 I], dense in the last dimension, -> [T, I]."""
    num_rows, size = x.shape[0], x.shape[1] // 2
    out = torch.empty((num_rows, size), dtype=x.dtype, device=x.device)
    if num_rows:
        each = 1024
        _silu_and_mul[(num_rows, num_parts(size, each))](
            x, out, x.stride(0), size, EACH=each, num_warps=4, **overlapping(x.device)
        )
    return out
