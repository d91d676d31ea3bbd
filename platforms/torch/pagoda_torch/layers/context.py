"""What a model is built with: sizes, dtype, device, ops; and the layers it turned out to have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pagoda.platform import ModelInfo
from pagoda_torch.ops import Ops

if TYPE_CHECKING:
    from pagoda_torch.layers.attention import Attention
    from pagoda_torch.layers.linear import Linear


@dataclass
class ModelContext:
    """Handed to a model's constructor; layers enter themselves into the two lists."""

    info: ModelInfo
    max_model_len: int
    dtype: torch.dtype
    device: torch.device
    ops: Ops = field(default_factory=Ops)
    trust_remote_code: bool = False
    attention_layers: list[Attention] = field(default_factory=list)
    linears: list[Linear] = field(default_factory=list)

    def empty(self, *shape: int) -> Tensor:
        """A weight of the model's dtype on its device, to be filled by the loader."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)
