"""Matrix products for CPUs: oneDNN's where it is ahead, and 16-bit weights on CPUs without 16-bit
products.  The other ops are torch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 1 << 18
"""Weights from this many elements on are worth oneDNN's 20 us a call."""

CHUNK = 1 << 20
"""Weights widened at a time, in elements: 4 MB of float32, which stays in cache."""

FEW_ROWS = 2
"""Up to so many rows torch's own 16-bit product, one pass over the weight a row, is as fast."""


def cpu_ops(dtype: str) -> Mapping[str, Callable[..., Any]]:
    """The overrides for a model in this dtype on this CPU."""
    ops = torch.ops.mkldnn
    if not (torch._C._has_mkldnn and hasattr(ops, "_linear_pointwise")):
        return {} if dtype == "float32" else {"linear": WidenedLinear()}
    native = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    if dtype in native and not getattr(ops, native[dtype])():
        return {"linear": WidenedLinear()}
    return {"linear": onednn_linear, "prepare_linear": packed}


def packed(weight: Tensor) -> Tensor:
    """The weight in the layout oneDNN's product likes best, which nothing else can read."""
    if weight.numel() < LARGE:
        return weight
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
    return found


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Ahead of torch's own (MKL's) from a few rows on, packed or not: see the README."""
    if weight.numel() < LARGE:
        return F.linear(x, weight, bias)
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class WidenedLinear:
    """16-bit products by way of float32, a cache-sized piece of the weight at a time.

    Without instructions for 16-bit products torch does one slow pass over the weight for every row;
    widening costs one pass for all rows, and float32 products are fast."""

    def __init__(self) -> None:
        self.piece = torch.empty(CHUNK)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        num_outputs, num_inputs = weight.shape
        if len(x) <= FEW_ROWS or num_inputs > CHUNK:
            return F.linear(x, weight, bias)
        wide = x.float()
        output = x.new_empty(len(x), num_outputs)
        step = CHUNK // num_inputs
        for start in range(0, num_outputs, step):
            end = min(start + step, num_outputs)
            piece = self.piece[: (end - start) * num_inputs].view(end - start, num_inputs)
            product = wide @ piece.copy_(weight[start:end]).t()
            output[:, start:end] = product if bias is None else product.add_(bias[start:end])
        return output
