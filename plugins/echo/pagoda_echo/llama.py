"""Llama: its tensors out of a checkpoint, and the forward pass; where keys and values are kept is
the caller's business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pagoda.models.info import rope_parameters
from pagoda.models.weights import RawTensor, iter_weights
from pagoda.platform import BadCheckpoint, ModelInfo, RunnerConfig, UnsupportedFeature

Float32 = npt.NDArray[np.float32]
Attend = Callable[[int, Float32, Float32, Float32], Float32]
"""(layer, query [T, Hq, D], key [T, Hk, D], value [T, Hk, D]) -> [T, Hq, D]"""


class Llama:
    """Weights by their checkpoint names, and what happens to T tokens that lie end to end."""

    def __init__(self, model: ModelInfo, config: RunnerConfig):
        refuse_what_is_not_plain_llama(model)
        self.model = model
        self.epsilon = np.float32(model.config.get("rms_norm_eps", 1e-6))  # type: ignore[arg-type]
        self.tied = bool(model.config.get("tie_word_embeddings", False))
        self.weights = (
            random_weights(self.shapes(), config.seed)
            if config.load_format == "dummy"
            else read_weights(self.shapes(), model, config)
        )
        theta = np.float32(rope_parameters(model.config)["rope_theta"])
        half = np.arange(0, model.head_dim, 2, dtype=np.float32) / np.float32(model.head_dim)
        angles = np.outer(np.arange(config.max_model_len, dtype=np.float32), theta**-half)
        self.cos, self.sin = np.cos(angles), np.sin(angles)  # [max_model_len, D / 2]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        model, config = self.model, self.model.config
        hidden, inner = config.get("hidden_size"), config.get("intermediate_size")
        if not isinstance(hidden, int) or not isinstance(inner, int):
            raise BadCheckpoint(f"config.json: hidden_size={hidden}, intermediate_size={inner}")
        width, kv_width = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
        layer = {
            "input_layernorm": (hidden,),
            "self_attn.q_proj": (width, hidden),
            "self_attn.k_proj": (kv_width, hidden),
            "self_attn.v_proj": (kv_width, hidden),
            "self_attn.o_proj": (hidden, width),
            "post_attention_layernorm": (hidden,),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes: dict[str, tuple[int, ...]] = {
            f"model.layers.{i}.{name}.weight": shape
            for i in range(model.num_layers)
            for name, shape in layer.items()
        }
        shapes["model.embed_tokens.weight"] = (model.vocab_size, hidden)
        shapes["model.norm.weight"] = (hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (model.vocab_size, hidden)
        return shapes

    def forward(self, token_ids: npt.NDArray[np.int32], positions: Any, attend: Attend) -> Float32:
        """[T, hidden] of tokens [T] at positions [T] of their own sequences."""
        x = self.weights["model.embed_tokens.weight"][token_ids]
        cos, sin = self.cos[positions, None], self.sin[positions, None]  # [T, 1, D / 2]
        for layer in range(self.model.num_layers):
            at = f"model.layers.{layer}."
            h = self._norm(x, at + "input_layernorm")
            query, key, value = (self._heads(h, f"{at}self_attn.{n}_proj") for n in "qkv")
            mixed = attend(layer, rotate(query, cos, sin), rotate(key, cos, sin), value)
            x = x + self._linear(mixed.reshape(len(x), -1), at + "self_attn.o_proj")
            h = self._norm(x, at + "post_attention_layernorm")
            gate, up = (self._linear(h, f"{at}mlp.{n}_proj") for n in ("gate", "up"))
            x = x + self._linear(silu(gate) * up, at + "mlp.down_proj")
        return self._norm(x, "model.norm")

    def logits(self, hidden: Float32) -> Float32:
        """[N, V] from rows of ``forward``."""
        return self._linear(hidden, "model.embed_tokens" if self.tied else "lm_head")

    def _heads(self, x: Float32, name: str) -> Float32:
        return self._linear(x, name).reshape(len(x), -1, self.model.head_dim)

    def _linear(self, x: Float32, name: str) -> Float32:
        y: Float32 = x @ self.weights[name + ".weight"].T
        return y

    def _norm(self, x: Float32, name: str) -> Float32:
        size = np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon)
        y: Float32 = x / size * self.weights[name + ".weight"]
        return y


def rotate(x: Float32, cos: Float32, sin: Float32) -> Float32:
    """RoPE on [T, H, D]: the two halves of D are coordinates of the pairs turned."""
    left, right = np.split(x, 2, axis=-1)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def silu(x: Float32) -> Float32:
    with np.errstate(over="ignore"):  # exp of a very negative x: the quotient is a right 0
        y: Float32 = x / (1 + np.exp(-x))
    return y


def refuse_what_is_not_plain_llama(model: ModelInfo) -> None:
    """Raise UnsupportedFeature, before anything is loaded, for what would come out wrong."""
    config, rope = model.config, rope_parameters(model.config)
    facts = {
        "architecture": (model.architecture, "LlamaForCausalLM"),
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "attention_bias": (bool(config.get("attention_bias")), False),
        "mlp_bias": (bool(config.get("mlp_bias")), False),
        "rope_type": (rope.get("rope_type"), "default"),
        "partial_rotary_factor": (rope.get("partial_rotary_factor", 1), 1),
    }
    for key, (value, expected) in facts.items():
        if value != expected:
            raise UnsupportedFeature(
                f"platform 'echo' runs Llama with {key}={expected!r}, not {value!r}",
                "another --device",
            )


def read_weights(
    shapes: Mapping[str, tuple[int, ...]], model: ModelInfo, config: RunnerConfig
) -> dict[str, Float32]:
    """The tensors of ``shapes`` in float32.  Raises BadCheckpoint, naming what does not fit."""
    weights: dict[str, Float32] = {}
    for tensor in iter_weights(model.path, config.load_format, config.show_progress):
        if tensor.name not in shapes:
            if tensor.name == "lm_head.weight" or tensor.name.endswith("rotary_emb.inv_freq"):
                continue  # a tied matrix written twice, a table that is computed here
            raise BadCheckpoint(f"{model.path}: {tensor.name} has no place in this model")
        if tensor.shape != shapes[tensor.name]:
            found, expected = list(tensor.shape), list(shapes[tensor.name])
            raise BadCheckpoint(f"{model.path}: {tensor.name} is {found}, not {expected}")
        weights[tensor.name] = as_float32(tensor)
    missing = sorted(set(shapes) - set(weights))
    if missing:
        raise BadCheckpoint(f"{model.path}: {len(missing)} tensors missing, {missing[0]} first")
    return weights


def as_float32(tensor: RawTensor) -> Float32:
    """A copy: the buffer belongs to a file mapping that is about to close."""
    if tensor.dtype == "BF16":  # the upper half of a float32
        bits = np.frombuffer(tensor.buffer, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(tensor.shape)
    if tensor.dtype not in ("F32", "F16"):
        raise BadCheckpoint(f"{tensor.name} is stored as {tensor.dtype}, which is not read here")
    stored = np.frombuffer(tensor.buffer, "<f4" if tensor.dtype == "F32" else "<f2")
    return stored.astype(np.float32).reshape(tensor.shape)


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Float32]:
    """For --load-format dummy: matrices that keep the size of what passes, norms of 1."""
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.standard_normal(shape, np.float32) / np.float32(shape[1] ** 0.5)
        for name, shape in shapes.items()
    }
