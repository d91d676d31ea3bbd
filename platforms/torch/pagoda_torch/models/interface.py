"""What a model is to the runner and the loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from pagoda_torch.layers.context import ModelContext
from pagoda_torch.step import TorchStep


class CausalLM(Protocol):
    """A decoder-only language model.  The constructor allocates weights and declares layers;
    nothing is read from disk before the loader fills what ``weights`` returns."""

    can_record: bool
    """``forward`` and ``logits`` launch the same work whatever the values of their arguments, and
    read no value back: a decode step can be recorded and replayed."""

    def __init__(self, context: ModelContext): ...

    def forward(self, token_ids: Tensor, positions: Tensor, step: TorchStep) -> Tensor:
        """token_ids, positions [T] int64 -> hidden states [T, H], the final norm applied."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states of the rows that sample or score [N, H] -> logits [N, V]."""
        ...

    def weights(self) -> Mapping[str, Tensor]:
        """Every checkpoint tensor the model needs, by its name there, as the view it is copied
        into (a slice of a stacked weight, a transposed view: anything ``copy_`` accepts)."""
        ...

    def checkpoint_name(self, name: str) -> str | None:
        """The key in ``weights`` that a checkpoint's tensor name stands for; None: not needed."""
        ...
