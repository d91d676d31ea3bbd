"""Heads of queries and keys on their way from the product: normed, then rotated."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normed_and_turned(
    x_ptr,  # [N, 1] where each head begins
    real,  # [N] heads that exist
    d,  # [P] places in a head
    cos_ptr,
    sin_ptr,  # negative in its first half
    weight_ptr,  # [N, 1]
    epsilon,
    HEAD: tl.constexpr,
    ROTATE: tl.constexpr,
    NORM: tl.constexpr,
):
    """[N, P] float32, zero past the head size."""
    inside = real[:, None] & (d < HEAD)[None, :]
    x = tl.load(x_ptr + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(x * x, axis=1) / HEAD + epsilon)[:, None]
        x *= scale * tl.load(weight_ptr + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if ROTATE:
        e = (d + HEAD // 2) % HEAD  # the partner in the other half
        y = tl.load(x_ptr + e[None, :], mask=inside, other=0.0).to(tl.float32)
        if NORM:
            y *= scale * tl.load(weight_ptr + e[None, :], mask=inside, other=0.0).to(tl.float32)
        cos = tl.load(cos_ptr + d, mask=d < HEAD, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + d, mask=d < HEAD, other=0.0).to(tl.float32)
        x = x * cos[None, :] + y * sin[None, :]
    return x
