"""The paged KV cache and attention over it; the core knows its blocks by number only.

layer     one array [num_blocks, 2, kv heads, BLOCK_SIZE, head_dim], float32
block     keys, then values; in each, head after head
tile      [BLOCK_SIZE, head_dim] of one head, contiguous: what a kernel would read at once
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.platform import ModelInfo, OutOfMemory, ScheduledBatch
from pagoda_echo.plugin import BLOCK_SIZE

Float32 = npt.NDArray[np.float32]


def block_bytes(model: ModelInfo) -> int:
    """Bytes of one block over all layers."""
    return 2 * model.num_kv_heads * BLOCK_SIZE * model.head_dim * 4 * model.num_layers


class PagedCache:
    """Blocks 0 .. num_blocks - 1 of every layer.  A block's content is junk until written."""

    def __init__(self, model: ModelInfo, num_blocks: int):
        shape = (num_blocks, 2, model.num_kv_heads, BLOCK_SIZE, model.head_dim)
        try:
            self.layers = [np.empty(shape, np.float32) for _ in range(model.num_layers)]
        except MemoryError as error:
            needed = num_blocks * block_bytes(model)
            raise OutOfMemory(
                f"a KV cache of {num_blocks} blocks needs {needed} bytes", "--num-blocks"
            ) from error

    def write(self, layer: int, batch: ScheduledBatch, key: Float32, value: Float32) -> None:
        """Store the step's key and value [T, Hk, D] where the block tables say."""
        block, offset = np.divmod(batch.cache_slots(BLOCK_SIZE), BLOCK_SIZE)
        self.layers[layer][block, 0, :, offset] = key
        self.layers[layer][block, 1, :, offset] = value

    def attend(self, layer: int, batch: ScheduledBatch, query: Float32) -> Float32:
        """Causal attention of query [T, Hq, D], each token over its own request's blocks."""
        out = np.empty_like(query)
        table = batch.block_tables[0]
        for row, length in enumerate(batch.seq_lens.tolist()):
            ids = table.ids[row, : -(-length // BLOCK_SIZE)]
            pages = self.layers[layer][ids].transpose(1, 2, 0, 3, 4)  # [2, Hk, blocks, size, D]
            flat = pages.reshape(2, pages.shape[1], -1, pages.shape[-1])
            key, value = flat[:, :, :length]  # past the length lies junk
            mine = slice(batch.query_start[row], batch.query_start[row + 1])
            out[mine] = _attention(query[mine], key, value, batch.positions[mine])
        return out


def poison(runner: Any) -> None:
    """For the kit: NaN everywhere, so that reading what nobody wrote cannot go unseen."""
    for layer in runner.cache.layers:
        layer.fill(np.nan)


def _attention(
    query: Float32, key: Float32, value: Float32, positions: npt.NDArray[np.int32]
) -> Float32:
    """Query [Q, Hq, D] at ``positions`` [Q] over key, value [Hk, K, D] at 0 .. K - 1."""
    num_queries, num_heads, head_dim = query.shape
    # Query heads in groups, one group a KV head: [Hk, Hq / Hk, Q, D].
    grouped = query.reshape(num_queries, len(key), -1, head_dim).transpose(1, 2, 0, 3)
    scores = grouped @ key[:, None].swapaxes(-1, -2) / np.float32(head_dim**0.5)
    future = np.arange(key.shape[1]) > positions[:, None]  # [Q, K]
    scores[..., future] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Float32 = (weights @ value[:, None]).transpose(2, 0, 1, 3)
    return mixed.reshape(num_queries, num_heads, head_dim)
