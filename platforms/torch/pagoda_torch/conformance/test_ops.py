"""Every op that a torch platform brings, against the plain version in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pagoda.conformance.fixtures import Subject
from pagoda_torch.conformance.dense import allowed
from pagoda_torch.ops import reference
from pagoda_torch.runner import DTYPES

TOKENS = [1, 2, 3, 17, 200]
SIZES = [64, 96, 896]
WEIGHTS = [(64, 96), (1000, 512), (4864, 896)]  # the last two large enough to be packed


class Inputs:
    """Random tensors of one dtype on one device."""

    def __init__(self, rng: np.random.Generator, dtype: torch.dtype, device: torch.device):
        self.rng, self.dtype, self.device = rng, dtype, device

    def __call__(self, *shape: int, gain: float = 1.0) -> Tensor:
        values = self.rng.standard_normal(shape, np.float32) * np.float32(gain)
        return torch.from_numpy(values).to(self.dtype).to(self.device)


def norms(make: Inputs) -> Iterator[tuple[Any, ...]]:
    for tokens in TOKENS:
        for size in SIZES:
            yield make(tokens, size), make(size), 1e-5


def added_norms(make: Inputs) -> Iterator[tuple[Any, ...]]:
    for x, weight, epsilon in norms(make):
        yield x, make(*x.shape), weight, epsilon


def rotations(make: Inputs) -> Iterator[tuple[Any, ...]]:
    for tokens in TOKENS:
        for heads, size, turned in ((1, 64, 64), (8, 128, 128), (4, 80, 32)):
            angles = make(tokens, 1, turned // 2).float()
            cos, sin = angles.cos(), angles.sin()
            halves = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
            yield make(tokens, heads, size), *(half.to(make.dtype) for half in halves)


def gated(make: Inputs) -> Iterator[tuple[Any, ...]]:
    for tokens in TOKENS:
        for size in SIZES:
            yield (make(tokens, 2 * size),)


def linears(make: Inputs) -> Iterator[tuple[Any, ...]]:
    for tokens in TOKENS:
        for outputs, inputs in WEIGHTS:
            weight = make(outputs, inputs, gain=inputs**-0.5)
            yield make(tokens, inputs), weight, None
            yield make(tokens, inputs), weight, make(outputs)


CASES: dict[str, Callable[[Inputs], Iterator[tuple[Any, ...]]]] = {
    "linear": linears,
    "rms_norm": norms,
    "add_rms_norm": added_norms,
    "rotary": rotations,
    **dict.fromkeys(
        ("silu_and_mul", "gelu_and_mul", "gelu_tanh_and_mul", "relu_and_mul", "gelu", "gelu_tanh"),
        gated,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_op(subject: Subject, rng: np.random.Generator, name: str) -> None:
    """In every dtype; ``linear`` on weights as ``prepare_linear`` leaves them."""
    for variant in subject.variants:
        if variant.kv_dtype != "auto" or variant.quantization:
            continue
        runner: Any = subject.shared(subject.families[0], variant).runner
        family = getattr(runner, "family", None)
        if family is None:
            pytest.skip("the platform's runner is not pagoda_torch's own")
        ops = runner.context.ops
        make = Inputs(rng, DTYPES[variant.dtype], family.device.device)
        for arguments in CASES[name](make):
            with torch.inference_mode():
                expected = _plain(name, arguments)
                got = _override(ops, name, arguments)
            for one, right in zip(got, expected, strict=True):
                assert one.dtype == make.dtype, f"{name} gave {one.dtype} for {make.dtype}"
                size = right.abs().clamp(min=1)
                error = float(((one.float().cpu() - right) / size).abs().max())
                assert error <= allowed(make.dtype), (
                    f"op {name!r} in {variant.dtype} is off by {error:.2g} on shapes"
                    f" {[tuple(x.shape) for x in arguments if isinstance(x, Tensor)]};"
                    f" {allowed(make.dtype):.2g} is allowed"
                )


def _plain(name: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The reference on the same values in float32, on the host."""
    wide = [x.float().cpu().clone() if isinstance(x, Tensor) else x for x in arguments]
    found = getattr(reference, name)(*wide)
    return found if isinstance(found, tuple) else (found,)


def _override(ops: Any, name: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    own = [x.clone() if isinstance(x, Tensor) else x for x in arguments]
    if name == "linear":
        own[1] = ops.prepare_linear(own[1])
    found = getattr(ops, name)(*own)
    return found if isinstance(found, tuple) else (found,)
