"""RoPE frequencies and rotations against transformers, in both spellings of the config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from pagoda.platform import BadCheckpoint
from pagoda_torch.layers.rotary import frequencies, read_rope
from pagoda_torch.ops import reference

SCALINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "truncate": False,
     "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.0},
    {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5},
    {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64,
     "short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 64},
    {"rope_type": "proportional", "factor": 2.0},
]  # fmt: skip


def config(scaling: dict[str, Any], **more: Any) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=64, num_attention_heads=4, head_dim=16, max_position_embeddings=256,
        rope_parameters={"rope_theta": 5000.0, **scaling}, **more,
    )  # fmt: skip


@pytest.mark.parametrize("partial", [None, 0.5])
@pytest.mark.parametrize("length", [32, 256, 1000])
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
def test_frequencies(scaling: dict[str, Any], length: int, partial: float | None) -> None:
    if partial is not None:
        if scaling["rope_type"] == "longrope":
            scaling = {**scaling, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
        scaling = {**scaling, "partial_rotary_factor": partial}
    theirs = config(scaling)
    wanted, wanted_scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, None, seq_len=length)
    new = theirs.to_dict()
    old = {k: v for k, v in new.items() if k != "rope_parameters"}
    values = dict(new["rope_parameters"])
    old["rope_theta"] = values.pop("rope_theta")
    old["rope_scaling"] = values | {"type": values.pop("rope_type")}
    for spelling in (new, old):
        inverse, scale = frequencies(read_rope(spelling, 16, length))
        torch.testing.assert_close(inverse, wanted, rtol=1e-6, atol=0)
        assert scale == pytest.approx(wanted_scale)


def test_default_and_rotation() -> None:
    theirs = config({"rope_type": "default"})
    torch.manual_seed(0)
    positions = torch.tensor([[0, 3, 77, 200]])
    cos, sin = LlamaRotaryEmbedding(theirs)(torch.zeros(1), positions)
    q, k = torch.randn(1, 4, 4, 16), torch.randn(1, 2, 4, 16)
    wanted = apply_rotary_pos_emb(q, k, cos, sin)
    angles = torch.outer(positions[0].float(), frequencies(read_rope(theirs.to_dict(), 16, 256))[0])
    ours_cos = torch.cat((angles.cos(), angles.cos()), -1)[:, None]
    ours_sin = torch.cat((-angles.sin(), angles.sin()), -1)[:, None]
    for x, expected in zip((q, k), wanted, strict=True):
        found = reference.rotary(x[0].transpose(0, 1).clone(), ours_cos, ours_sin)
        torch.testing.assert_close(found, expected[0].transpose(0, 1))


def test_partial_rotation_leaves_the_rest() -> None:
    x = torch.randn(3, 2, 16)
    cos, sin = torch.zeros(3, 1, 8), torch.ones(3, 1, 8)
    found = reference.rotary(x.clone(), cos, sin)
    torch.testing.assert_close(found[..., 8:], x[..., 8:])
    torch.testing.assert_close(found[..., :4], x[..., 4:8])


def test_unknown_and_incomplete_kinds_are_named() -> None:
    for scaling, match in (
        ({"rope_type": "spiral"}, "spiral"),
        ({"rope_type": "linear"}, "factor"),
    ):
        values = {"rope_parameters": {"rope_theta": 1e4, **scaling}, "max_position_embeddings": 64}
        with pytest.raises(BadCheckpoint, match=match):
            frequencies(read_rope(values, 16, 64))
