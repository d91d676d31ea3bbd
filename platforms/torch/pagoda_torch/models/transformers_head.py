"""The head of a transformers model on its own: output matrix, scales and caps, in its own code.

It is the whole model with a stand-in for its body, so that logits are made of wanted rows only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pagoda_torch.layers.context import ModelContext
from pagoda_torch.models.transformers_probe import refusal


class Head:
    """Hidden states [1, N, H] to logits [1, N, V]."""

    def __init__(self, model: nn.Module):
        self.model = model

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs_embeds=hidden, use_cache=False).logits
        return logits


class StandIn(nn.Module):
    """A body whose answer is what it was given."""

    def forward(self, *others: Any, inputs_embeds: Tensor, **rest: Any) -> Answer:
        return Answer(inputs_embeds)


class Answer:
    """A body's answer with nothing in it but hidden states."""

    def __init__(self, last_hidden_state: Tensor):
        self.last_hidden_state = last_hidden_state

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        """Router logits, caches and the like: this body made none."""


def split(model: Any) -> tuple[Any, Head]:
    """A model's body, and its head on its own.  The model is taken apart by this."""
    body = model.base_model
    if body is model:
        raise refusal(type(model).__name__, "it has no body apart from its head")
    setattr(model, model.base_model_prefix, StandIn())
    return body, Head(model)


def probe_head(model: Any, context: ModelContext) -> None:
    """Run a head apart from its body on the meta device.  Raises UnsupportedFeature."""
    who, (body, head) = type(model).__name__, split(model)
    size = body.config.get_text_config().hidden_size
    try:
        logits = head(torch.empty(1, 2, size, device="meta", dtype=context.dtype))
    except Exception as error:  # whatever a model's own code needs of its body
        raise refusal(who, f"its head does not run apart from its body ({error!r:.200})") from error
    if logits.shape != (1, 2, context.info.vocab_size):
        raise refusal(who, f"its logits are {list(logits.shape)}")
