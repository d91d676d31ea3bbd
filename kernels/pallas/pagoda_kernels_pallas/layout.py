"""How keys and values lie in a layer's cache: one row a slot, each kv head's key and value beside
each other.

    cache [slots, kv_heads * 2 * width]     slot = block * block size + offset in the block
    row    | key 0 | value 0 | key 1 | value 1 | ...

A block is one dense run of rows, so one copy brings it for all heads; a head is a run of whole
128-lane tiles, so nothing is moved to take it; and heads shard evenly over devices."""

from __future__ import annotations

LANES = 128
"""Elements of a TPU register's minor dimension."""


def stored_width(head_size: int) -> int:
    """Elements that a key or a value takes in the cache, zeros past ``head_size``: half a tile, so
    that a key and its value share one, or whole tiles."""
    if head_size <= LANES // 2:
        return LANES // 2
    return -(-head_size // LANES) * LANES


def row_width(num_kv_heads: int, head_size: int) -> int:
    """Elements of a cache row."""
    return num_kv_heads * 2 * stored_width(head_size)
