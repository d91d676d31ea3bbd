"""Paged attention on Hopper and later: the Triton kernels, but prompts with nothing cached before
attend over their own keys as the product left them."""

from __future__ import annotations

import torch
from torch import Tensor

from pagoda_cuda import dense, hopper_dense
from pagoda_torch.attention import AttentionSpec
from pagoda_torch.triton.attention import Prompts, TritonAttention, Turning


class HopperAttention(TritonAttention):
    """``TritonAttention`` with a kernel of its own for whole prompts, where the cache rounds
    nothing that a prompt in pieces would read back."""

    def __init__(self, capability: tuple[int, int]):
        if capability[0] == 9:  # the products that Gluon's kernel is made of are Hopper's alone
            self._attend, self._rows = hopper_dense.dense_attention, hopper_dense.ROWS
        else:
            self._attend, self._rows = dense.dense_attention, dense.TILE.rows

    def attend_prompts(
        self,
        step: Turning,
        cache: Tensor,
        out: Tensor,
        prompts: Prompts,
        blocks: Tensor,
        layer: AttentionSpec,
    ) -> None:
        if not _fits(step, layer) or cache.dtype != step.v.dtype:
            super().attend_prompts(step, cache, out, prompts, blocks, layer)
            return
        q = torch.empty_like(out)
        k = torch.empty((len(q), step.k[0].numel()), dtype=q.dtype, device=q.device)
        step.store(q, cache, k)
        q, k = q.view(step.q.shape), k.view(step.k.shape)
        tiles = prompts.tiled(self._rows, whole=True)
        if len(tiles):
            self._attend(q, k, step.v, out, tiles, layer.scale)
        self.attend_cached(q, cache, out, prompts, blocks, layer, whole=False)


def _fits(step: Turning, layer: AttentionSpec) -> bool:
    plain = layer.window is None and layer.soft_cap is None and layer.head_size in (64, 128)
    aligned = step.v.stride(0) % 8 == 0 and step.v.data_ptr() % 16 == 0
    return plain and aligned and step.v.stride(1) == layer.head_size and step.v.element_size() == 2
