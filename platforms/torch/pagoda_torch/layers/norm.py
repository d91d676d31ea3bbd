"""Normalisation layers."""

from __future__ import annotations

from torch import Tensor

from pagoda_torch.layers.context import ModelContext


class RMSNorm:
    """Root-mean-square norm, alone or after adding to the residual."""

    def __init__(self, context: ModelContext, size: int, epsilon: float):
        self.weight = context.empty(size)
        self.epsilon = epsilon
        self._norm, self._add_norm = context.ops.rms_norm, context.ops.add_rms_norm

    @property
    def parameters(self) -> tuple[Tensor, None, float]:
        """As ``ops.normed_linear`` takes them."""
        return self.weight, None, self.epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return self._norm(x, self.weight, self.epsilon)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of ``x + residual``, and the sum, written over ``residual``."""
        return self._add_norm(x, residual, self.weight, self.epsilon)

    def weights(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": self.weight}


class LayerNorm:
    """Mean and variance norm with weight and bias."""

    def __init__(self, context: ModelContext, size: int, epsilon: float):
        self.weight, self.bias = context.empty(size), context.empty(size)
        self.epsilon = epsilon
        self._norm, self._add_norm = context.ops.layer_norm, context.ops.add_layer_norm

    @property
    def parameters(self) -> tuple[Tensor, Tensor, float]:
        """As ``ops.normed_linear`` takes them."""
        return self.weight, self.bias, self.epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return self._norm(x, self.weight, self.bias, self.epsilon)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of ``x + residual``, and the sum, written over ``residual``."""
        return self._add_norm(x, residual, self.weight, self.bias, self.epsilon)

    def weights(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": self.weight, f"{name}.bias": self.bias}
