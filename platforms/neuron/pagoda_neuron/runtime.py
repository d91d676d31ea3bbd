"""torch-xla's runtime on a NeuronCore, whose free memory nobody can be asked for: it is counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pagoda_xla.torch_xla_runtime import TorchXlaRuntime


class NeuronRuntime(TorchXlaRuntime):
    """Counts what the runner puts on the core."""

    def __init__(self, core_bytes: int):
        super().__init__()
        self._core_bytes = core_bytes
        self._held_bytes = 0

    def memory(self) -> tuple[int, int]:
        if self.emulated:
            return super().memory()
        return self._core_bytes - self._held_bytes, self._core_bytes

    def shard(self, tensor: Tensor, axis: int | None) -> Tensor:
        self._held_bytes += tensor.numel() * tensor.element_size()
        return super().shard(tensor, axis)

    def filled(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        value: float,
        axis: int | None = None,
    ) -> Tensor:
        made = super().filled(shape, dtype, value, axis)
        self._held_bytes += made.numel() * made.element_size()
        return made
