"""What several programs found over parts of a sequence's keys, joined: tops, totals and weighted
sums of values, as ``scores.py`` leaves them."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.sizes import up_to_power_of_two


def arrivals(device: torch.device, size: int) -> Tensor:
    """Zeros, ``size`` at least, that each launch leaves as it found them; launches of one stream
    share them."""
    return _zeros(device, up_to_power_of_two(size))


@cache
def _zeros(device: torch.device, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int32, device=device)


@triton.jit
def hand_in(
    parts_ptr,  # [rows, heads, SPLITS, PADDED] float32
    levels_ptr,  # [rows, heads, SPLITS, 2] float32: top and total
    arrived_ptr,  # [rows, kv heads] int32, 0 before and after
    out_ptr, token, head, part,
    num_keys, size,  # of all parts, and of each but the last
    top, total, found,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, SPLITS: tl.constexpr, JOINED: tl.constexpr,  # heads joined at a time
):  # fmt: skip
    """One program's part; the last of a row's to come here joins them all."""
    row = tl.arange(0, ROWS)
    d = tl.arange(0, PADDED)
    q_head = head * GROUP + row
    at = (token * (KV_HEADS * GROUP) + q_head) * SPLITS
    tl.store(levels_ptr + (at + part) * 2, top, mask=row < GROUP)
    tl.store(levels_ptr + (at + part) * 2 + 1, total, mask=row < GROUP)
    places = (at + part)[:, None] * PADDED + d[None, :]
    tl.store(parts_ptr + places, found, mask=(row < GROUP)[:, None])
    tl.debug_barrier()  # every thread's part is written before the program says so
    arrived_ptr += token * KV_HEADS + head
    num_parts = tl.maximum(tl.cdiv(num_keys, size), 1)
    if tl.atomic_add(arrived_ptr, 1, sem="acq_rel") == num_parts - 1:
        tl.store(arrived_ptr, 0)
        _join(
            parts_ptr, levels_ptr, out_ptr, token * (KV_HEADS * GROUP), head, num_parts,
            GROUP, HEAD, PADDED, SPLITS, JOINED,
        )  # fmt: skip


@triton.jit
def after_shared(
    parts_ptr, levels_ptr, first, real, top, total, found,
    PADDED: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """What was found so far joined with every part of the shared keys."""
    d = tl.arange(0, PADDED)
    for i in tl.static_range(SHARES):
        other = tl.load(levels_ptr + (first + i) * 2, mask=real, other=float("-inf"))
        count = tl.load(levels_ptr + (first + i) * 2 + 1, mask=real, other=0.0)
        places = (first + i)[:, None] * PADDED + d[None, :]
        values = tl.load(parts_ptr + places, mask=real[:, None], other=0.0)
        higher = tl.maximum(top, other)
        level = tl.where(higher == float("-inf"), 0.0, higher)
        mine, theirs = tl.exp2(top - level), tl.exp2(other - level)
        total = total * mine + count * theirs
        found = found * mine[:, None] + values * theirs[:, None]
        top = higher
    return top, total, found


@triton.jit
def _join(
    parts_ptr, levels_ptr, out_ptr, first, head, num_parts,
    GROUP: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    SPLITS: tl.constexpr, JOINED: tl.constexpr,
):  # fmt: skip
    """The outputs of a row's heads that share keys, from what all its programs found."""
    d = tl.arange(0, PADDED)
    for i in tl.static_range(0, GROUP, JOINED):
        mine = i + tl.arange(0, JOINED)
        there = mine < GROUP
        q_head = head * GROUP + mine
        at = (first + q_head) * SPLITS
        whole = _joined(parts_ptr, levels_ptr, at, there, num_parts, SPLITS, PADDED)
        places = out_ptr + (q_head * HEAD)[:, None] + d[None, :]
        mask = there[:, None] & (d < HEAD)[None, :]
        tl.store(places, whole.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _joined(
    parts_ptr, levels_ptr, at, there, num_parts,
    SPLITS: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """[heads, PADDED] of what the parts found, past this multiprocessor's own cache."""
    part = tl.arange(0, SPLITS)
    d = tl.arange(0, PADDED)
    places = at[:, None] + part[None, :]
    made = there[:, None] & (part < num_parts)[None, :]
    cg: tl.constexpr = ".cg"
    top = tl.load(levels_ptr + places * 2, mask=made, other=float("-inf"), cache_modifier=cg)
    total = tl.load(levels_ptr + places * 2 + 1, mask=made, other=0.0, cache_modifier=cg)
    values = parts_ptr + (places * PADDED)[:, :, None] + d[None, None, :]
    parts = tl.load(values, mask=made[:, :, None], other=0.0, cache_modifier=cg)
    level = tl.max(top, axis=1)
    weight = tl.exp2(top - tl.where(level == float("-inf"), 0.0, level)[:, None])
    whole = tl.sum(total * weight, axis=1)
    found = tl.sum(parts * weight[:, :, None], axis=1)
    return found / tl.where(whole > 0.0, whole, 1.0)[:, None]
