"""Attention of whole prompts over their own keys, against dense float32 attention."""

from __future__ import annotations

from functools import partial

import kernel_mode
import pytest
import torch
from dense_reference import check_whole_prompts


@pytest.mark.parametrize(("heads", "kv_heads", "size"), [(4, 2, 64), (2, 2, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_whole_prompts(heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> None:
    kernel_mode.skip_or_prepare()
    if kernel_mode.on_gpu() and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("a GPU before Hopper")
    from pagoda_cuda.dense import dense_attention
    from pagoda_kernels_triton.tuning import Tile

    tile = Tile(64, 64, 4, 2)
    attend = partial(dense_attention, tile=tile)
    check_whole_prompts(attend, tile.rows, [200, 1, 70], heads, kv_heads, size, dtype)
