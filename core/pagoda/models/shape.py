"""A Llama-like model's shape, read from its config: Llama, Mistral, Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.models.info import refuse_quantized, rope_parameters
from pagoda.platform.errors import BadCheckpoint, UnsupportedFeature
from pagoda.platform.types import ModelInfo

ARCHITECTURES = (
    *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
)


@dataclass(frozen=True)
class LlamaShape:
    """Sizes and switches of one model."""

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
    windows: tuple[int | None, ...]  # tokens each layer looks back on, itself counted; None: all
    rope: Mapping[str, Any]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a checkpoint of this model holds."""
        width, kv_width = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocab_size, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        if not self.tied:
            found["lm_head.weight"] = (self.vocab_size, self.hidden)
        linears = {
            "self_attn.q_proj": (width, self.hidden, self.qkv_bias),
            "self_attn.k_proj": (kv_width, self.hidden, self.qkv_bias),
            "self_attn.v_proj": (kv_width, self.hidden, self.qkv_bias),
            "self_attn.o_proj": (self.hidden, width, self.o_bias),
            "mlp.gate_proj": (self.intermediate, self.hidden, self.mlp_bias),
            "mlp.up_proj": (self.intermediate, self.hidden, self.mlp_bias),
            "mlp.down_proj": (self.hidden, self.intermediate, self.mlp_bias),
        }
        norms = {"input_layernorm": self.hidden, "post_attention_layernorm": self.hidden}
        if self.qk_norm:
            norms |= {"self_attn.q_norm": self.head_dim, "self_attn.k_norm": self.head_dim}
        for layer in range(self.num_layers):
            prefix = f"model.layers.{layer}."
            for name, (rows, columns, bias) in linears.items():
                found[f"{prefix}{name}.weight"] = (rows, columns)
                if bias:
                    found[f"{prefix}{name}.bias"] = (rows,)
            for name, size in norms.items():
                found[f"{prefix}{name}.weight"] = (size,)
        return found


def read_shape(model: ModelInfo, platform: str) -> LlamaShape:
    """Understand a config.  Raises UnsupportedFeature, in the name of ``platform``, for what is not
    of this family or would come out wrong."""
    config: Mapping[str, Any] = model.config
    refuse_quantized(model)
    if model.architecture not in ARCHITECTURES:
        raise UnsupportedFeature(
            f"platform {platform!r} runs {', '.join(ARCHITECTURES)}, not {model.architecture}",
            "another --device",
        )
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UnsupportedFeature(
            f"platform {platform!r} knows hidden_act silu, not {config['hidden_act']!r}",
            "another --device",
        )
    epsilon = config.get("rms_norm_eps", 1e-6)
    if not isinstance(epsilon, int | float):
        raise BadCheckpoint(f"config.json: rms_norm_eps={epsilon!r}, a number was expected")
    qwen2 = model.architecture == "Qwen2ForCausalLM"
    mistral = model.architecture == "MistralForCausalLM"
    attention_bias = bool(config.get("attention_bias")) and not (qwen2 or mistral)
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
        mlp_bias=model.architecture == "LlamaForCausalLM" and bool(config.get("mlp_bias")),
        qk_norm=model.architecture == "Qwen3ForCausalLM",
        windows=_windows(config, model),
        rope=rope_parameters(config),
    )


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadCheckpoint(f"config.json: {key}={value!r}, a whole number above 0 was expected")
    return value


def _windows(config: Mapping[str, Any], model: ModelInfo) -> tuple[int | None, ...]:
    """Llama never has one, Mistral one for all layers, Qwen for some layers when told to use it."""
    window = config.get("sliding_window")
    if model.architecture == "LlamaForCausalLM" or not window:
        return (None,) * model.num_layers
    if model.architecture == "MistralForCausalLM":
        return (window,) * model.num_layers
    if not config.get("use_sliding_window"):
        return (None,) * model.num_layers
    first = config.get("max_window_layers", 28)
    kinds = config.get("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention"
        for layer in range(model.num_layers)
    ]
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
