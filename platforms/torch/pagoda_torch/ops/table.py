"""The op table that models are written against; overrides go by name, wrong names are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pagoda.platform import PagodaError
from pagoda_torch.ops import reference


@dataclass(frozen=True)
class Ops:
    """One function an op; ``ops/reference.py`` says what each computes."""

    linear: Callable[[Tensor, Any, Tensor | None], Tensor] = reference.linear
    prepare_linear: Callable[[Any], Any] = reference.prepare_linear
    prepare_head: Callable[[Any], Any] = reference.prepare_head
    embedding: Callable[[Tensor, Any], Tensor] = reference.embedding
    rms_norm: Callable[[Tensor, Tensor, float], Tensor] = reference.rms_norm
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] = (
        reference.add_rms_norm
    )
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor] = reference.layer_norm
    add_layer_norm: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] = (
        reference.add_layer_norm
    )
    normed_linear: Callable[..., tuple[Tensor, Tensor]] = reference.normed_linear
    rotary: Callable[[Tensor, Tensor, Tensor], Tensor] = reference.rotary
    silu_and_mul: Callable[[Tensor], Tensor] = reference.silu_and_mul
    gelu_and_mul: Callable[[Tensor], Tensor] = reference.gelu_and_mul
    gelu_tanh_and_mul: Callable[[Tensor], Tensor] = reference.gelu_tanh_and_mul
    relu_and_mul: Callable[[Tensor], Tensor] = reference.relu_and_mul
    relu: Callable[[Tensor], Tensor] = reference.relu
    silu: Callable[[Tensor], Tensor] = reference.silu
    gelu: Callable[[Tensor], Tensor] = reference.gelu
    gelu_tanh: Callable[[Tensor], Tensor] = reference.gelu_tanh
    decode_inputs: Callable[..., None] = reference.decode_inputs
    take_greedy: Callable[[Tensor, Tensor, Tensor, Tensor], None] = reference.take_greedy


def make_ops(overrides: Mapping[str, Callable[..., Any]]) -> Ops:
    """The plain table with a platform's own versions in it."""
    known = {field.name for field in dataclasses.fields(Ops)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise PagodaError(f"unknown op {unknown[0]!r} overridden", f"one of {', '.join(known)}")
    return Ops(**overrides)
