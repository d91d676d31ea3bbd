"""Kernels compiled before they are needed, several at a time: a rehearsal finds out which."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from triton import knobs

from pagoda_kernels_triton.tuning import INTERPRETED

Kernels = dict[tuple[str, str, str], tuple[Any, str]]
"""By module, name and key: Triton's function, and the data that it compiles ahead from."""


def compile_ahead(device: torch.device, rehearsal: Callable[[], None]) -> Callable[[], None]:
    """Run ``rehearsal``, in which launches of kernels that are not compiled yet do nothing, and
    have those compiled, and loaded to ``device``, by threads.

    Returns what waits for them, and raises what went wrong.  Tensors that such kernels would have
    filled hold anything.  Nothing is run where kernels are interpreted."""
    if INTERPRETED:
        return lambda: None
    wanted = _noted(rehearsal)
    if not wanted:
        return lambda: None
    pool = ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1))
    loading = [pool.submit(_load, device, *kernel) for kernel in wanted.values()]
    pool.shutdown(wait=False)  # takes nothing more

    def wait() -> None:
        for one in loading:
            one.result()

    return wait


def _noted(rehearsal: Callable[[], None]) -> Kernels:
    """The kernels that the rehearsal would have compiled."""
    wanted: Kernels = {}

    def note(*, key: str, fn: Any, compile: Any, **_: object) -> bool:
        wanted[fn.module, fn.name, key] = fn.jit_function, compile["specialization_data"]
        return True  # neither compiled nor launched now

    usual = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note
    try:
        rehearsal()
    finally:
        knobs.runtime.jit_cache_hook = usual
    return wanted


def _load(device: torch.device, function: Any, data: str) -> None:
    torch.get_device_module(device).set_device(device)  # of this thread
    _ = function.preload(data).run  # made, with its launcher, when first looked at
