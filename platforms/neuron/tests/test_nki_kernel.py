"""The NKI kernel in the runner's place for it, on eager tensors: beside the gather attention, over
caches full of NaN.  It runs on the shim of kernels/nki, or on AWS's simulator where that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nki_cases
import numpy as np
import pytest
import torch
from torch import Tensor

import pagoda_kernels_nki
from pagoda_neuron.nki_kernel import NkiKernel
from pagoda_torch.attention import AttentionSpec
from pagoda_xla.buckets import StepShape
from pagoda_xla.gather_attention import GatherKernel
from pagoda_xla.tiles import Tiles

SOURCE = Path(pagoda_kernels_nki.__file__).with_name("attention.py")


def simulated(*tensors: Tensor, **options: Any) -> Tensor:
    """The NKI function on eager tensors."""
    print("run by", nki_cases.BY)
    names: dict[str, Any] = {}
    exec(compile(SOURCE.read_text(), str(SOURCE), "exec"), names)
    arrays = [tensor.numpy() for tensor in tensors]
    return torch.from_numpy(nki_cases.nki.simulate(names["paged_attention"])(*arrays, **options))


def made_step(
    layer: AttentionSpec, tile: int, steps: list[tuple[int, int]], seed: int
) -> tuple[Tensor, Tensor, Tiles]:
    """q, a cache, and tiles of requests of (queries, tokens cached), padding tiles last."""
    random = np.random.default_rng(seed)
    block_size, width = 16, 6
    num_blocks = 1 + len(steps) * width
    heads, size = layer.num_kv_heads, layer.head_size
    cache = np.full((num_blocks * block_size, heads * 2 * size), np.nan, np.float32)
    order = random.permutation(np.arange(1, num_blocks))
    tables = np.zeros((len(steps) + 1, width), np.int32)
    rows, starts, lens = [], [], []
    for row, (queries, length) in enumerate(steps):
        count = -(-length // block_size)
        tables[row, :count] = order[row * width :][:count]
        at = np.arange(length)
        slots = tables[row][at // block_size] * block_size + at % block_size
        cache[slots] = random.standard_normal((length, cache.shape[1]))
        for start in range(length - queries, length, tile):
            rows.append(row)
            starts.append(start)
            lens.append(min(tile, length - start))
    padding = [0, 0]
    described = [np.array([*x, *padding], np.int32) for x in (rows, starts, lens)]
    num_rows = layer.num_heads // heads * tile
    q = random.standard_normal((len(rows) + 2, heads, num_rows, size)).astype(np.float32)
    none = torch.zeros(0, dtype=torch.int32)
    tiles = Tiles(
        block_size, none, torch.from_numpy(tables), *map(torch.from_numpy, described), None, None
    )
    return torch.from_numpy(q), torch.from_numpy(cache), tiles


@pytest.mark.parametrize("window", [None, 19])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("tile", [1, 8])
def test_like_the_gather_attention(tile: int, soft_cap: float | None, window: int | None) -> None:
    layer = AttentionSpec(
        num_heads=6, num_kv_heads=2, head_size=32, scale=0.3, window=window, soft_cap=soft_cap
    )
    steps = [(1, 40), (1, 1), (1, 96)] if tile == 1 else [(20, 50), (1, 33), (9, 9)]
    for seed in range(3):
        print("seed", seed)
        q, cache, tiles = made_step(layer, tile, steps, seed)
        found = NkiKernel(4, simulated).attend(q, cache, tiles, layer)
        wanted = GatherKernel().attend(q, cache, tiles, layer)
        live = torch.arange(q.shape[2]) % tile < tiles.tile_lens[:, None]
        mask = live[:, None, :, None].expand_as(q)
        torch.testing.assert_close(found[mask], wanted[mask], atol=2e-5, rtol=1e-4)
        assert not found[-2:].any(), "tiles of padding are not 0"


def test_what_it_refuses_is_known_by_shape() -> None:
    kernel = NkiKernel(2)
    layer = AttentionSpec(num_heads=32, num_kv_heads=8, head_size=128, scale=1.0)
    decode = StepShape(tokens=8, blocks=4, rows=8, tile=1)
    prompt = StepShape(tokens=128, blocks=4, rows=8, tile=64)
    assert kernel.refuses(layer, decode, 32) is None
    assert "256 query rows" in (kernel.refuses(layer, prompt, 32) or "")
