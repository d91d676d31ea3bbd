"""Paged attention by the C++ kernels: one call stores a step's keys and values, one attends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda.platform import InvalidValue, UnsupportedFeature
from pagoda_cpu.threads import Threads
from pagoda_kernels_cpu import native
from pagoda_torch.attention import Angles, AttentionBackend, AttentionSpec, DecodeRows
from pagoda_torch.gather_attention import GatherAttention
from pagoda_torch.step import TorchStep

SCALE_BYTES = 4
"""One float32 a token, head, and keys or values, beside an int8 cache's numbers."""


def cpu_attention(name: str, kv_dtype: str, threads: Threads) -> AttentionBackend:
    """The backend that ``--cpu-attention`` names."""
    if name == "native":
        return NativeAttention(kv_dtype, threads)
    if name != "gather":
        raise InvalidValue("cpu_attention", name, "must be native or gather")
    if kv_dtype != "auto":
        raise UnsupportedFeature(
            f"attention backend {name!r} has no kv_cache_dtype {kv_dtype!r}",
            "--cpu-attention native, or leave --kv-cache-dtype out",
        )
    return GatherAttention()


@dataclass(frozen=True)
class NativePlan:
    """A step's rows as the kernels take them."""

    block_size: int
    cache_slots: Tensor  # [T] int64
    blocks: npt.NDArray[np.int32]  # [R, W]
    query_start: npt.NDArray[np.int32]  # [R + 1]
    seq_lens: npt.NDArray[np.int32]  # [R]


class NativeAttention:
    """The backend; caches are [blocks, kv heads, page], a page as the kernels lay it out."""

    name = "native"
    can_record = False

    def __init__(self, kv_dtype: str, threads: Threads):
        self.kv_dtype, self.threads = kv_dtype, threads

    def refuses(self, layer: AttentionSpec) -> str | None:
        return None

    def cache_shape(
        self, num_blocks: int, block_size: int, layer: AttentionSpec
    ) -> tuple[int, ...]:
        each = layer.head_size + (SCALE_BYTES if self.kv_dtype == "int8" else 0)
        return (num_blocks, layer.num_kv_heads, 2 * block_size * each)

    def copy_blocks(self, cache: Tensor, source: Tensor, destination: Tensor) -> None:
        cache.index_copy_(0, destination, cache.index_select(0, source))

    def plan(self, step: TorchStep) -> NativePlan:
        self.threads.use()
        batch = step.batch
        return NativePlan(
            block_size=step.block_size,
            cache_slots=step.cache_slots,
            blocks=np.ascontiguousarray(batch.block_tables[0].ids),
            query_start=np.ascontiguousarray(batch.query_start),
            seq_lens=np.ascontiguousarray(batch.seq_lens, np.int32),
        )

    def plan_recorded(self, rows: DecodeRows) -> NativePlan:
        raise NotImplementedError("nothing is recorded on a CPU")

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, cache: Tensor, plan: NativePlan, layer: AttentionSpec
    ) -> Tensor:
        native.store_kv(k, v, cache, plan.cache_slots, plan.block_size)
        return self._attend(q, cache, plan, layer)

    def forward_turning(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cache: Tensor,
        plan: NativePlan,
        layer: AttentionSpec,
        angles: Angles,
        norms: tuple[Tensor, Tensor, float] | None,
    ) -> Tensor:
        weights = norms or (None, None, 0.0)
        slots, size = plan.cache_slots, plan.block_size
        native.store_kv(k, v, cache, slots, size, q, *angles, *weights)
        return self._attend(q, cache, plan, layer)

    def _attend(self, q: Tensor, cache: Tensor, plan: NativePlan, layer: AttentionSpec) -> Tensor:
        out = torch.empty((len(q), layer.num_heads * layer.head_size), dtype=q.dtype)
        rows = plan.blocks, plan.query_start, plan.seq_lens
        shape = plan.block_size, layer.scale, layer.window, layer.soft_cap
        native.paged_attention(q, cache, out, *rows, *shape)
        return out
