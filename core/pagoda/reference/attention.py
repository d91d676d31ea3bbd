"""Keys and values in cache blocks, and attention over them, one request at a time."""

from __future__ import annotations

import numpy as np

from pagoda.models.shape import LlamaShape
from pagoda.platform.batch import Float32, Int32, ScheduledBatch


class PagedCache:
    """Arrays [layer, block, offset, head, dim].  Fresh ones hold NaN, so that a read of what
    nobody wrote cannot go unseen."""

    def __init__(self, shape: LlamaShape, num_blocks: int, block_size: int):
        size = (shape.num_layers, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
        self.keys = np.full(size, np.nan, np.float32)
        self.values = np.full(size, np.nan, np.float32)
        self.block_size = block_size
        self.windows = shape.windows

    def copy_blocks(self, pairs: Int32) -> None:
        """Copy source to destination blocks, pairs [C, 2]."""
        for cache in (self.keys, self.values):
            cache[:, pairs[:, 1]] = cache[:, pairs[:, 0]]

    def write(self, layer: int, slots: np.ndarray, key: Float32, value: Float32) -> None:
        """Put key and value [T, Hk, D] into the flat cache positions [T]."""
        block, offset = np.divmod(slots, self.block_size)
        self.keys[layer, block, offset] = key
        self.values[layer, block, offset] = value

    def attend(self, layer: int, query: Float32, batch: ScheduledBatch) -> Float32:
        """[T, Hq, D] of queries [T, Hq, D], each over its request's cache up to itself."""
        out = np.empty_like(query)
        for row, length in enumerate(batch.seq_lens):
            begin, end = batch.query_start[row : row + 2]
            blocks = batch.block_tables[0].ids[row, : -(-int(length) // self.block_size)]
            heads = self.keys.shape[3:]
            key = self.keys[layer, blocks].reshape(-1, *heads)[:length]
            value = self.values[layer, blocks].reshape(-1, *heads)[:length]
            positions = batch.positions[begin:end]
            out[begin:end] = attention(query[begin:end], key, value, positions, self.windows[layer])
        return out


def attention(
    query: Float32, key: Float32, value: Float32, positions: Int32, window: int | None
) -> Float32:
    """Causal softmax attention of query [Q, Hq, D] at ``positions`` [Q] over key and value
    [K, Hk, D] at 0 .. K - 1; a window of w sees the last w positions, its own included."""
    num_queries, num_heads, head_dim = query.shape
    num_kv_heads = key.shape[1]
    grouped = query.reshape(num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim)
    # [Hk, Q, G, D] @ [Hk, 1, D, K] -> [Hk, Q, G, K]
    scores = grouped.transpose(1, 0, 2, 3) @ key.transpose(1, 2, 0)[:, None]
    scores *= np.float32(head_dim**-0.5)
    distance = positions[:, None] - np.arange(len(key))  # [Q, K]
    visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    scores = np.where(visible[:, None], scores, np.float32(-np.inf))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Float32 = weights @ value.transpose(1, 0, 2)[:, None]  # [Hk, Q, G, D]
    out: Float32 = mixed.transpose(1, 0, 2, 3).reshape(query.shape)
    return out
