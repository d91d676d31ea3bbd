"""Llama and the families that differ from it by configuration: Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pagoda.platform import BadCheckpoint, ModelInfo
from pagoda_torch.attention import Angles, AttentionSpec
from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.embedding import Embedding, LMHead
from pagoda_torch.layers.linear import Linear
from pagoda_torch.layers.norm import RMSNorm
from pagoda_torch.layers.rotary import Rotary
from pagoda_torch.models.activations import gated_activation
from pagoda_torch.step import TorchStep


@dataclass(frozen=True)
class LlamaShape:
    """What the families differ in."""

    hidden: int
    intermediate: int
    epsilon: float
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tied: bool
    activation: str
    windows: tuple[int | None, ...]  # one a layer


def read_shape(info: ModelInfo) -> LlamaShape:
    """Read the config; keys it leaves out have the family's own defaults."""
    config, family = info.config, info.architecture
    attention_bias = bool(config.get("attention_bias", False)) and family != "MistralForCausalLM"
    qwen2 = family == "Qwen2ForCausalLM"
    return LlamaShape(
        hidden=_size(config, "hidden_size"),
        intermediate=_size(config, "intermediate_size"),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),  # type: ignore[arg-type]
        qkv_bias=qwen2 or attention_bias,
        output_bias=attention_bias and not qwen2,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "LlamaForCausalLM",
        qk_norm=family == "Qwen3ForCausalLM",
        tied=bool(config.get("tie_word_embeddings", False)),
        activation=str(config.get("hidden_act", "silu")),
        windows=_windows(info),
    )


def _size(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise BadCheckpoint(f"config.json: {key}={value!r}, a whole number above 0 was expected")
    return value


def _windows(info: ModelInfo) -> tuple[int | None, ...]:
    config: Mapping[str, Any] = info.config
    window = config.get("sliding_window")
    if info.architecture == "LlamaForCausalLM" or window is None:
        return (None,) * info.num_layers
    if info.architecture == "MistralForCausalLM":
        return (int(window),) * info.num_layers
    if not config.get("use_sliding_window", False):
        return (None,) * info.num_layers
    kinds = config.get("layer_types")
    if kinds is None:
        first = int(config.get("max_window_layers", 28))
        kinds = ["sliding_attention" if i >= first else "" for i in range(info.num_layers)]
    if len(kinds) != info.num_layers:
        raise BadCheckpoint(f"config.json: {len(kinds)} layer_types for {info.num_layers} layers")
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds)


class SelfAttention:
    """Stacked q, k, v; optional norms of q and k; rotary; paged attention; output projection.
    Called with the product of q, k, v."""

    def __init__(self, context: ModelContext, shape: LlamaShape, layer: int):
        info = context.info
        self.heads, self.kv_heads, self.size = info.num_heads, info.num_kv_heads, info.head_dim
        widths = [n * self.size for n in (self.heads, self.kv_heads, self.kv_heads)]
        self.qkv = Linear(context, shape.hidden, widths, shape.qkv_bias)
        self.output = Linear(context, widths[0], shape.hidden, shape.output_bias)
        self.norms = [
            RMSNorm(context, self.size, shape.epsilon) for _ in range(2 if shape.qk_norm else 0)
        ]
        spec = AttentionSpec(
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_size=self.size,
            scale=self.size**-0.5,
            window=shape.windows[layer],
        )
        self.attention = Attention(context, spec)

    def __call__(self, qkv: Tensor, rotary: Rotary, angles: Angles, step: TorchStep) -> Tensor:
        qkv = qkv.view(-1, self.heads + 2 * self.kv_heads, self.size)
        return self.output(self.attention.stacked(qkv, self.norms, rotary, angles, step))

    def weights(self, prefix: str) -> dict[str, Tensor]:
        names = [f"{prefix}.{part}_proj" for part in "qkv"]
        found = self.qkv.weights(*names) | self.output.weights(f"{prefix}.o_proj")
        for norm, part in zip(self.norms, "qk", strict=False):
            found |= norm.weights(f"{prefix}.{part}_norm")
        return found


class GatedMLP:
    """down(act(gate(x)) * up(x)), gate and up stacked."""

    def __init__(self, context: ModelContext, shape: LlamaShape):
        width = shape.intermediate
        self.gate_up = Linear(context, shape.hidden, [width, width], shape.mlp_bias)
        self.down = Linear(context, width, shape.hidden, shape.mlp_bias)
        self.activation = gated_activation(shape.activation)

    def after(self, norm: RMSNorm, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Of the norm of ``x + residual``, and that sum."""
        gated, residual = self.gate_up.after(norm, x, residual, self.activation)
        return self.down(gated), residual

    def weights(self, prefix: str) -> dict[str, Tensor]:
        stacked = self.gate_up.weights(f"{prefix}.gate_proj", f"{prefix}.up_proj")
        return stacked | self.down.weights(f"{prefix}.down_proj")


class DecoderLayer:
    """Attention and MLP, each normed before; the residual stream is carried beside."""

    def __init__(self, context: ModelContext, shape: LlamaShape, layer: int):
        self.attention_norm = RMSNorm(context, shape.hidden, shape.epsilon)
        self.attention = SelfAttention(context, shape, layer)
        self.mlp_norm = RMSNorm(context, shape.hidden, shape.epsilon)
        self.mlp = GatedMLP(context, shape)

    def weights(self, prefix: str) -> dict[str, Tensor]:
        return (
            self.attention_norm.weights(f"{prefix}.input_layernorm")
            | self.attention.weights(f"{prefix}.self_attn")
            | self.mlp_norm.weights(f"{prefix}.post_attention_layernorm")
            | self.mlp.weights(f"{prefix}.mlp")
        )


class LlamaModel:
    """The whole network; implements ``CausalLM``."""

    can_record = True

    def __init__(self, context: ModelContext):
        info = context.info
        shape = read_shape(info)
        self.embedding = Embedding(context, info.vocab_size, shape.hidden)
        self.layers = [DecoderLayer(context, shape, i) for i in range(info.num_layers)]
        self.norm = RMSNorm(context, shape.hidden, shape.epsilon)
        tied = self.embedding if shape.tied else None
        self.head = LMHead(context, shape.hidden, info.vocab_size, tied)
        self.rotary = Rotary(context, info.config, info.head_dim)

    def forward(self, token_ids: Tensor, positions: Tensor, step: TorchStep) -> Tensor:
        x, residual = self.embedding(token_ids), None
        angles = self.rotary.at(positions)
        for layer in self.layers:
            qkv, residual = layer.attention.qkv.after(layer.attention_norm, x, residual)
            x = layer.attention(qkv, self.rotary, angles, step)
            x, residual = layer.mlp.after(layer.mlp_norm, x, residual)
        return self.norm(x) if residual is None else self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def weights(self) -> Mapping[str, Tensor]:
        found = self.embedding.weights("model.embed_tokens") | self.norm.weights("model.norm")
        for i, layer in enumerate(self.layers):
            found |= layer.weights(f"model.layers.{i}")
        return found | self.head.weights("lm_head")

    def checkpoint_name(self, name: str) -> str | None:
        if name.endswith(".rotary_emb.inv_freq") or (self.head.tied and name == "lm_head.weight"):
            return None
        if name.startswith(("embed_tokens.", "layers.", "norm.")):  # saved without the head
            return f"model.{name}"
        return name
