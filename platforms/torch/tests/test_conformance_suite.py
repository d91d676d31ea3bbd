"""The torch part of the conformance kit can fail: attention that is wrong in one way is caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from pagoda_torch.attention import AttentionSpec
from pagoda_torch.conformance.dense import Bench, allowed
from pagoda_torch.conformance.test_attention import STEPS
from pagoda_torch.gather_attention import GatherAttention


class HostDevice:
    """The host, as pagoda_torch.family.TorchDevice wants it, as far as attention needs it."""

    device = torch.device("cpu")
    overlaps = False

    def upload(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array)


class Changed(GatherAttention):
    """The right backend, asked about another layer."""

    change: dict[str, object]

    def forward(self, q, k, v, cache, plan, layer):  # type: ignore[no-untyped-def]
        wrong = dataclasses.replace(layer, **self.change)
        return super().forward(q, k, v, cache, plan, wrong)


class NoScale(Changed):
    change = {"scale": 1.0}  # noqa: RUF012


class NoWindow(Changed):
    change = {"window": None}  # noqa: RUF012


class WindowTooNarrow(Changed):
    change = {"window": 18}  # noqa: RUF012


class NoCap(Changed):
    change = {"soft_cap": None}  # noqa: RUF012


class MixedHeads(GatherAttention):
    def forward(self, q, k, v, cache, plan, layer):  # type: ignore[no-untyped-def]
        return super().forward(q.flip(1), k, v, cache, plan, layer).view(len(q), -1)


class ValuesLost(GatherAttention):
    """The last token's values never reach the cache."""

    def forward(self, q, k, v, cache, plan, layer):  # type: ignore[no-untyped-def]
        found = super().forward(q, k, v, cache, plan, layer)
        cache.view(2, -1, layer.num_kv_heads, layer.head_size)[1, plan.step.cache_slots[-1]] = 0
        return found


def largest_error(backend: GatherAttention, soft_cap: float | None = 2.5) -> float:
    layer = AttentionSpec(8, 2, 64, 0.125, 19, soft_cap)
    errors = []
    for steps in STEPS.values():
        rng = np.random.default_rng(3)
        bench = Bench(backend, layer, 16, HostDevice(), torch.float32, rng)  # type: ignore[arg-type]
        errors += [bench.run(queries) for queries in steps]
    return max(errors)


def test_the_right_one_passes() -> None:
    assert largest_error(GatherAttention()) <= allowed(torch.float32)


@pytest.mark.parametrize(
    "wrong", [NoScale, NoWindow, WindowTooNarrow, NoCap, MixedHeads, ValuesLost]
)
def test_wrong_ones_are_caught(wrong: type[GatherAttention]) -> None:
    assert largest_error(wrong()) > 100 * allowed(torch.float32)
