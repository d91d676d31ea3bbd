"""Nothing but attention may mix tokens, and attention's mask must be one that pages can serve."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    chunked_overlay,
    or_masks,
    sliding_window_causal_mask_function,
)

from pagoda.platform import UnsupportedFeature
from pagoda_torch.models import transformers_probe
from pagoda_torch.models.transformers_probe import Recorder, check_mixing, sampled_mask

TABLE = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def embed(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return TABLE[ids] + positions[:, None]


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x.cumsum(0),
        lambda x: x + 0.1 * x.roll(1, 0),
        lambda x: torch.conv1d(x.T[None], torch.ones(16, 1, 3) / 3, padding=1, groups=16)[0].T,
        lambda x: x.sort(0).values,
    ],
)
def test_mixing_outside_attention_is_found(mix) -> None:
    with pytest.raises(UnsupportedFeature, match=r"Odd cannot .* mixes tokens"):
        check_mixing(lambda ids, at: mix(embed(ids, at)), "Odd", torch.device("cpu"))


def test_work_on_each_token_alone_is_fine() -> None:
    check_mixing(lambda ids, at: torch.tanh(embed(ids, at)), "Plain", torch.device("cpu"))


class Attending(nn.Module):
    pass


def record(monkeypatch, mask_function, window=None, config_window=None, **more):
    model = Attending()
    config = SimpleNamespace(sliding_window=config_window, attention_chunk_size=None)
    recorder = Recorder(model, config, max_len=200)
    monkeypatch.setattr(transformers_probe, "_sampled", recorder.grid)
    q, kv = torch.empty(1, 4, 3, 8, device="meta"), torch.empty(1, 2, 3, 8, device="meta")
    mask = None if mask_function is None else sampled_mask(mask_function=mask_function)
    out = recorder(model, q, kv, kv, mask, sliding_window=window, **more)
    assert out.shape == (1, 3, 4, 8)
    return recorder.calls[0].spec


def test_masks_that_pages_can_serve(monkeypatch) -> None:
    spec = record(monkeypatch, causal_mask_function, scaling=0.5, softcap=3.0, dropout=0.0)
    assert (spec.num_heads, spec.num_kv_heads, spec.head_size) == (4, 2, 8)
    assert (spec.scale, spec.soft_cap, spec.window) == (0.5, 3.0, None)
    window = sliding_window_causal_mask_function(9)
    assert record(monkeypatch, window, window=9).window == 9
    assert record(monkeypatch, window, config_window=9).window == 9
    assert record(monkeypatch, causal_mask_function, window=9).window is None


@pytest.mark.parametrize(
    "mask",
    [
        None,
        bidirectional_mask_function,
        or_masks(causal_mask_function, lambda b, h, q, k: k < 4),
        and_masks(chunked_overlay(16, torch.zeros(1, dtype=torch.int64)), causal_mask_function),
        sliding_window_causal_mask_function(10),
    ],
)
def test_masks_that_they_cannot(monkeypatch, mask) -> None:
    with pytest.raises(UnsupportedFeature, match="neither causal nor a sliding window"):
        record(monkeypatch, mask, window=9)


@pytest.mark.parametrize("more", [{"s_aux": torch.ones(4)}, {"dropout": 0.1}, {"is_causal": False}])
def test_arguments_that_attention_does_not_know(monkeypatch, more) -> None:
    with pytest.raises(UnsupportedFeature, match="Attending cannot be served"):
        record(monkeypatch, causal_mask_function, **more)
