"""The ops of ``pagoda_torch`` that Triton does in fewer passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from pagoda_kernels_triton.activation import silu_and_mul
from pagoda_kernels_triton.greedy import take_greedy
from pagoda_kernels_triton.inputs import decode_inputs
from pagoda_kernels_triton.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from pagoda_kernels_triton.one_row import ACTIVATIONS, one_row_linear
from pagoda_torch.ops import Ops, reference


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """One row by our kernel, more by the vendor's library."""
    if x.dim() == 2 and x.shape[0] == 1:
        return one_row_linear(x, weight, bias)[0]
    return F.linear(x, weight, bias)


def normed_linear(
    ops: Ops,
    x: Tensor,
    residual: Tensor | None,
    norm: reference.Norm,
    weight: Tensor,
    bias: Tensor | None,
    activation: str | None,
) -> tuple[Tensor, Tensor]:
    """One row in one kernel, more by their parts."""
    if x.shape[0] > 1 or activation not in ACTIVATIONS:
        return reference.normed_linear(ops, x, residual, norm, weight, bias, activation)
    return one_row_linear(x, weight, bias, residual, norm, activation)


OPS: Mapping[str, Callable[..., Any]] = {
    "linear": linear,
    "normed_linear": normed_linear,
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "layer_norm": layer_norm,
    "add_layer_norm": add_layer_norm,
    "silu_and_mul": silu_and_mul,
    "decode_inputs": decode_inputs,
    "take_greedy": take_greedy,
}
