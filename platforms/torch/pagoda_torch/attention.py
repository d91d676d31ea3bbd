"""What paged attention is to the torch family: the spec of a layer and the protocol of a backend.

Implementations: ``gather_attention.py`` here for any device, better ones with the platforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pagoda_torch.step import TorchStep


@dataclass(frozen=True)
class AttentionSpec:
    """The shape of one attention layer."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int | None = None  # a token sees itself and the window - 1 before it
    soft_cap: float | None = None  # scores become cap * tanh(score / cap)


class AttentionBackend(Protocol):
    """Paged attention on one kind of device.  Owns the cache's layout and the per-step plan."""

    name: str

    def refuses(self, layer: AttentionSpec) -> str | None:
        """Why this backend cannot serve such a layer; None: it can."""
        ...

    def cache_shape(
        self, num_blocks: int, block_size: int, layer: AttentionSpec
    ) -> tuple[int, ...]:
        """The shape of one layer's cache; blocks come first or second, the runner does not care."""
        ...

    def copy_blocks(self, cache: Tensor, source: Tensor, destination: Tensor) -> None:
        """Copy whole blocks of one layer's cache; block ids are [C] int64 on the device."""
        ...

    def plan(self, step: TorchStep, into: Any = None) -> Any:
        """What all layers of a step share, made once.  ``into``: a plan of a recorded graph, whose
        buffers are to be refilled."""
        ...

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: Any, layer: AttentionSpec
    ) -> Tensor:
        """Store the step's keys and values, then attend.

        q: [T, heads, head size]; k, v: [T, kv heads, head size], any strides with the last
        dimension dense.  Returns [T, heads * head size].  Cache positions that no token has
        written yet hold anything, NaN included, and must not be seen."""
        ...
