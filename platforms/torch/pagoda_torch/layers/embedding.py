"""Token embeddings and the head that turns hidden states into logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.linear import Linear


class Embedding:
    """Rows of a table by id."""

    def __init__(self, context: ModelContext, num_embeddings: int, size: int):
        self.weight = context.empty(num_embeddings, size)

    def __call__(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)

    def weights(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": self.weight}


class LMHead(Linear):
    """[N, H] -> logits [N, V]; shares the embedding's table when ``tied`` is given."""

    def __init__(
        self, context: ModelContext, hidden_size: int, vocab_size: int, tied: Embedding | None
    ):
        self.tied = tied is not None
        if tied is None:
            super().__init__(context, hidden_size, vocab_size)
        else:  # never prepared: the embedding reads the same table
            self.weight, self.bias, self._ops = tied.weight, None, context.ops

    def weights(self, *names: str, transposed: bool = False) -> dict[str, Tensor]:
        return {} if self.tied else super().weights(*names, transposed=transposed)
