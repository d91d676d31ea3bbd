"""A scheduled step as one int32 array of a bucket's shape, so that a step is one upload.

Padding tokens are stored in block 0, the null block, which the core does not know: its block ids
are one less than ours.  No torch here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pagoda.platform import ScheduledBatch
from pagoda.platform.batch import Int32
from pagoda_xla.buckets import StepShape

NULL_BLOCK = 0


def field_sizes(shape: StepShape) -> dict[str, int]:
    """The fields in the order they lie in."""
    queries = shape.tiles * shape.tile if shape.tile > 1 else 0
    return {
        "token_ids": shape.tokens,  # below 0: what token_slots sampled last
        "token_slots": shape.tokens,
        "positions": shape.tokens,
        "cache_slots": shape.tokens,
        "block_tables": shape.rows * shape.blocks,
        "tile_rows": shape.tiles,
        "tile_starts": shape.tiles,  # position of the tile's first query
        "tile_lens": shape.tiles,  # real queries; 0: the tile is padding
        "tile_tokens": queries,  # the token of each query
        "token_places": shape.tokens if queries else 0,  # the query of each token
    }


def pack_step(batch: ScheduledBatch, shape: StepShape, block_size: int, spare_slot: int) -> Int32:
    """The step in ``shape``; ``spare_slot`` is what padding tokens have for theirs."""
    fields = {**_tokens(batch, shape, block_size, spare_slot), **_tiles(batch, shape)}
    table = batch.block_tables[0]
    fields["block_tables"] = table.padded(shape.rows, shape.blocks, NULL_BLOCK - 1).ravel() + 1
    parts = [_filled(fields[name], size) for name, size in field_sizes(shape).items() if size]
    return np.concatenate(parts)


def _filled(values: npt.NDArray[np.integer], size: int) -> Int32:
    padded = np.zeros(size, np.int32)
    padded[: len(values)] = values
    return padded


def _tokens(
    batch: ScheduledBatch, shape: StepShape, block_size: int, spare_slot: int
) -> dict[str, npt.NDArray[np.integer]]:
    slots = np.full(shape.tokens, spare_slot, np.int32)
    slots[: len(batch.token_ids)] = batch.slots[batch.rows]
    return {
        "token_ids": batch.token_ids,
        "token_slots": slots,
        "positions": batch.positions,
        "cache_slots": batch.cache_slots(block_size) + block_size,
    }


def _tiles(batch: ScheduledBatch, shape: StepShape) -> Mapping[str, npt.NDArray[np.integer]]:
    """Each row's queries cut into tiles, rows end to end."""
    size, num_rows = shape.tile, len(batch.slots)
    if size == 1:
        return {
            "tile_rows": np.arange(num_rows),
            "tile_starts": batch.context_lens,
            "tile_lens": np.ones(num_rows, np.int32),
        }
    counts = -(-batch.query_lens // size)
    rows = np.repeat(np.arange(num_rows), counts)
    before = np.cumsum(counts) - counts  # tiles of earlier rows
    done = (np.arange(len(rows)) - before[rows]) * size  # of the row's queries, in earlier tiles
    lens = np.minimum(batch.query_lens[rows] - done, size)
    offsets = np.arange(size)
    first = batch.query_start[:-1][rows] + done
    tokens = np.where(offsets < lens[:, None], first[:, None] + offsets, 0)
    within = batch.positions - batch.context_lens[batch.rows]
    return {
        "tile_rows": rows,
        "tile_starts": batch.context_lens[rows] + done,
        "tile_lens": lens,
        "tile_tokens": tokens.ravel(),
        "token_places": before[batch.rows] * size + within,
    }
