"""What the kernels can take; known without NKI, so that callers can choose another way in time."""

from __future__ import annotations

PARTITIONS = 128
"""Rows of the on-chip memories, and so of every tile."""

CHUNK = 512
"""Keys attended at a time: a bank of the accumulation memory holds that many scores a row."""

ROW_BYTES = 12 << 10
"""Bytes of a cache row, all heads: a chunk brings four a partition, of 192 KiB."""


def refusal(num_kv_heads: int, rows: int, head_size: int, item_bytes: int) -> str | None:
    """Why the kernel cannot attend tiles of so many query rows a kv head; None: it can."""
    if head_size > PARTITIONS:
        return f"head size {head_size}, {PARTITIONS} is the largest"
    if rows > PARTITIONS:
        return f"{rows} query rows a kv head in a tile, {PARTITIONS} is the most"
    row = num_kv_heads * 2 * head_size * item_bytes
    if row > ROW_BYTES:
        return f"cache rows of {row} bytes, {ROW_BYTES} is the most"
    return None
