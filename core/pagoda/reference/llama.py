"""The Llama forward pass in plain NumPy; where keys and values are kept is the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pagoda.models.shape import LlamaShape
from pagoda.platform.batch import Float32, Int32
from pagoda.reference.rope import rotate, tables

Attend = Callable[[int, Float32, Float32, Float32], Float32]
"""(layer, query [T, Hq, D], key [T, Hk, D], value [T, Hk, D]) -> [T, Hq, D]"""


class Llama:
    """Weights by their checkpoint names, float32."""

    def __init__(self, shape: LlamaShape, weights: Mapping[str, Float32], max_len: int):
        self.shape = shape
        self.weights = weights
        self.cos, self.sin = tables(shape.rope, shape.head_dim, max_len)

    def forward(self, token_ids: Int32, positions: Int32, attend: Attend) -> Float32:
        """[T, hidden] of tokens [T] at positions [T]."""
        cos, sin = self.cos[positions], self.sin[positions]
        x = self.weights["model.embed_tokens.weight"][token_ids]
        for layer in range(self.shape.num_layers):
            prefix = f"model.layers.{layer}."
            x = x + self._attention(
                layer, self._norm(x, prefix + "input_layernorm"), cos, sin, attend
            )
            x = x + self._mlp(prefix + "mlp.", self._norm(x, prefix + "post_attention_layernorm"))
        return self._norm(x, "model.norm")

    def logits(self, hidden: Float32) -> Float32:
        """[N, V] from rows of ``forward``'s answer."""
        name = "model.embed_tokens.weight" if self.shape.tied else "lm_head.weight"
        logits: Float32 = hidden @ self.weights[name].T
        return logits

    def _attention(
        self, layer: int, x: Float32, cos: Float32, sin: Float32, attend: Attend
    ) -> Float32:
        prefix, shape = f"model.layers.{layer}.self_attn.", self.shape
        query = self._linear(x, prefix + "q_proj").reshape(len(x), shape.num_heads, -1)
        key = self._linear(x, prefix + "k_proj").reshape(len(x), shape.num_kv_heads, -1)
        value = self._linear(x, prefix + "v_proj").reshape(len(x), shape.num_kv_heads, -1)
        if shape.qk_norm:
            query, key = self._norm(query, prefix + "q_norm"), self._norm(key, prefix + "k_norm")
        mixed = attend(layer, rotate(query, cos, sin), rotate(key, cos, sin), value)
        return self._linear(mixed.reshape(len(x), -1), prefix + "o_proj")

    def _mlp(self, prefix: str, x: Float32) -> Float32:
        gate, up = self._linear(x, prefix + "gate_proj"), self._linear(x, prefix + "up_proj")
        with np.errstate(over="ignore"):  # exp of a very negative gate: the quotient is a right 0
            return self._linear(gate / (1 + np.exp(-gate)) * up, prefix + "down_proj")

    def _norm(self, x: Float32, name: str) -> Float32:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        scale = np.sqrt(mean_square + np.float32(self.shape.norm_eps))
        normed: Float32 = x / scale * self.weights[name + ".weight"]
        return normed

    def _linear(self, x: Float32, name: str) -> Float32:
        y: Float32 = x @ self.weights[name + ".weight"].T
        bias = self.weights.get(name + ".bias")
        return y if bias is None else y + bias
