"""The attention layer as models see it; the backend, cache and plan behind it are the runner's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pagoda_torch.attention import Angles, AttentionBackend, AttentionSpec
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.norm import RMSNorm
from pagoda_torch.layers.rotary import Rotary
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

    def stacked(
        self, qkv: Tensor, norms: Sequence[RMSNorm], rotary: Rotary, angles: Angles, step: TorchStep
    ) -> Tensor:
        """The same of one product [T, heads + 2 kv heads, head size], which is overwritten: q and k
        are normed by head, where ``norms`` has one for each, and rotated first."""
        spec, backend = self.spec, self.backend
        num_turned = spec.num_heads + spec.num_kv_heads
        qk, v = qkv[:, :num_turned], qkv[:, num_turned:]
        q, k = qk[:, : spec.num_heads], qk[:, spec.num_heads :]
        # Asking whether it is a TurningAttention would cost 10 us a layer.
        turn = getattr(backend, "forward_turning", None)
        if turn is not None and angles[0].shape[-1] == spec.head_size:
            plan = step.plans[backend.name]
            weights = (norms[0].weight, norms[1].weight, norms[0].epsilon) if norms else None
            turned: Tensor = turn(q, k, v, self.cache, plan, spec, angles, weights)
            return turned
        if norms:
            q.copy_(norms[0](q))
            k.copy_(norms[1](k))
        rotary(qk, angles)
        return self(q, k, v, step)
