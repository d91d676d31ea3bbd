"""The ops of ``pagoda_torch`` that Triton does in fewer passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pagoda_kernels_triton.activation import silu_and_mul
from pagoda_kernels_triton.greedy import take_greedy
from pagoda_kernels_triton.inputs import decode_inputs
from pagoda_kernels_triton.norm import add_rms_norm, rms_norm

OPS: Mapping[str, Callable[..., Any]] = {
    "rms_norm": rms_norm,
    "add_rms_norm": add_rms_norm,
    "silu_and_mul": silu_and_mul,
    "decode_inputs": decode_inputs,
    "take_greedy": take_greedy,
}
