"""What a recorded decode step computes from the few numbers that the host sends."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.sizes import num_parts

SMALL = ["sent_ptr", "slots_ptr", "context_ptr", "block_start_ptr", "blocks_ptr"]


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=SMALL)
def _decode_inputs(
    sent_ptr,  # [R], below 0: what the slot sampled last
    slots_ptr,
    context_ptr,  # below 0: padding
    block_start_ptr,
    blocks_ptr,
    last_ptr,
    token_ids_ptr,
    positions_ptr,
    lens_ptr,
    cache_slots_ptr,
    count,
    BLOCK: tl.constexpr,
    EACH: tl.constexpr,
):
    row = tl.program_id(0) * EACH + tl.arange(0, EACH)
    inside = row < count
    context = tl.load(context_ptr + row, mask=inside, other=-1)
    real = context >= 0
    sent = tl.load(sent_ptr + row, mask=real, other=0).to(tl.int64)
    slot = tl.load(slots_ptr + row, mask=real, other=0)
    last = tl.load(last_ptr + slot, mask=real & (sent < 0), other=0)
    tl.store(token_ids_ptr + row, tl.where(sent < 0, last, sent), mask=inside)
    place = tl.maximum(context, 0)
    tl.store(positions_ptr + row, place.to(tl.int64), mask=inside)
    tl.store(lens_ptr + row, context + 1, mask=inside)
    start = tl.load(block_start_ptr + row, mask=real, other=0)
    block = tl.load(blocks_ptr + start + place // BLOCK, mask=real, other=0).to(tl.int64)
    cache_slot = tl.where(real, block * BLOCK + place % BLOCK, -1)
    tl.store(cache_slots_ptr + row, cache_slot, mask=inside)


def decode_inputs(
    sent: Tensor,
    slots: Tensor,
    context: Tensor,
    block_start: Tensor,
    blocks: Tensor,
    last_tokens: Tensor,
    block_size: int,
    token_ids: Tensor,
    positions: Tensor,
    lens: Tensor,
    cache_slots: Tensor,
) -> None:
    """Fill the last four: token_ids, positions, cache_slots [R] int64 and lens [R] int32.

    sent [R]: the token, or below 0 for ``last_tokens[slot]``; context [R]: tokens cached, below 0
    for rows that are padding, which get length 0 and cache slot -1; block_start [R] into blocks;
    all of these int32, last_tokens int64."""
    count, each = len(sent), 128
    _decode_inputs[(num_parts(count, each),)](
        sent,
        slots,
        context,
        block_start,
        blocks,
        last_tokens,
        token_ids,
        positions,
        lens,
        cache_slots,
        count,
        BLOCK=block_size,
        EACH=each,
        num_warps=4,
    )
