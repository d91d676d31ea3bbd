"""Linear layers; several of a checkpoint's may be stacked into one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.norm import LayerNorm, RMSNorm


class Linear:
    """y = x W^T + b, over one checkpoint tensor or over several stacked along the outputs."""

    prepares_early = True  # as soon as the weight is whole, with other tensors still to be read

    def __init__(
        self,
        context: ModelContext,
        in_features: int,
        out_features: int | Sequence[int],
        bias: bool = False,
    ):
        self.sizes = [out_features] if isinstance(out_features, int) else list(out_features)
        self.weight: Any = context.empty(sum(self.sizes), in_features)
        self.bias = context.empty(sum(self.sizes)) if bias else None
        self._ops = context.ops
        context.linears.append(self)

    def __call__(self, x: Tensor) -> Tensor:
        return self._ops.linear(x, self.weight, self.bias)

    def after(
        self,
        norm: RMSNorm | LayerNorm,
        x: Tensor,
        residual: Tensor | None,
        activation: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``activation``, an op's name, of the product with the norm of ``x + residual``, and that
        sum; ``residual`` may be overwritten, None counts as 0."""
        return self._ops.normed_linear(
            self._ops, x, residual, norm.parameters, self.weight, self.bias, activation
        )

    def weights(self, *names: str, transposed: bool = False) -> dict[str, Tensor]:
        """Views for the loader to fill: ``<name>.weight`` (and ``.bias``), one name a part.

        transposed: the checkpoint keeps [inputs, outputs], as GPT-2 does."""
        views: dict[str, Tensor] = {}
        for name, weight in zip(names, torch.split(self.weight, self.sizes), strict=True):
            views[f"{name}.weight"] = weight.t() if transposed else weight
        if self.bias is not None:
            for name, bias in zip(names, torch.split(self.bias, self.sizes), strict=True):
                views[f"{name}.bias"] = bias
        return views

    def prepare(self, parts: Sequence[Tensor] = ()) -> None:
        """Let the platform lay the weight out as its product likes it, once: the loaded one, or
        the parts that it is stacked of."""
        self.weight = self._ops.prepare_linear(parts or self.weight)
