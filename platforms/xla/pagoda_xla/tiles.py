"""A packed step inside the graph: its fields as tensors, and queries cut into tiles."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pagoda_xla.buckets import StepShape
from pagoda_xla.packing import field_sizes


@dataclass(frozen=True)
class Tiles:
    """What attention needs of a step: N tiles of Q queries each, a row's own; all int32."""

    block_size: int
    cache_slots: Tensor  # [T]
    block_tables: Tensor  # [R, W]
    tile_rows: Tensor  # [N] the tile's row of block_tables
    tile_starts: Tensor  # [N] position of its first query
    tile_lens: Tensor  # [N] real queries; 0: padding
    tile_tokens: Tensor | None  # [N * Q]; None: a tile is a token
    token_places: Tensor | None  # [T]

    def cut(self, x: Tensor) -> Tensor:
        """[T, ...] by tokens -> [N, Q, ...]."""
        if self.tile_tokens is None:
            return x.unsqueeze(1)
        tiled = x.index_select(0, self.tile_tokens)
        return tiled.view(len(self.tile_rows), -1, *x.shape[1:])

    def join(self, x: Tensor) -> Tensor:
        """[N, Q, ...] -> [T, ...] by tokens."""
        flat = x.reshape(-1, *x.shape[2:])
        return flat if self.token_places is None else flat.index_select(0, self.token_places)


@dataclass(frozen=True)
class UnpackedStep:
    """A step's tokens, with what they are attended by."""

    token_ids: Tensor  # [T] below 0: what the slot sampled last
    token_slots: Tensor  # [T]
    positions: Tensor  # [T]
    tiles: Tiles


def unpack_step(packed: Tensor, shape: StepShape, block_size: int) -> UnpackedStep:
    """What ``packing.pack_step`` put together."""
    found, start = {}, 0
    for name, size in field_sizes(shape).items():
        if size:
            found[name] = packed[start : start + size]
        start += size
    tiles = Tiles(
        block_size=block_size,
        cache_slots=found["cache_slots"],
        block_tables=found["block_tables"].view(shape.rows, shape.blocks),
        tile_rows=found["tile_rows"],
        tile_starts=found["tile_starts"],
        tile_lens=found["tile_lens"],
        tile_tokens=found.get("tile_tokens"),
        token_places=found.get("token_places"),
    )
    return UnpackedStep(found["token_ids"], found["token_slots"], found["positions"], tiles)
