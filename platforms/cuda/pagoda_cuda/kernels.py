"""Which kernels an architecture gets: Triton's, and Hopper's own for whole prompts and for linear
layers of some rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pagoda_cuda.attention import HopperAttention
from pagoda_cuda.cuts import Cut, cut_of
from pagoda_cuda.hopper_products import product
from pagoda_kernels_triton.one_row import ACTIVATIONS, GATED
from pagoda_kernels_triton.tuning import target_of
from pagoda_torch.gpu.graphs import CudaGraphs
from pagoda_torch.ops import Ops, reference
from pagoda_torch.triton import ops as triton_ops
from pagoda_torch.triton.attention import TritonAttention


class HopperProducts:
    """Two ops, for some rows, in recorded steps alone: from the host a launch takes several times
    as long as one of the vendor's library."""

    def __init__(self, graphs: CudaGraphs):
        self.graphs = graphs

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        cut = self._cut(x, weight, None)
        if cut is None:
            return triton_ops.linear(x, weight, bias)
        return product(x, weight, bias, None, cut)

    def normed_linear(
        self,
        ops: Ops,
        x: Tensor,
        residual: Tensor | None,
        norm: reference.Norm,
        weight: Tensor,
        bias: Tensor | None,
        activation: str | None,
    ) -> tuple[Tensor, Tensor]:
        """Two kernels: the norm's, and the rest."""
        cut = self._cut(x, weight, activation) if activation in ACTIVATIONS else None
        if cut is None:
            return triton_ops.normed_linear(ops, x, residual, norm, weight, bias, activation)
        normed, kept = reference.added_norm(ops, x, residual, norm)
        # Without an activation it is attention that follows, in many programs.
        return product(normed, weight, bias, activation, cut, activation is not None), kept

    def _cut(self, x: Tensor, weight: Tensor, activation: str | None) -> Cut | None:
        if not self.graphs.recording or x.element_size() != 2 or x.shape[1] % 8:
            return None
        if not x.is_contiguous() or not weight.is_contiguous():  # as the copy engine takes them
            return None
        gated = activation == GATED
        num_outputs = weight.shape[0] // 2 if gated else weight.shape[0]
        return cut_of(len(x), num_outputs, x.shape[1], gated, target_of(x.device).num_units)


def kernels_for(
    capability: tuple[int, int], graphs: CudaGraphs
) -> tuple[TritonAttention, Mapping[str, Callable[..., Any]]]:
    """The attention backend, and ops by their names in ``pagoda_torch.ops.Ops``."""
    if capability < (9, 0):
        return TritonAttention(), triton_ops.OPS
    attention = HopperAttention(capability)
    if capability[0] != 9:
        return attention, triton_ops.OPS
    products = HopperProducts(graphs)
    own: Mapping[str, Callable[..., Any]] = {
        "linear": products.linear,
        "normed_linear": products.normed_linear,
    }
    return attention, {**triton_ops.OPS, **own}
