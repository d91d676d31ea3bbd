"""OPT: learned positions, norms before or after, the embedding perhaps narrower than the layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pagoda.platform import BadCheckpoint, ModelInfo
from pagoda_torch.attention import AttentionSpec
from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.embedding import Embedding, LMHead
from pagoda_torch.layers.linear import Linear
from pagoda_torch.layers.norm import LayerNorm
from pagoda_torch.models.activations import plain_activation
from pagoda_torch.step import TorchStep

POSITION_OFFSET = 2  # rows of the position table that belong to no position
EPSILON = 1e-5


@dataclass(frozen=True)
class OPTShape:
    """What OPT's sizes differ in; the defaults are transformers'."""

    hidden: int
    embedded: int
    inner: int
    norm_before: bool
    final_norm: bool
    bias: bool
    affine: bool
    tied: bool
    activation: str


def read_shape(info: ModelInfo) -> OPTShape:
    config: Mapping[str, Any] = info.config
    hidden, inner = info.num_heads * info.head_dim, config.get("ffn_dim", 3072)
    if not isinstance(inner, int) or inner < 1:
        raise BadCheckpoint(f"config.json: ffn_dim={inner!r}, a whole number above 0 was expected")
    before = bool(config.get("do_layer_norm_before", True))
    return OPTShape(
        hidden=hidden,
        embedded=int(config.get("word_embed_proj_dim") or hidden),
        inner=inner,
        norm_before=before,
        final_norm=before and not config.get("_remove_final_layer_norm", False),
        bias=bool(config.get("enable_bias", True)),
        affine=bool(config.get("layer_norm_elementwise_affine", True)),
        tied=bool(config.get("tie_word_embeddings", True)),
        activation=str(config.get("activation_function", "relu")),
    )


class Norm(LayerNorm):
    """A LayerNorm that may have no weights of its own."""

    def __init__(self, context: ModelContext, shape: OPTShape):
        super().__init__(context, shape.hidden, EPSILON)
        self.affine = shape.affine
        if not self.affine:
            self.weight.fill_(1)
            self.bias.zero_()

    def weights(self, name: str) -> dict[str, Tensor]:
        return super().weights(name) if self.affine else {}


class DecoderLayer:
    """Attention and MLP; each normed before it, or after the residual is added."""

    def __init__(self, context: ModelContext, shape: OPTShape):
        info, hidden = context.info, shape.hidden
        self.heads, self.size = info.num_heads, info.head_dim
        self.norm_before = shape.norm_before
        self.attention_norm, self.mlp_norm = Norm(context, shape), Norm(context, shape)
        self.qkv = Linear(context, hidden, [hidden] * 3, shape.bias)
        spec = AttentionSpec(self.heads, self.heads, self.size, self.size**-0.5)
        self.attention = Attention(context, spec)
        self.output = Linear(context, hidden, hidden, shape.bias)
        self.up = Linear(context, hidden, shape.inner, shape.bias)
        self.down = Linear(context, shape.inner, hidden, shape.bias)
        self.activation = plain_activation(shape.activation)
        self._activate = getattr(context.ops, self.activation)

    def __call__(
        self, x: Tensor, residual: Tensor | None, step: TorchStep
    ) -> tuple[Tensor, Tensor | None]:
        """``x`` is yet to be added to ``residual``, None where nothing is."""
        if not self.norm_before:
            x = self.attention_norm.add(self._attend(self.qkv(x), step), x)[0]
            return self.mlp_norm.add(self.down(self._activate(self.up(x))), x)[0], None
        qkv, residual = self.qkv.after(self.attention_norm, x, residual)
        x = self._attend(qkv, step)
        inner, residual = self.up.after(self.mlp_norm, x, residual, self.activation)
        return self.down(inner), residual

    def _attend(self, qkv: Tensor, step: TorchStep) -> Tensor:
        qkv = qkv.view(-1, 3, self.heads, self.size)
        return self.output(self.attention(qkv[:, 0], qkv[:, 1], qkv[:, 2], step))

    def weights(self, prefix: str) -> dict[str, Tensor]:
        names = [f"{prefix}.self_attn.{part}_proj" for part in "qkv"]
        return (
            self.qkv.weights(*names)
            | self.output.weights(f"{prefix}.self_attn.out_proj")
            | self.attention_norm.weights(f"{prefix}.self_attn_layer_norm")
            | self.up.weights(f"{prefix}.fc1")
            | self.down.weights(f"{prefix}.fc2")
            | self.mlp_norm.weights(f"{prefix}.final_layer_norm")
        )


class OPTModel:
    """The whole network; implements ``CausalLM``."""

    can_record = True

    def __init__(self, context: ModelContext):
        info = context.info
        shape = self.shape = read_shape(info)
        self.tokens = Embedding(context, info.vocab_size, shape.embedded)
        self.places = Embedding(context, info.max_len + POSITION_OFFSET, shape.hidden)
        narrow = shape.embedded != shape.hidden
        self.widen = Linear(context, shape.embedded, shape.hidden) if narrow else None
        self.layers = [DecoderLayer(context, shape) for _ in range(info.num_layers)]
        self.norm = Norm(context, shape) if shape.final_norm else None
        self.narrow = Linear(context, shape.hidden, shape.embedded) if narrow else None
        tied = self.tokens if shape.tied else None
        self.head = LMHead(context, shape.embedded, info.vocab_size, tied)

    def forward(self, token_ids: Tensor, positions: Tensor, step: TorchStep) -> Tensor:
        x = self.tokens(token_ids)
        if self.widen is not None:
            x = self.widen(x)
        x = x + self.places(positions + POSITION_OFFSET)
        residual = None
        for layer in self.layers:
            x, residual = layer(x, residual, step)
        if residual is None:
            return x if self.norm is None else self.norm(x)
        return x + residual if self.norm is None else self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden if self.narrow is None else self.narrow(hidden))

    def weights(self) -> Mapping[str, Tensor]:
        root = "model.decoder"
        found = self.tokens.weights(f"{root}.embed_tokens")
        found |= self.places.weights(f"{root}.embed_positions")
        if self.widen is not None and self.narrow is not None:
            found |= self.widen.weights(f"{root}.project_in")
            found |= self.narrow.weights(f"{root}.project_out")
        for i, layer in enumerate(self.layers):
            found |= layer.weights(f"{root}.layers.{i}")
        if self.norm is not None:
            found |= self.norm.weights(f"{root}.final_layer_norm")
        return found | self.head.weights("lm_head")

    def checkpoint_name(self, name: str) -> str | None:
        if name == "lm_head.weight":
            return None if self.head.tied else name
        return f"model.{name}" if name.startswith("decoder.") else name
