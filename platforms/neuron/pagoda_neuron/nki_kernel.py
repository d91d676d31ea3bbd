"""pagoda-kernels-nki as the XLA runner's attention kernel: positions become slots in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pagoda_kernels_nki.limits import CHUNK, refusal
from pagoda_torch.attention import AttentionSpec
from pagoda_xla.buckets import StepShape
from pagoda_xla.tiles import Tiles


class NkiKernel:
    """Implements ``pagoda_xla.attention.Kernel``; ``call`` is what runs the NKI function on tensors
    of the graph: itself, where torch-neuronx has taken it in."""

    name = "nki"

    def __init__(self, item_bytes: int, call: Callable[..., Tensor] | None = None):
        self.item_bytes = item_bytes
        self._call = call

    def refuses(self, layer: AttentionSpec, shape: StepShape, block_size: int) -> str | None:
        rows = layer.num_heads // layer.num_kv_heads * shape.tile
        return refusal(layer.num_kv_heads, rows, layer.head_size, self.item_bytes)

    def stored_width(self, head_size: int) -> int:
        return head_size

    def attend(self, q: Tensor, cache: Tensor, tiles: Tiles, layer: AttentionSpec) -> Tensor:
        scale = layer.scale / layer.soft_cap if layer.soft_cap else layer.scale
        turned = (q.float() * scale).to(q.dtype).transpose(2, 3).contiguous()
        num_queries = q.shape[2] // (layer.num_heads // layer.num_kv_heads)
        found = self._paged_attention()(
            turned,
            cache,
            slots_of(tiles),
            positions_of(tiles, q.shape[2], num_queries),
            window=layer.window or 0,
            soft_cap=layer.soft_cap or 0.0,
        )
        # Tiles of padding saw the null block, which may hold anything.
        live = (tiles.tile_lens > 0)[:, None, None, None]
        return torch.where(live, found, torch.zeros_like(found))

    def _paged_attention(self) -> Callable[..., Any]:
        if self._call is None:
            from pagoda_kernels_nki.attention import paged_attention

            self._call = paged_attention
        return self._call


def slots_of(tiles: Tiles) -> Tensor:
    """[N, S, 1] int32: the slot of each position of a tile's request; past its last, its last."""
    tables = tiles.block_tables.index_select(0, tiles.tile_rows)  # [N, W]
    offset = torch.arange(tiles.block_size, dtype=torch.int32, device=tables.device)
    slots = (tables[..., None] * tiles.block_size + offset).flatten(1)
    slots = F.pad(slots, (0, -slots.shape[1] % CHUNK))
    position = torch.arange(slots.shape[1], dtype=torch.int32, device=tables.device)
    last = (tiles.tile_starts + tiles.tile_lens - 1).clamp(min=0)[:, None]
    end = slots.gather(1, last.long())
    return torch.where(position <= last, slots, end)[..., None]


def positions_of(tiles: Tiles, num_rows: int, num_queries: int) -> Tensor:
    """[N, M, 1] float32: row m is the tile's query m % Q."""
    query = torch.arange(num_rows, dtype=torch.int32, device=tiles.tile_starts.device) % num_queries
    return (tiles.tile_starts[:, None] + query).float()[..., None]
