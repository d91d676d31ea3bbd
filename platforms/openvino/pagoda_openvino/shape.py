"""A Llama-like model's sizes and switches, read from its config: Llama, Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.models.info import rope_parameters
from pagoda.platform import BadCheckpoint, ModelInfo, UnsupportedFeature

ARCHITECTURES = (
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
)
REMEDY = "another --device"


@dataclass(frozen=True)
class LlamaShape:
    """What the graph of one model is built from."""

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int
    norm_eps: float
    tied: bool  # the embedding is the output matrix too
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    windows: tuple[int | None, ...]  # by layer; None: all positions are seen
    rope: Mapping[str, Any]


def read_shape(model: ModelInfo) -> LlamaShape:
    """Understand a config.  Raises UnsupportedFeature for what would come out wrong."""
    config = model.config
    _refuse(model)
    llama, mistral, qwen2, qwen3 = (model.architecture == name for name in ARCHITECTURES)
    attention_bias = bool(config.get("attention_bias")) and (llama or qwen3)
    epsilon = config.get("rms_norm_eps", 1e-6)
    if not isinstance(epsilon, int | float):
        raise BadCheckpoint(f"config.json: rms_norm_eps={epsilon!r}, a number was expected")
    return LlamaShape(
        num_layers=model.num_layers,
        hidden=_size(config, "hidden_size"),
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        intermediate=_size(config, "intermediate_size"),
        vocab_size=model.vocab_size,
        norm_eps=float(epsilon),
        tied=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=qwen2 or attention_bias,
        o_bias=attention_bias,
        mlp_bias=llama and bool(config.get("mlp_bias")),
        qk_norm=qwen3,
        windows=(None,) * model.num_layers if llama else _windows(model, every_layer=mistral),
        rope=rope_parameters(config),
    )


def _refuse(model: ModelInfo) -> None:
    config = model.config
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(key):
            raise UnsupportedFeature(
                f"{model.architecture}: {key}={config[key]}, and OpenVINO's paged attention has no"
                " soft cap",
                REMEDY,
            )
    if model.architecture not in ARCHITECTURES:
        raise UnsupportedFeature(
            f"platform 'openvino' runs {', '.join(ARCHITECTURES)}, not {model.architecture}", REMEDY
        )
    activation = config.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedFeature(
            f"platform 'openvino' knows hidden_act silu, not {activation!r}", REMEDY
        )


def _size(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadCheckpoint(f"config.json: {key}={value!r}, a whole number above 0 was expected")
    return value


def _windows(model: ModelInfo, every_layer: bool) -> tuple[int | None, ...]:
    """Mistral has one window for all layers, Qwen for some layers when told to use it."""
    config: Mapping[str, Any] = model.config
    window = config.get("sliding_window")
    if not window or not (every_layer or config.get("use_sliding_window")):
        return (None,) * model.num_layers
    if every_layer:
        return (window,) * model.num_layers
    first = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention"
        for layer in range(model.num_layers)
    ]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
