"""The plain version of every op: the definition, and what runs where a platform brings no better.

All take and return the model's dtype; norms and rotations work in float32 inside where that is
what the checkpoints were trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from pagoda_torch.ops.table import Ops

Norm = tuple[Tensor, "Tensor | None", float]
"""Weight, bias and epsilon; without a bias it is a root-mean-square norm."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[T, I] by a weight [O, I], as ``prepare_linear`` left it: [T, O]."""
    return F.linear(x, weight, bias)


def prepare_linear(weight: Tensor) -> Tensor:
    """Called once a weight [O, I] is loaded; what it returns is what ``linear`` is given."""
    return weight


def prepare_head(weight: Tensor) -> Tensor:
    """The same of the weight that makes logits, which may be the embedding's table too: then
    ``embedding`` is given what this returns."""
    return weight


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Rows [T, H] of a table [V, H], as ``prepare_head`` left it or as loaded."""
    return F.embedding(ids, table)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square norm over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Norm of ``x + residual``, and that sum; ``residual`` may be overwritten with it."""
    residual = residual.add_(x)
    return rms_norm(residual, weight, epsilon), residual


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Norm of mean and variance over the last dimension."""
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Norm of ``x + residual``, and that sum; ``residual`` may be overwritten with it."""
    residual = residual.add_(x)
    return layer_norm(residual, weight, bias, epsilon), residual


def normed_linear(
    ops: Ops,
    x: Tensor,
    residual: Tensor | None,
    norm: Norm,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """``activation``, an op's name, of ``linear`` of the norm of ``x + residual``, and that sum
    (``x`` where there is no residual); ``residual`` may be overwritten.  All by ``ops``."""
    normed, kept = added_norm(ops, x, residual, norm)
    found = ops.linear(normed, weight, bias)
    return (getattr(ops, activation)(found) if activation else found), kept


def added_norm(ops: Ops, x: Tensor, residual: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """The norm of ``x + residual``, and that sum, as ``normed_linear`` has them."""
    gain, shift, epsilon = norm
    if residual is None:
        if shift is None:
            return ops.rms_norm(x, gain, epsilon), x
        return ops.layer_norm(x, gain, shift, epsilon), x
    if shift is None:
        return ops.add_rms_norm(x, residual, gain, epsilon)
    return ops.add_layer_norm(x, residual, gain, shift, epsilon)


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


def relu(x: Tensor) -> Tensor:
    """What is above 0."""
    return torch.relu(x)


def silu(x: Tensor) -> Tensor:
    """x times its sigmoid."""
    return F.silu(x)


def gelu(x: Tensor) -> Tensor:
    """Exact gelu."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """gelu in its tanh form (``gelu_new``, ``gelu_pytorch_tanh``)."""
    return F.gelu(x, approximate="tanh")


def decode_inputs(
    sent: Tensor,
    slots: Tensor,
    context: Tensor,
    block_start: Tensor,
    blocks: Tensor,
    last_tokens: Tensor,
    block_size: int,
    token_ids: Tensor,
    positions: Tensor,
    lens: Tensor,
    cache_slots: Tensor,
) -> None:
    """Fill the last four, [N], for rows of one token each; all but lens and the int32 inputs int64.

    sent: the token, or below 0 for ``last_tokens[slot]``; context: tokens cached, below 0 for rows
    that are padding, which get length 0 and cache slot -1; block_start: where in ``blocks`` a
    row's block ids begin."""
    real = context >= 0
    token_ids.copy_(torch.where(sent < 0, last_tokens[slots.long()], sent))
    positions.copy_(context.clamp(min=0))
    lens.copy_(context + 1)
    block = blocks[torch.where(real, block_start + positions // block_size, 0)].long()
    cache_slots.copy_(torch.where(real, block * block_size + positions % block_size, -1))


def take_greedy(logits: Tensor, slots: Tensor, last_tokens: Tensor, tokens: Tensor) -> None:
    """The lowest id among each row's largest logits [N, V], into ``tokens`` [N] int64 and into
    ``last_tokens`` at ``slots`` [N] int32."""
    tokens.copy_(logits.max(-1).indices)
    last_tokens.index_copy_(0, slots.long(), tokens)
