"""Launches that begin while the kernel before them still runs, where the hardware has such: what
needs nothing of its results is done first."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pagoda_kernels_triton.tuning import overlaps, target_of

_PLAIN = {"OVERLAP": False}
_EARLY = {"OVERLAP": True, "launch_pdl": True}


@triton.jit
def await_previous(OVERLAP: tl.constexpr):
    """All that was launched before is done, and the launch behind this one may begin: it comes here
    by itself.  Ahead of this, weights alone may be read, and nothing written; some program of every
    launch comes here.  (To let the next one begin any earlier made products of one row slower.)"""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def begin_next(OVERLAP: tl.constexpr):
    """The launch behind this one may begin although this one is still to wait: for small kernels
    before a product, which fetches its weights meanwhile."""
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


def overlapping(device: torch.device) -> dict[str, bool]:
    """What a launcher adds to the arguments of such a kernel."""
    return _EARLY if overlaps(target_of(device)) else _PLAIN
