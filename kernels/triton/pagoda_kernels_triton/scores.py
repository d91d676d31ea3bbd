"""The one inner loop of paged attention: a tile of query rows over a range of cached keys."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = 1.4426950408889634
_LOG2E = tl.constexpr(LOG2E)


@triton.jit
def places_of(cache_ptr, head, KV_HEADS: tl.constexpr, BLOCK: tl.constexpr, HEAD: tl.constexpr):
    """Where a head's keys and values begin in block 0."""
    key_ptr = cache_ptr + head * (BLOCK * HEAD)
    return key_ptr, key_ptr + KV_HEADS * BLOCK * HEAD


@triton.jit
def capped(score, scale, SOFT_CAP: tl.constexpr):
    """Scores in powers of two under a soft cap, whose units ``scale`` brings them to."""
    return (SOFT_CAP * _LOG2E) * (1.0 - 2.0 / (tl.exp(2.0 * score * scale) + 1.0))


@triton.jit
def attend(
    q,  # [M, P] queries, zero past the head size
    top,  # [M] running maximum of scores, in powers of two
    total,  # [M] running sum of weights
    found,  # [M, P] running weighted sum of values
    position,  # [M] each row's place in its sequence
    start,
    end,
    last,  # keys from here on do not exist
    blocks_ptr,  # this sequence's block ids
    key_ptr,  # this head's keys in block 0
    value_ptr,
    stride_block,  # elements, int64
    scale,
    HEAD: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,  # tokens of a cache block
    KEYS: tl.constexpr,
    WINDOW: tl.constexpr,  # 0: none
    SOFT_CAP: tl.constexpr,  # 0: none
    MASKED: tl.constexpr,  # False: every row sees every key from start to end
):
    """``top``, ``total`` and ``found`` after the keys from ``start`` to ``end``.  ``scale`` brings
    scores to powers of two, or to units of the soft cap."""
    d = tl.arange(0, PADDED)
    for first in range(start, end, KEYS):
        key = first + tl.arange(0, KEYS)
        if MASKED:
            exists = key < last
            block = tl.load(blocks_ptr + key // BLOCK, mask=exists, other=0).to(tl.int64)
        else:
            block = tl.load(blocks_ptr + key // BLOCK).to(tl.int64)
        place = block * stride_block + (key % BLOCK) * HEAD
        if HEAD == PADDED and not MASKED:
            k = tl.load(key_ptr + place[None, :] + d[:, None])
        elif HEAD == PADDED:
            k = tl.load(key_ptr + place[None, :] + d[:, None], mask=exists[None, :], other=0.0)
        elif MASKED:
            here = exists[None, :] & (d < HEAD)[:, None]
            k = tl.load(key_ptr + place[None, :] + d[:, None], mask=here, other=0.0)
        else:
            k = tl.load(key_ptr + place[None, :] + d[:, None], mask=(d < HEAD)[:, None], other=0.0)
        score = tl.dot(q, k.to(q.dtype), input_precision="ieee")
        unit = scale
        if SOFT_CAP > 0:
            score = capped(score, scale, SOFT_CAP)
            unit = 1.0
        if MASKED:
            seen = exists[None, :] & (key[None, :] <= position[:, None])
            if WINDOW > 0:
                seen = seen & (key[None, :] > (position - WINDOW)[:, None])
            score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1) * unit)
        level = higher
        if MASKED:  # a row may have seen nothing yet
            level = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(score * unit - level[:, None])
        shrink = tl.exp2(top - level)
        total = total * shrink + tl.sum(weight, axis=1)
        if HEAD == PADDED and not MASKED:
            v = tl.load(value_ptr + place[:, None] + d[None, :])
        elif HEAD == PADDED:
            v = tl.load(value_ptr + place[:, None] + d[None, :], mask=exists[:, None], other=0.0)
        elif MASKED:
            here = exists[:, None] & (d < HEAD)[None, :]
            v = tl.load(value_ptr + place[:, None] + d[None, :], mask=here, other=0.0)
        else:
            v = tl.load(
                value_ptr + place[:, None] + d[None, :], mask=(d < HEAD)[None, :], other=0.0
            )
        found = found * shrink[:, None]
        found = tl.dot(weight.to(q.dtype), v.to(q.dtype), found, input_precision="ieee")
        top = higher
    return top, total, found
