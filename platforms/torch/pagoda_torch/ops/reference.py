"""The plain version of every op: the definition, and what runs where a platform brings no better.

All take and return the model's dtype; norms and rotations work in float32 inside where that is
what the checkpoints were trained with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[T, I] by a weight [O, I], as ``prepare_linear`` left it: [T, O]."""
    return F.linear(x, weight, bias)


def prepare_linear(weight: Tensor) -> Tensor:
    """Called once a weight [O, I] is loaded; what it returns is what ``linear`` is given."""
    return weight


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Norm of ``x + residual``, and that sum; ``residual`` may be overwritten with it."""
    residual = residual.add_(x)
    return rms_norm(residual, weight, epsilon), residual


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the heads of [T, heads, head size] in place, first half against second half.

    cos, sin: [T, 1, R] in the model's dtype, R the rotated part of a head; the first half of
    ``sin`` is negated."""
    width = cos.shape[-1]
    part = x if width == x.shape[-1] else x[..., :width]
    swapped = part.roll(width // 2, -1)
    part.mul_(cos).addcmul_(swapped, sin)
    return x


def silu_and_mul(x: Tensor) -> Tensor:
    """silu of the first half times the second half of [T, 2 I]."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


def gelu_and_mul(x: Tensor) -> Tensor:
    """Exact gelu of the first half times the second half of [T, 2 I]."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate).mul_(up)


def gelu_tanh_and_mul(x: Tensor) -> Tensor:
    """gelu, in its tanh form, of the first half times the second half of [T, 2 I]."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate, approximate="tanh").mul_(up)


def relu_and_mul(x: Tensor) -> Tensor:
    """relu of the first half times the second half of [T, 2 I]."""
    gate, up = x.chunk(2, -1)
    return F.relu(gate).mul_(up)


def gelu(x: Tensor) -> Tensor:
    """Exact gelu."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """gelu in its tanh form (``gelu_new``, ``gelu_pytorch_tanh``)."""
    return F.gelu(x, approximate="tanh")
