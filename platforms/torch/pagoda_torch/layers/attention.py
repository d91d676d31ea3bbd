"""The attention layer as models see it; the backend, cache and plan behind it are the runner's."""

from __future__ import annotations

from torch import Tensor

from pagoda_torch.attention import AttentionBackend, AttentionSpec
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.step import TorchStep


class Attention:
    """Causal attention over the paged cache.  ``backend`` and ``cache`` are bound by the runner."""

    backend: AttentionBackend
    cache: Tensor

    def __init__(self, context: ModelContext, spec: AttentionSpec):
        self.spec = spec
        context.attention_layers.append(self)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, step: TorchStep) -> Tensor:
        """q [T, heads, head size], k and v [T, kv heads, head size] -> [T, heads * head size]."""
        backend = self.backend
        return backend.forward(q, k, v, self.cache, step.plans[backend.name], self.spec)
