"""The model's small ops on Pagoda's C++ kernels: products with packed weights, norms, embeddings.

The other ops are torch's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pagoda_cpu.threads import Threads
from pagoda_kernels_cpu import native
from pagoda_torch.ops import Ops, reference
from pagoda_torch.ops.reference import Norm

QUANTIZATIONS = {"int8": "int8", "int4": "int8"}
"""What weights may be rounded to, and the head with them: its logits are worth the bits."""

GATED = {
    "silu_and_mul": "silu",
    "gelu_and_mul": "gelu",
    "gelu_tanh_and_mul": "gelu_tanh",
    "relu_and_mul": "relu",
}
PLAIN = {"relu": "relu", "silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_tanh"}


class CpuOps:
    """Overrides for a model in one dtype, whose weights may be rounded."""

    def __init__(self, dtype: torch.dtype, quantization: str | None, threads: Threads):
        self.dtype, self.threads = dtype, threads
        plain = str(dtype).removeprefix("torch.")
        self.format = quantization or plain
        self.head_format = QUANTIZATIONS[quantization] if quantization else plain

    def table(self) -> Mapping[str, Callable[..., Any]]:
        names = (
            *("linear", "normed_linear", "prepare_linear", "prepare_head", "embedding"),
            *("rms_norm", "add_rms_norm"),
        )
        return {name: getattr(self, name) for name in names}

    def prepare_linear(self, weight: Tensor | Sequence[Tensor]) -> Any:
        return self._packed(weight, self.format)

    def prepare_head(self, weight: Tensor | Sequence[Tensor]) -> Any:
        return self._packed(weight, self.head_format)

    def _packed(self, weight: Tensor | Sequence[Tensor], form: str) -> Any:
        self.threads.use()
        return native.Matrix([weight] if isinstance(weight, Tensor) else list(weight), form)

    def linear(self, x: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
        out = torch.empty(len(x), weight.outputs, dtype=x.dtype)
        weight.multiply(x.contiguous(), out, bias)
        return out

    def normed_linear(
        self,
        ops: Ops,
        x: Tensor,
        residual: Tensor | None,
        norm: Norm,
        weight: Any,
        bias: Tensor | None,
        activation: str | None,
    ) -> tuple[Tensor, Tensor]:
        """``ops.normed_linear``, in one call where norm and activation are the kernels'."""
        gain, shift, epsilon = norm
        kept = x if residual is None else residual
        gated = activation in GATED
        if shift is not None or (gated and not weight.can_gate):
            return reference.normed_linear(ops, x, residual, norm, weight, bias, activation)
        name = {**GATED, **PLAIN}[activation] if activation else "none"
        out = torch.empty(len(x), weight.outputs // (2 if gated else 1), dtype=x.dtype)
        weight.multiply_normed(x, residual, gain, epsilon, out, bias, name, gated)
        return out, kept

    def embedding(self, ids: Tensor, table: Any) -> Tensor:
        if isinstance(table, Tensor):
            return torch.nn.functional.embedding(ids, table)
        out = torch.empty(len(ids), table.inputs, dtype=self.dtype)
        table.take_rows(ids, out)
        return out

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(flat)
        native.rms_norm(flat, None, weight, epsilon, out)
        return out.view(x.shape)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x)
        native.rms_norm(x, residual, weight, epsilon, out)
        return out, residual
