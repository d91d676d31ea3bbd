"""Attention of whole prompts over their own keys, against dense float32 attention."""

from __future__ import annotations

import kernel_mode
import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 64), (2, 2, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_whole_prompts(heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    """A neighbour whose values are NaN changes nothing."""
    kernel_mode.skip_or_prepare()
    if kernel_mode.on_gpu() and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("a GPU before Hopper")
    from pagoda_cuda.dense import dense_attention
    from pagoda_kernels_triton.prefill import prefill_tiles
    from pagoda_kernels_triton.tuning import Tile

    torch.manual_seed(0)
    device = "cuda" if kernel_mode.on_gpu() else "cpu"
    lens = [200, 1, 70]
    start = np.cumsum([0, *lens]).astype(np.int32)
    qkv = torch.randn(start[-1], heads + 2 * kv_heads, size).to(dtype).to(device)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    k = k.contiguous()
    v[start[1] : start[2]] = float("nan")
    zeros = np.zeros(len(lens), np.int32)
    tile = Tile(64, 64, 4, 2)
    tiles = torch.from_numpy(prefill_tiles(start, zeros, zeros, tile.rows)).to(device)
    out = torch.full((len(q), heads * size), float("nan"), dtype=dtype, device=device)
    dense_attention(q, k, v, out, tiles, size**-0.5, tile)
    for first, last in zip(start[::2], start[1::2], strict=True):
        one = (x[first:last].float().cpu().transpose(0, 1)[None] for x in (q, k, v))
        wanted = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
        wanted = wanted[0].transpose(0, 1).flatten(1)
        found = out[first:last].float().cpu()
        assert float((found - wanted).norm() / wanted.norm()) < 1e-2
