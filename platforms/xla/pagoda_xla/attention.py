"""Paged attention for graphs of static shapes: the cache and everything around the kernel.

A layer's cache is ``[slots, kv heads * 2 * width]``: a row has a key and a value of each kv head in
turn, filled up with zeros to the kernel's width.  It is written by ``index_copy_`` on the tensor
itself: through a view XLA would copy the whole cache."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pagoda.platform import PagodaError
from pagoda_torch.attention import Angles, AttentionSpec, DecodeRows
from pagoda_torch.step import TorchStep
from pagoda_xla.buckets import StepShape
from pagoda_xla.tiles import Tiles


class Kernel(Protocol):
    """What attends; the rest is shared."""

    name: str

    def refuses(self, layer: AttentionSpec, shape: StepShape, block_size: int) -> str | None:
        """Why the kernel cannot serve such a layer in steps of this shape; None: it can."""
        ...

    def stored_width(self, head_size: int) -> int:
        """Elements that a key or a value takes in the cache."""
        ...

    def attend(self, q: Tensor, cache: Tensor, tiles: Tiles, layer: AttentionSpec) -> Tensor:
        """q [N, kv heads, G * Q, head size] -> like q: row m is the tile's query m % Q under the
        m // Q-th of the G query heads that share a kv head.

        A query sees the keys of its row up to its own position; all are stored by now.  Cache
        positions that nobody wrote hold anything, NaN included; tiles of padding come last."""
        ...


class XlaAttention:
    """Implements ``pagoda_torch.attention.TurningAttention`` around a kernel."""

    can_record = False

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.name = kernel.name

    def refuses(self, layer: AttentionSpec) -> str | None:
        return None  # by step shape: the runner asks the kernel itself

    def cache_shape(
        self, num_blocks: int, block_size: int, layer: AttentionSpec
    ) -> tuple[int, ...]:
        width = self.kernel.stored_width(layer.head_size)
        return (num_blocks * block_size, layer.num_kv_heads * 2 * width)

    def copy_blocks(self, cache: Tensor, source: Tensor, destination: Tensor) -> None:
        """Copies by position, not by block: source and destination are cache slots."""
        cache.index_copy_(0, destination.long(), cache.index_select(0, source))

    def plan(self, step: TorchStep) -> Any:
        raise PagodaError("attention on XLA is planned by the packed step")

    def plan_recorded(self, rows: DecodeRows) -> Any:
        raise PagodaError("steps on XLA are compiled, not recorded")

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: Tiles, layer: AttentionSpec
    ) -> Tensor:
        size, heads = layer.head_size, layer.num_kv_heads
        missing = self.kernel.stored_width(size) - size
        both = torch.stack((k, v), 2)  # [T, kv heads, 2, head size]
        rows = F.pad(both, (0, missing)).reshape(len(k), -1)
        cache.index_copy_(0, plan.cache_slots.long(), rows)
        tiled = plan.cut(q.reshape(len(q), heads, -1, size))  # [N, Q, kv heads, G, head size]
        num_tiles, num_queries = tiled.shape[:2]
        turned = tiled.permute(0, 2, 3, 1, 4).reshape(num_tiles, heads, -1, size)
        found = self.kernel.attend(turned, cache, plan, layer)
        found = found.view(num_tiles, heads, -1, num_queries, size).permute(0, 3, 1, 2, 4)
        return plan.join(found).reshape(len(q), -1)

    def forward_turning(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: Tiles,
        layer: AttentionSpec,
        angles: Angles,
        norms: tuple[Tensor, Tensor, float] | None,
    ) -> Tensor:
        if norms is not None:
            q = F.rms_norm(q, q.shape[-1:], norms[0], norms[2])
            k = F.rms_norm(k, k.shape[-1:], norms[1], norms[2])
        return self.forward(_turned(q, angles), _turned(k, angles), v, cache, plan, layer)


def _turned(x: Tensor, angles: Angles) -> Tensor:
    """x [T, heads, head size] rotated, first half against second half; not in place."""
    cos, sin = angles
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin
