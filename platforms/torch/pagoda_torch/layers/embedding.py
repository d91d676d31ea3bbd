"""Token embeddings and the head that turns hidden states into logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.linear import Linear


class Embedding:
    """Rows of a table by id."""

    def __init__(self, context: ModelContext, num_embeddings: int, size: int):
        self.weight: Any = context.empty(num_embeddings, size)
        self._embedding = context.ops.embedding

    def __call__(self, ids: Tensor) -> Tensor:
        return self._embedding(ids, self.weight)

    def weights(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": self.weight}


class LMHead(Linear):
    """[N, H] -> logits [N, V]; shares the embedding's table when ``tied`` is given."""

    def __init__(
        self, context: ModelContext, hidden_size: int, vocab_size: int, tied: Embedding | None
    ):
        self.tied, self.embedding = tied is not None, tied
        if tied is None:
            super().__init__(context, hidden_size, vocab_size)
        else:
            self.weight, self.bias, self._ops = tied.weight, None, context.ops
            context.linears.append(self)

    def weights(self, *names: str, transposed: bool = False) -> dict[str, Tensor]:
        return {} if self.tied else super().weights(*names, transposed=transposed)

    def prepare(self, parts: Sequence[Tensor] = ()) -> None:
        """One table for both, where it is shared."""
        self.weight = self._ops.prepare_head(parts or self.weight)
        if self.embedding is not None:
            self.embedding.weight = self.weight
