"""The Llama family as an OpenVINO graph, written down operation by operation from raw weights.

Tokens are the batch dimension and every sequence has length 1, [T, 1, ...]: so no operation but
attention knows where a request begins."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
import openvino as ov
from openvino import opset13 as op

from pagoda.models.rope import frequencies
from pagoda.models.shape import LlamaShape, read_shape
from pagoda.platform import ModelInfo, RunnerConfig
from pagoda.platform.batch import Float32
from pagoda_openvino.blocking import NO_LIMIT
from pagoda_openvino.paged_attention import (
    Heads,
    cache_parameters,
    paged_attention,
    parameter,
    step_parameters,
)
from pagoda_openvino.quantization import QuantizedWeights
from pagoda_openvino.rope import Rotation, ints
from pagoda_openvino.weights import Weights, open_source


class LlamaGraph:
    """Implements ``ModelGraph``; reads config.json, and no weights, when it is made."""

    def __init__(self, model: ModelInfo, config: RunnerConfig):
        self.model, self.config = model, config
        self.shape = read_shape(model, "openvino")
        self.radians = frequencies(self.shape.rope, self.shape.head_dim, "openvino")
        self.weights: Weights | None = None  # the compiled model reads them in place

    def build(self) -> ov.Model:
        source = open_source(self.model, self.config, self.shape.tied)
        kind = self.config.quantization
        weights = self.weights = QuantizedWeights(source, kind) if kind else Weights(source)
        graph = _Builder(self.shape, self.radians, weights).model()
        source.finish()
        return graph

    @property
    def most_tokens(self) -> int:
        return self.weights.most_tokens if self.weights else NO_LIMIT

    def hand_back_pages(self) -> None:
        if self.weights is not None:
            self.weights.hand_back_pages()


class _Builder:
    def __init__(self, shape: LlamaShape, radians: Float32, weights: Weights):
        self.shape = shape
        self.weights = weights
        self.token_ids, self.positions, self.logit_rows = (
            parameter(name, ov.Type.i64, [-1]) for name in ("token_ids", "positions", "logit_rows")
        )
        self.step = step_parameters()
        self.caches: list[ov.Node] = []
        self.rotation = Rotation(self.positions, radians)

    def model(self) -> ov.Model:
        shape = self.shape
        size = (shape.vocab_size, shape.hidden)
        table = self.weights.matrix("model.embed_tokens.weight", size)
        x = op.gather(table, op.unsqueeze(self.token_ids, ints(1)), ints(0))  # [T, 1, hidden]
        for layer in range(shape.num_layers):
            at = f"model.layers.{layer}."
            mixed = self._attention(layer, self._norm(x, f"{at}input_layernorm"))
            if layer == shape.num_layers - 1:  # its keys and values are all cached: the rest of it
                x, mixed = self._wanted(x), self._wanted(mixed)  # is for rows with logits alone
            rows = {f"{at}self_attn.o_proj": shape.hidden}
            x = op.add(x, self._linear(mixed, rows, shape.o_bias))
            x = op.add(x, self._mlp(f"{at}mlp.", self._norm(x, f"{at}post_attention_layernorm")))
        x = self._norm(x, "model.norm")
        head = [table] if shape.tied else self.weights.factors({"lm_head.weight": size})
        logits = op.reshape(_product(x, head), ints([-1, shape.vocab_size]), False)
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [self.token_ids, self.positions, self.logit_rows, *self.step.values()]
        return ov.Model([op.result(logits)], [*inputs, *self.caches], "llama")

    def _attention(self, layer: int, x: ov.Node) -> ov.Node:
        shape, at = self.shape, f"model.layers.{layer}.self_attn."
        dim, num_heads, num_kv_heads = shape.head_dim, shape.num_heads, shape.num_kv_heads
        widths = [num_heads * dim, num_kv_heads * dim, num_kv_heads * dim]
        rows = dict(zip((f"{at}{kind}_proj" for kind in "qkv"), widths, strict=True))
        parts = op.variadic_split(self._linear(x, rows, shape.qkv_bias), ints(2), ints(widths))
        query, key, value = parts.outputs()
        query, key = self._heads(query, num_heads), self._heads(key, num_kv_heads)
        if shape.qk_norm:
            query = self._norm(query, f"{at}q_norm", dim)
            key = self._norm(key, f"{at}k_norm", dim)
        cache = cache_parameters(layer)
        self.caches += cache
        mixed = paged_attention(
            (
                _flat(self.rotation.turn(query), num_heads * dim),
                _flat(self.rotation.turn(key), num_kv_heads * dim),
                _flat(value, num_kv_heads * dim),
            ),
            cache,
            self.step,
            Heads(num_heads, num_kv_heads, dim, shape.windows[layer]),
        )
        return op.reshape(mixed, ints([-1, 1, num_heads * dim]), False)

    def _wanted(self, x: ov.Node) -> ov.Node:
        return op.gather(x, self.logit_rows, ints(0))

    def _mlp(self, at: str, x: ov.Node) -> ov.Node:
        hidden, inner, biased = self.shape.hidden, self.shape.intermediate, self.shape.mlp_bias
        gate = self._linear(x, {f"{at}gate_proj": inner}, biased)
        up = self._linear(x, {f"{at}up_proj": inner}, biased)
        # op.swish would keep OpenVINO from computing the whole MLP as one operation.
        mixed = op.multiply(op.multiply(gate, op.sigmoid(gate)), up)
        return self._linear(mixed, {f"{at}down_proj": hidden}, biased)

    def _heads(self, x: ov.Output, count: int) -> ov.Node:
        return op.reshape(x, ints([0, count, 1, self.shape.head_dim]), True)

    def _linear(self, x: ov.Node, rows: Mapping[str, int], biased: bool) -> ov.Node:
        """x [T, 1, C] times matrices of so many rows each, their results end to end."""
        columns = x.output(0).get_partial_shape()[2].get_length()
        sizes = {f"{name}.weight": (count, columns) for name, count in rows.items()}
        y = _product(x, self.weights.factors(sizes))
        if not biased:
            return y
        return op.add(y, self.weights.vector({f"{name}.bias": n for name, n in rows.items()}))

    def _norm(self, x: ov.Node, name: str, size: int | None = None) -> ov.Node:
        square = op.power(x, _scalar(2))
        mean = op.reduce_mean(square, ints([-1]), keep_dims=True)
        scale = op.divide(_scalar(1), op.sqrt(op.add(mean, _scalar(self.shape.norm_eps))))
        weight = self.weights.vector({f"{name}.weight": size or self.shape.hidden})
        return op.multiply(weight, op.multiply(x, scale))


def _product(x: ov.Node, factors: Sequence[ov.Node]) -> ov.Node:
    """x [T, 1, C] times a matrix whose columns lie in so many parts."""
    if len(factors) == 1:
        return op.matmul(x, factors[0], False, True)
    widths = [factor.output(0).get_shape()[1] for factor in factors]
    pieces = op.variadic_split(x, ints(2), ints(widths)).outputs()
    products = map(op.matmul, pieces, factors, repeat(False), repeat(True))
    return functools.reduce(op.add, products)


def _flat(x: ov.Node, width: int) -> ov.Node:
    return op.reshape(x, ints([-1, width]), False)


def _scalar(value: float) -> ov.Node:
    return op.constant(np.array(value, np.float32))
