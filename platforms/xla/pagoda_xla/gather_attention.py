"""The kernel in plain torch: gather every tile's keys into one dense batch, then attend.

Correct on every device; its work space is tiles times context, so it is for small models, short
contexts and devices without a kernel of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from pagoda_torch.attention import AttentionSpec
from pagoda_xla.buckets import StepShape
from pagoda_xla.tiles import Tiles

UNSEEN = -0.7 * torch.finfo(torch.float32).max
"""Score of a key that is not seen: finite, lest a tile of padding become NaN."""


class GatherKernel:
    """Implements ``attention.Kernel``."""

    name = "gather"

    def refuses(self, layer: AttentionSpec, shape: StepShape, block_size: int) -> str | None:
        return None

    def stored_width(self, head_size: int) -> int:
        return head_size

    def attend(self, q: Tensor, cache: Tensor, tiles: Tiles, layer: AttentionSpec) -> Tensor:
        heads, num_rows = q.shape[1:3]
        keys, values = self._gathered(cache, tiles, heads)
        scores = (q.float() @ keys.float().transpose(2, 3)) * layer.scale
        if layer.soft_cap is not None:
            scores = torch.tanh(scores / layer.soft_cap) * layer.soft_cap
        num_queries = num_rows // (layer.num_heads // heads)
        key = torch.arange(keys.shape[2], dtype=torch.int32, device=q.device)
        query = torch.arange(num_rows, dtype=torch.int32, device=q.device) % num_queries
        own = tiles.tile_starts[:, None] + query  # [N, M] positions of the queries
        stored = key < (tiles.tile_starts + tiles.tile_lens)[:, None]  # [N, K]
        seen = (key <= own[..., None]) & stored[:, None]
        if layer.window is not None:
            seen = seen & (key > own[..., None] - layer.window)
        weights = torch.softmax(torch.where(seen[:, None], scores, UNSEEN), -1)
        # What nobody wrote may be NaN, which a weight of 0 does not remove.
        values = torch.where(stored[:, None, :, None], values.float(), 0.0)
        return (weights @ values).to(q.dtype)

    def _gathered(self, cache: Tensor, tiles: Tiles, heads: int) -> tuple[Tensor, Tensor]:
        """Keys and values [N, kv heads, K, head size] of every tile's row, by position."""
        blocks = tiles.block_tables.index_select(0, tiles.tile_rows)  # [N, W]
        offsets = torch.arange(tiles.block_size, dtype=torch.int32, device=cache.device)
        slots = blocks[..., None] * tiles.block_size + offsets
        rows = cache.index_select(0, slots.view(-1)).view(
            len(blocks), -1, heads, 2, cache.shape[1] // heads // 2
        )
        keys, values = rows.permute(3, 0, 2, 1, 4).unbind(0)
        return keys, values
