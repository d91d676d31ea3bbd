"""From the stacked q, k, v of a step to turned queries and keys and a filled cache, in one pass.

Half a head at a time: whole heads, as ``heads.py`` takes them, would read everything twice."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.overlap import await_previous, overlapping
from pagoda_kernels_triton.scores import places_of
from pagoda_kernels_triton.sizes import num_parts, up_to_power_of_two
from pagoda_kernels_triton.stored import as_stored


@triton.jit
def _weights(q_ptr, k_ptr, is_q, d, HALF: tl.constexpr):
    """[heads, half a head] of the norm that each head has."""
    of_q = tl.load(q_ptr + d, mask=d < HALF, other=0.0).to(tl.float32)
    of_k = tl.load(k_ptr + d, mask=d < HALF, other=0.0).to(tl.float32)
    return tl.where(is_q[:, None], of_q[None, :], of_k[None, :])


@triton.jit
def _rotate_and_store(
    q_ptr, k_ptr, v_ptr, q_out_ptr, k_out_ptr, cache_ptr,
    slots_ptr,  # [T] int64, below 0: not stored
    cos_ptr, sin_ptr, q_norm_ptr, k_norm_ptr, epsilon,
    stride_q, stride_q_head, stride_k, stride_k_head, stride_v, stride_v_head,
    stride_q_out, stride_k_out, stride_angle, stride_block,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    EACH: tl.constexpr,  # heads of a program
    ROTATE: tl.constexpr,
    NORM: tl.constexpr,
    KEEP_K: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    await_previous(OVERLAP)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * EACH + tl.arange(0, EACH)
    d = tl.arange(0, PADDED)
    is_q = head < HEADS
    is_k = (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = (head >= HEADS + KV_HEADS) & (head < HEADS + 2 * KV_HEADS)
    k_head = head - HEADS
    v_head = k_head - KV_HEADS
    inside = (d < HALF)[None, :]

    base = tl.where(is_q, token * stride_q + head * stride_q_head, 0)
    left_q = tl.load(q_ptr + base[:, None] + d[None, :], mask=is_q[:, None] & inside, other=0.0)
    right_q = tl.load(
        q_ptr + base[:, None] + HALF + d[None, :], mask=is_q[:, None] & inside, other=0.0
    )
    base = tl.where(is_k, token * stride_k + k_head * stride_k_head, 0)
    left_k = tl.load(k_ptr + base[:, None] + d[None, :], mask=is_k[:, None] & inside, other=0.0)
    right_k = tl.load(
        k_ptr + base[:, None] + HALF + d[None, :], mask=is_k[:, None] & inside, other=0.0
    )
    left = left_q.to(tl.float32) + left_k.to(tl.float32)
    right = right_q.to(tl.float32) + right_k.to(tl.float32)
    if NORM:
        square = (tl.sum(left * left, axis=1) + tl.sum(right * right, axis=1)) / (2 * HALF)
        scale = tl.rsqrt(square + epsilon)[:, None]
        left *= scale * _weights(q_norm_ptr, k_norm_ptr, is_q, d, HALF)
        right *= scale * _weights(q_norm_ptr + HALF, k_norm_ptr + HALF, is_q, d, HALF)
    if ROTATE:
        angle = token * stride_angle
        cos = tl.load(cos_ptr + angle + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
        sin = tl.load(sin_ptr + angle + HALF + d, mask=d < HALF, other=0.0).to(tl.float32)[None, :]
        turned = left * cos - right * sin
        right = right * cos + left * sin
        left = turned

    out = q_out_ptr + token * stride_q_out + (head * (2 * HALF))[:, None] + d[None, :]
    kind = q_out_ptr.dtype.element_ty
    tl.store(out, left.to(kind), mask=is_q[:, None] & inside)
    tl.store(out + HALF, right.to(kind), mask=is_q[:, None] & inside)

    if KEEP_K:
        out = k_out_ptr + token * stride_k_out + (k_head * (2 * HALF))[:, None] + d[None, :]
        tl.store(out, left.to(kind), mask=is_k[:, None] & inside)
        tl.store(out + HALF, right.to(kind), mask=is_k[:, None] & inside)

    slot = tl.load(slots_ptr + token)
    stored = slot >= 0
    place = (slot // BLOCK) * stride_block + (slot % BLOCK) * (2 * HALF)
    key_ptr, value_ptr = places_of(cache_ptr + place, 0, KV_HEADS, BLOCK, 2 * HALF)
    stored_kind = cache_ptr.dtype.element_ty
    at = key_ptr + (tl.where(is_k, k_head, 0) * (BLOCK * 2 * HALF))[:, None] + d[None, :]
    keep = (is_k & stored)[:, None] & inside
    tl.store(at, as_stored(left.to(kind), stored_kind), mask=keep)
    tl.store(at + HALF, as_stored(right.to(kind), stored_kind), mask=keep)

    base = tl.where(is_v, token * stride_v + v_head * stride_v_head, 0)
    keep = (is_v & stored)[:, None] & inside
    left_v = tl.load(v_ptr + base[:, None] + d[None, :], mask=keep, other=0.0)
    right_v = tl.load(v_ptr + base[:, None] + HALF + d[None, :], mask=keep, other=0.0)
    at = value_ptr + (tl.where(is_v, v_head, 0) * (BLOCK * 2 * HALF))[:, None] + d[None, :]
    tl.store(at, as_stored(left_v, stored_kind), mask=keep)
    tl.store(at + HALF, as_stored(right_v, stored_kind), mask=keep)


def rotate_and_store(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_out: Tensor,
    cache: Tensor,
    slots: Tensor,
    angles: tuple[Tensor, Tensor] | None = None,
    norms: tuple[Tensor, Tensor, float] | None = None,
    k_out: Tensor | None = None,
) -> None:
    """Norm q and k by head, rotate them, keep k and v in the cache.

    q [T, heads, D], k and v [T, kv heads, D], any strides with a dense last dimension; q_out
    [T, heads * D], and k_out [T, kv heads * D] where the keys are wanted outside of the cache too:
    both may lie over q and k; cache [blocks, 2, kv heads, block size, D], contiguous; slots [T]
    int64: block * block size + offset, below 0 for tokens that are not kept.  angles: cos and sin
    [T, 1, D] as ``pagoda_torch.ops`` defines them (a whole head turns, its halves against each
    other); norms: the weights [D] for q and k, and epsilon."""
    heads, size = q.shape[1:]
    kv_heads, block_size = k.shape[1], cache.shape[3]
    cos, sin = angles if angles is not None else (q, q)
    q_norm, k_norm, epsilon = norms if norms is not None else (q, q, 0.0)
    kept = q_out if k_out is None else k_out
    each = 4 if len(q) <= 64 else 8 if len(q) <= 1024 else 32
    _rotate_and_store[(len(q), num_parts(heads + 2 * kv_heads, each))](
        *(q, k, v, q_out, kept, cache, slots, cos, sin, q_norm, k_norm, epsilon),
        *(q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1)),
        *(q_out.stride(0), kept.stride(0), cos.stride(0), cache.stride(0)),
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=size // 2,
        PADDED=up_to_power_of_two(size // 2),
        BLOCK=block_size,
        EACH=each,
        ROTATE=angles is not None,
        NORM=norms is not None,
        KEEP_K=k_out is not None,
        **overlapping(q.device),
        num_warps=4,
    )
