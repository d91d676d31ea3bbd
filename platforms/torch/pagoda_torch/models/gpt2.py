"""GPT-2: learned positions, norms before, weights stored [inputs, outputs]."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pagoda.platform import UnsupportedFeature
from pagoda_torch.attention import AttentionSpec
from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.layers.embedding import Embedding, LMHead
from pagoda_torch.layers.linear import Linear
from pagoda_torch.layers.norm import LayerNorm
from pagoda_torch.models.activations import plain_activation
from pagoda_torch.step import TorchStep


class Block:
    """Attention and MLP, each normed before and added to the residual stream."""

    def __init__(self, context: ModelContext, layer: int):
        info, config = context.info, context.info.config
        self.heads, self.size = info.num_heads, info.head_dim
        hidden = self.heads * self.size
        inner = int(config.get("n_inner") or 4 * hidden)  # type: ignore[call-overload]
        epsilon = float(config.get("layer_norm_epsilon", 1e-5))  # type: ignore[arg-type]
        scale = self.size**-0.5 if config.get("scale_attn_weights", True) else 1.0
        if config.get("scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        self.attention_norm = LayerNorm(context, hidden, epsilon)
        self.qkv = Linear(context, hidden, 3 * hidden, bias=True)
        spec = AttentionSpec(self.heads, self.heads, self.size, scale)
        self.attention = Attention(context, spec)
        self.output = Linear(context, hidden, hidden, bias=True)
        self.mlp_norm = LayerNorm(context, hidden, epsilon)
        self.up = Linear(context, hidden, inner, bias=True)
        self.down = Linear(context, inner, hidden, bias=True)
        name = str(config.get("activation_function", "gelu_new"))
        self.activation = plain_activation(name)

    def __call__(
        self, x: Tensor, residual: Tensor | None, step: TorchStep
    ) -> tuple[Tensor, Tensor]:
        """``x`` is yet to be added to ``residual``, None where nothing is."""
        qkv, residual = self.qkv.after(self.attention_norm, x, residual)
        qkv = qkv.view(-1, 3, self.heads, self.size)
        x = self.output(self.attention(qkv[:, 0], qkv[:, 1], qkv[:, 2], step))
        inner, residual = self.up.after(self.mlp_norm, x, residual, self.activation)
        return self.down(inner), residual

    def weights(self, prefix: str) -> dict[str, Tensor]:
        return (
            self.attention_norm.weights(f"{prefix}.ln_1")
            | self.qkv.weights(f"{prefix}.attn.c_attn", transposed=True)
            | self.output.weights(f"{prefix}.attn.c_proj", transposed=True)
            | self.mlp_norm.weights(f"{prefix}.ln_2")
            | self.up.weights(f"{prefix}.mlp.c_fc", transposed=True)
            | self.down.weights(f"{prefix}.mlp.c_proj", transposed=True)
        )


class GPT2Model:
    """The whole network; implements ``CausalLM``."""

    can_record = True

    def __init__(self, context: ModelContext):
        info = context.info
        if info.config.get("add_cross_attention", False):
            raise UnsupportedFeature("GPT-2 with cross-attention is half of an encoder-decoder")
        hidden = info.num_heads * info.head_dim
        epsilon = float(info.config.get("layer_norm_epsilon", 1e-5))  # type: ignore[arg-type]
        self.tokens = Embedding(context, info.vocab_size, hidden)
        self.places = Embedding(context, info.max_len, hidden)
        self.blocks = [Block(context, layer) for layer in range(info.num_layers)]
        self.norm = LayerNorm(context, hidden, epsilon)
        tied = self.tokens if info.config.get("tie_word_embeddings", True) else None
        self.head = LMHead(context, hidden, info.vocab_size, tied)

    def forward(self, token_ids: Tensor, positions: Tensor, step: TorchStep) -> Tensor:
        x = self.tokens(token_ids) + self.places(positions)
        residual = None
        for block in self.blocks:
            x, residual = block(x, residual, step)
        return self.norm(x) if residual is None else self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def weights(self) -> Mapping[str, Tensor]:
        found = self.tokens.weights("transformer.wte") | self.places.weights("transformer.wpe")
        for layer, block in enumerate(self.blocks):
            found |= block.weights(f"transformer.h.{layer}")
        return found | self.norm.weights("transformer.ln_f") | self.head.weights("lm_head")

    def checkpoint_name(self, name: str) -> str | None:
        if name.endswith((".attn.bias", ".attn.masked_bias")):  # causal masks of old checkpoints
            return None
        if name == "lm_head.weight":
            return None if self.head.tied else name
        return name if name.startswith("transformer.") else f"transformer.{name}"
