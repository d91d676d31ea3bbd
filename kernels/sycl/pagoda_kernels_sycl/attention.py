"""Paged attention: store a step's keys and values, attend over the cache, in tiles of query tokens
or in parts of the keys where queries are one token long."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pagoda_kernels_sycl.programs import Kernel, kernels
from pagoda_kernels_sycl.queues import finish
from pagoda_kernels_sycl.tuning import PART_KEYS, PROMPT_ROWS, lanes_of, rows_of

LOG2E = 1.4426950408889634


def attention_kernels(q: Tensor) -> Mapping[str, Kernel]:
    """Compiled for q's device, dtype and head size."""
    size, device = q.shape[-1], q.device
    lanes, rows = lanes_of(device), rows_of(device, size)
    return kernels("attention.sycl", device, q.dtype, HEAD_SIZE=size, LANES=lanes, ROWS=rows)


def tiles_of(
    query_start: npt.NDArray[np.int32],
    contexts: npt.NDArray[np.int32],
    block_start: npt.NDArray[np.int32],
    group_heads: int,
) -> npt.NDArray[np.int32]:
    """[tiles, 4]: first token, tokens, the first one's position, where in ``blocks`` the sequence's
    ids begin; for R sequences whose tokens are query_start [R+1] of the step, contexts [R] tokens
    cached before them."""
    tokens = max(1, PROMPT_ROWS // group_heads)
    lens = np.diff(query_start)
    counts = -(-lens // tokens)
    row = np.repeat(np.arange(len(lens)), counts)
    offset = (np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)) * tokens
    first = query_start[:-1][row] + offset
    count = np.minimum(tokens, lens[row] - offset)
    found = np.stack([first, count, contexts[row] + offset, block_start[row]], 1)
    return np.ascontiguousarray(found, np.int32)


def attend(
    q: Tensor,
    cache: Tensor,
    out: Tensor,
    tiles: Tensor,
    blocks: Tensor,
    scale: float,
    window: int | None = None,
    soft_cap: float | None = None,
    longest: int | None = None,
    part_keys: int = PART_KEYS,
) -> None:
    """Attention over the cache, the queries' own keys stored before.

    q [T, heads, D], any strides with a dense last dimension; cache [blocks, 2, kv heads, block
    size, D], contiguous; out [T, heads * D], contiguous; tiles as ``tiles_of`` makes them; blocks
    int32 ids.  longest: tokens of the longest sequence, its queries included; given where queries
    are one token, it has the keys split in parts of ``part_keys`` (a multiple of 16) and joined
    again in their order; T is then the number of tiles, and a tile at position -1 is padding.
    Places that hold no token may hold anything."""
    tokens, heads, size = q.shape
    kv_heads, block_size = cache.shape[2:4]
    lanes, group_heads = lanes_of(q.device), heads // kv_heads
    num_parts = 1 if longest is None else max(1, -(-longest // part_keys))
    each = rows_of(q.device, size)
    groups = min(8, -(-(PROMPT_ROWS if longest is None else group_heads) // each))
    parts = levels = None
    if num_parts > 1:
        parts = q.new_empty((tokens, heads, num_parts, size), dtype=torch.float32)
        levels = q.new_empty((tokens, heads, num_parts, 2), dtype=torch.float32)
    compiled = attention_kernels(q)
    compiled["attention"](
        q.device, (len(tiles), kv_heads, num_parts), groups * lanes,
        q, cache, out, parts, levels, tiles, blocks, q.stride(0), q.stride(1),
        group_heads, kv_heads, block_size, part_keys,
        scale / soft_cap if soft_cap else scale * LOG2E, window or 0, soft_cap or 0.0,
    )  # fmt: skip
    if num_parts > 1:
        compiled["join"](q.device, (1, tokens * heads, 1), lanes, parts, levels, out, num_parts)
    finish(q.device)


def turn_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_out: Tensor,
    cache: Tensor,
    slots: Tensor,
    angles: tuple[Tensor, Tensor] | None = None,
    norms: tuple[Tensor, Tensor, float] | None = None,
) -> None:
    """Norm q and k by head and rotate them, where asked; q to q_out, k and v into the cache.

    q [T, heads, D], k and v [T, kv heads, D], any strides with a dense last dimension; q_out
    [T, heads * D], contiguous; cache as in ``attend``; slots [T] int64, block * block size +
    offset, below 0: not stored; angles: cos and sin [T, 1, D] of q's dtype, the first half of sin
    negated; norms: weights [D] of q's and of k's RMS norm, and epsilon."""
    heads = q.shape[1]
    kv_heads, block_size = cache.shape[2:4]
    cos, sin = angles or (None, None)
    q_norm, k_norm, epsilon = norms or (None, None, 0.0)
    attention_kernels(q)["turn_and_store"](
        q.device, (len(q), heads + 2 * kv_heads, 1), lanes_of(q.device),
        q, k, v, q_out, cache, slots, cos, sin, q_norm, k_norm,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        0 if cos is None else cos.stride(0), 0 if sin is None else sin.stride(0),
        heads, kv_heads, block_size, epsilon,
    )  # fmt: skip
    finish(q.device)
