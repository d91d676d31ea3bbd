"""What paged attention is to the torch family: the spec of a layer and the protocol of a backend.

Implementations: ``gather_attention.py`` here for any device, better ones with the platforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@dataclass(frozen=True)
class SharedRows:
    """Rows that begin with the same blocks, in buffers like those of ``DecodeRows``."""

    members: Tensor  # [N] int32 the rows that do, then anything
    extent: Tensor  # [2] int32 how many rows those are, and how many keys they share
    own_start: Tensor  # [N] int32 a row's first key that is not shared; 0: it shares none


@dataclass(frozen=True)
class DecodeRows:
    """N rows of one token each in buffers that a recorded step finds refilled at every replay."""

    lens: Tensor  # [N] int32 tokens cached, the row's own included; 0: the row is padding
    cache_slots: Tensor  # [N] int64; -1: nothing is to be stored
    block_start: Tensor  # [N] int32 where in ``blocks`` the row's block ids begin
    blocks: Tensor  # int32
    order: Tensor | None = None  # [N] int32 the rows by falling length
    shared: SharedRows | None = None  # for a backend that makes use of it


class AttentionBackend(Protocol):
    """Paged attention on one kind of device.  Owns the cache's layout and the per-step plan."""

    name: str
    can_record: bool  # decode steps can be recorded: ``plan_recorded`` makes their plan

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

    def plan(self, step: TorchStep) -> Any:
        """What all layers of a step share, made once."""
        ...

    def plan_recorded(self, rows: DecodeRows) -> Any:
        """The plan of a decode step that is recorded once and replayed: nothing that is launched
        may depend on the rows' values.  Asked only where ``can_record``."""
        ...

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: Any, layer: AttentionSpec
    ) -> Tensor:
        """Store the step's keys and values, then attend.

        q: [T, heads, head size]; k, v: [T, kv heads, head size], any strides with the last
        dimension dense.  Returns [T, heads * head size].  Cache positions that no token has
        written yet hold anything, NaN included, and must not be seen."""
        ...


Angles = tuple[Tensor, Tensor]
"""cos and sin [T, 1, rotated part of a head], as ``ops.rotary`` takes them."""


@runtime_checkable
class TurningAttention(AttentionBackend, Protocol):
    """A backend that norms and rotates queries and keys on their way to the cache."""

    def forward_turning(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: Any,
        layer: AttentionSpec,
        angles: Angles,
        norms: tuple[Tensor, Tensor, float] | None,
    ) -> Tensor:
        """``forward`` of q and k that are not rotated yet, nor normed by head; whole heads turn.

        norms: the weights [head size] of q's and k's RMS norm, and epsilon.  q may be
        overwritten."""
        ...
