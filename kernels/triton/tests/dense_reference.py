"""Kernels for prompts with nothing cached before, against dense float32 attention."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import kernel_mode
import numpy as np
import torch
import torch.nn.functional as F


def check_whole_prompts(
    attend: Callable[..., None],
    rows: int,
    lens: list[int],
    heads: int,
    kv_heads: int,
    size: int,
    dtype: torch.dtype,
) -> None:
    """Of ``lens`` tokens, with tiles of ``rows``; the second one's values are NaN, and change
    nothing for its neighbours."""
    from pagoda_kernels_triton.prefill import prefill_tiles

    torch.manual_seed(0)
    device = "cuda" if kernel_mode.on_gpu() else "cpu"
    start = np.cumsum([0, *lens]).astype(np.int32)
    qkv = torch.randn(start[-1], heads + 2 * kv_heads, size).to(dtype).to(device)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    q, k = q.contiguous(), k.contiguous()
    v[start[1] : start[2]] = float("nan")
    zeros = np.zeros(len(lens), np.int32)
    tiles = torch.from_numpy(prefill_tiles(start, zeros, zeros, rows)).to(device)
    out = torch.full((len(q), heads * size), float("nan"), dtype=dtype, device=device)
    attend(q, k, v, out, tiles, size**-0.5)
    for i, (first, last) in enumerate(pairwise(start)):
        if i == 1:
            continue
        one = (x[first:last].float().cpu().transpose(0, 1)[None] for x in (q, k, v))
        wanted = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
        wanted = wanted[0].transpose(0, 1).flatten(1)
        found = out[first:last].float().cpu()
        assert float((found - wanted).norm() / wanted.norm()) < 1e-2
