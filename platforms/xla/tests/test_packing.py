"""A step packed into one array, and unpacked as the graph does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pagoda_xla.buckets import StepShape
from pagoda_xla.graphs import padding
from pagoda_xla.packing import field_sizes, pack_step
from pagoda_xla.tiles import unpack_step

CASES = [
    ([1, 1, 1], [4, 0, 17], StepShape(4, 3, 4, 1)),
    ([9, 1, 4], [0, 33, 16], StepShape(32, 4, 4, 4)),
    ([3], [0], StepShape(8, 1, 2, 8)),
    ([32, 1], [0, 5], StepShape(33, 2, 2, 8)),
]


@pytest.mark.parametrize(("queries", "contexts", "shape"), CASES)
def test_fields_come_back(
    rng: np.random.Generator,
    ragged: Callable,
    queries: list[int],
    contexts: list[int],
    shape: StepShape,
) -> None:
    batch = ragged(rng, queries, contexts, 16)
    packed = pack_step(batch, shape, 16, spare_slot=9)
    assert packed.dtype == np.int32 and len(packed) == sum(field_sizes(shape).values())
    step = unpack_step(torch.from_numpy(packed), shape, 16)
    num = len(batch.token_ids)
    assert step.token_ids[:num].tolist() == batch.token_ids.tolist()
    assert step.positions[:num].tolist() == batch.positions.tolist()
    assert step.token_slots.tolist() == [*batch.slots[batch.rows], *[9] * (shape.tokens - num)]
    # The core's block b is ours b + 1; padding is stored in block 0.
    assert step.tiles.cache_slots[:num].tolist() == (batch.cache_slots(16) + 16).tolist()
    assert not step.tiles.cache_slots[num:].any()
    tables = step.tiles.block_tables.numpy()
    assert (tables == batch.block_tables[0].padded(shape.rows, shape.blocks, -1) + 1).all()
    assert tables.min() >= 0


@pytest.mark.parametrize(("queries", "contexts", "shape"), CASES)
def test_tiles_hold_each_token_once(
    rng: np.random.Generator,
    ragged: Callable,
    queries: list[int],
    contexts: list[int],
    shape: StepShape,
) -> None:
    batch = ragged(rng, queries, contexts, 16)
    step = unpack_step(torch.from_numpy(pack_step(batch, shape, 16, 9)), shape, 16)
    tiles, num = step.tiles, len(batch.token_ids)
    lens = tiles.tile_lens.numpy()
    assert lens.sum() == num and not lens[np.argmin(lens > 0) if 0 in lens else len(lens) :].any()
    positions = tiles.cut(step.positions)  # [N, Q]
    for tile, length in enumerate(lens):
        start = int(tiles.tile_starts[tile])
        assert positions[tile, :length].tolist() == list(range(start, start + length))
    rows = np.repeat(tiles.tile_rows.numpy()[:, None], positions.shape[1], 1)
    by_token = tiles.join(torch.from_numpy(rows))
    assert by_token[:num].tolist() == batch.rows.tolist()
    assert tiles.join(positions)[:num].tolist() == batch.positions.tolist()


def test_padding_alone_is_a_step_of_nothing() -> None:
    shape = StepShape(32, 4, 4, 4)
    step = unpack_step(torch.from_numpy(padding(shape, 9)), shape, 16)
    assert not step.tiles.tile_lens.any() and not step.tiles.cache_slots.any()
    assert (step.token_slots == 9).all()
