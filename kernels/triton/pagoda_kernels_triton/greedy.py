"""The likeliest token of each row in two passes over many programs: one alone is slow for the
vocabularies of today."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from pagoda_kernels_triton.overlap import await_previous, overlapping
from pagoda_kernels_triton.sizes import num_parts, up_to_power_of_two

EACH = 4096


@triton.jit
def _best_of_part(
    logits_ptr, values_ptr, ids_ptr, stride, size,
    PARTS: tl.constexpr, EACH: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    await_previous(OVERLAP)
    part = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    id = part * EACH + tl.arange(0, EACH)
    value = tl.load(logits_ptr + row * stride + id, mask=id < size, other=float("-inf"))
    value = value.to(tl.float32)
    best = tl.max(value, axis=0)
    first = tl.min(tl.where((value == best) & (id < size), id, 2147483647), axis=0)
    tl.store(values_ptr + row * PARTS + part, best)
    tl.store(ids_ptr + row * PARTS + part, first)


@triton.jit(do_not_specialize_on_alignment=["slots_ptr"])
def _best_of_row(
    values_ptr,
    ids_ptr,
    tokens_ptr,
    slots_ptr,
    last_ptr,
    PARTS: tl.constexpr,
    PADDED: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    await_previous(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PADDED)
    value = tl.load(values_ptr + row * PARTS + part, mask=part < PARTS, other=float("-inf"))
    id = tl.load(ids_ptr + row * PARTS + part, mask=part < PARTS, other=2147483647)
    best = tl.max(value, axis=0)
    token = tl.min(tl.where(value == best, id, 2147483647), axis=0)
    token = tl.where(token == 2147483647, 0, token).to(tl.int64)
    tl.store(tokens_ptr + row, token)
    tl.store(last_ptr + tl.load(slots_ptr + row), token)


def take_greedy(logits: Tensor, slots: Tensor, last_tokens: Tensor, tokens: Tensor) -> None:
    """The lowest id among each row's largest logits [R, V], into ``tokens`` [R] int64 and into
    ``last_tokens`` [slots] int64 at ``slots`` [R]; a row of NaN gives token 0."""
    num_rows, size = logits.shape
    parts = num_parts(size, EACH)
    values = torch.empty((num_rows, parts), dtype=torch.float32, device=logits.device)
    ids = torch.empty((num_rows, parts), dtype=torch.int32, device=logits.device)
    _best_of_part[(parts, num_rows)](
        *(logits, values, ids, logits.stride(0), size),
        PARTS=parts,
        EACH=EACH,
        num_warps=8,
        **overlapping(logits.device),
    )
    _best_of_row[(num_rows,)](
        values,
        ids,
        tokens,
        slots,
        last_tokens,
        PARTS=parts,
        PADDED=up_to_power_of_two(parts),
        num_warps=1,
        **overlapping(logits.device),
    )
