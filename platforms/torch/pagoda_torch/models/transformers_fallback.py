"""Every decoder-only model of transformers that has no class of ours, on our paged attention.

The model is transformers' own, weights loaded by our loader; its attention goes through
transformers' attention interface to ours.  What that cannot carry is refused when it is built."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights
from transformers.masking_utils import AttentionMaskInterface

from pagoda.platform import BadCheckpoint, UnsupportedFeature
from pagoda_torch.layers.attention import Attention
from pagoda_torch.layers.context import ModelContext
from pagoda_torch.models.transformers_head import probe_head, split
from pagoda_torch.models.transformers_linear import take_over_linears
from pagoda_torch.models.transformers_probe import (
    PROBE,
    AttentionCall,
    check_mixing,
    probe,
    refusal,
    sampled_mask,
)
from pagoda_torch.models.transformers_weights import CheckpointNames
from pagoda_torch.step import TorchStep

PAGED = "pagoda"
"""The attention implementation of a served model: no masks are built for it."""


def _attend(module: Any, *tensors: Tensor | None, **rest: Any) -> tuple[Tensor, None]:
    return module.pagoda_attention(module, *tensors, **rest), None


AttentionInterface.register(PAGED, _attend)
AttentionInterface.register(PROBE, _attend)
AttentionMaskInterface.register(PROBE, sampled_mask)


class TransformersModel:
    """Implements ``CausalLM`` around a transformers model."""

    can_record = False

    def __init__(self, context: ModelContext):
        if context.info.architecture.endswith("ForConditionalGeneration"):
            raise refusal(context.info.architecture, "it takes more than text")
        config = read_config(context)
        calls = self._probe(config, context)
        with torch.device(context.device), no_init_weights():
            model = build(config, PAGED, context)
        model.tie_weights()
        model.requires_grad_(False).eval()
        self.names = CheckpointNames(model)
        take_over_linears(model, context, self.names.views.clear)
        self.body, self.head = split(model)
        fix_rope(self.body, context.max_model_len)
        self.step: Any = None  # the TorchStep being run
        self.unmixed = False  # attention shows each token itself alone, for check_mixing
        self.checked = False
        for call in calls:
            layer = PagedLayer(self, Attention(context, call.spec), call)
            model_part = call.module.removeprefix(model.base_model_prefix + ".")
            self.body.get_submodule(model_part).pagoda_attention = layer

    @staticmethod
    def _probe(config: Any, context: ModelContext) -> list[AttentionCall]:
        with torch.device("meta"):
            model = build(config, PROBE, context)
        fix_rope(model, context.max_model_len)
        if type(model).__name__ != context.info.architecture:
            raise refusal(
                context.info.architecture, f"transformers runs its config as {type(model).__name__}"
            )
        model.eval()
        calls = probe(model, config, max(context.max_model_len, context.info.max_len))
        probe_head(model, context)
        return calls

    def forward(self, token_ids: Tensor, positions: Tensor, step: TorchStep) -> Tensor:
        if not self.checked:
            self.unmixed = True
            check_mixing(self._run, type(self.head.model).__name__, token_ids.device)
            self.unmixed, self.checked = False, True
        self.step = step
        return self._run(token_ids, positions)

    def _run(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        found = self.body(input_ids=token_ids[None], position_ids=positions[None], use_cache=False)
        hidden: Tensor = found.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden[None])[0]
        return logits

    def weights(self) -> Mapping[str, Tensor]:
        return self.names.views

    def checkpoint_name(self, name: str) -> str | None:
        return self.names.key(name)


class PagedLayer:
    """Takes one module's attention calls to its layer of the paged cache."""

    def __init__(self, model: TransformersModel, attention: Attention, call: AttentionCall):
        self.model, self.attention = model, attention
        self.size, self.value_size = attention.spec.head_size, call.value_size

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, *masks: Any, **rest: Any
    ) -> Tensor:
        """[1, heads, T, size] each -> [1, T, heads, value size]."""
        if self.model.unmixed:
            return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2)
        q, k, v = (_padded(x[0].transpose(0, 1), self.size) for x in (query, key, value))
        found = self.attention(q, k, v, self.model.step).view(1, len(q), -1, self.size)
        return found if self.value_size == self.size else found[..., : self.value_size]


def _padded(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else F.pad(x, (0, size - x.shape[-1]))


def read_config(context: ModelContext) -> Any:
    """transformers' own reading of config.json.  Raises BadCheckpoint or UnsupportedFeature."""
    path, architecture = context.info.path, context.info.architecture
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=context.trust_remote_code)
    except Exception as error:  # a config class checks its values in its own ways
        raise BadCheckpoint(
            f"transformers cannot read {path}/config.json of {architecture} ({error!r:.300})",
            _trust(context) or "a newer transformers",
        ) from error
    return config


def build(config: Any, attention: str, context: ModelContext) -> Any:
    """The model by its config, weights as they come."""
    try:
        return AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            copy.deepcopy(config),
            dtype=context.dtype,
            attn_implementation=attention,
            trust_remote_code=context.trust_remote_code,
            **({"experts_implementation": "batched_mm"} if attention == PROBE else {}),
        )
    except Exception as error:  # a model's constructor may raise anything
        if repr(attention) in str(error):
            raise refusal(
                context.info.architecture,
                "its attention does not go through transformers' attention interface",
            ) from error
        raise UnsupportedFeature(
            f"transformers cannot build {context.info.architecture} ({error!r:.300})",
            _trust(context) or "a native model, or a newer transformers",
        ) from error


def _trust(context: ModelContext) -> str:
    brings_code = "auto_map" in context.info.config and not context.trust_remote_code
    return "--trust-remote-code, if you trust the code in that folder" if brings_code else ""


def fix_rope(body: nn.Module, max_len: int) -> None:
    """Settle RoPE kinds that follow the longest sequence of a batch on what ``max_len`` needs, so
    that a token never depends on its neighbours; on the meta device there are no angles to make."""
    last = torch.tensor([[max_len - 1]], device=next(body.parameters()).device)
    for module in body.modules():
        kind = getattr(module, "rope_type", None)
        if kind is None or "position_ids" not in inspect.signature(module.forward).parameters:
            continue
        kinds = kind if isinstance(kind, dict) else {None: kind}
        for layer_type, word in kinds.items():
            if "dynamic" in word or word == "longrope":
                extra = {} if layer_type is None else {"layer_type": layer_type}
                if not last.is_meta:
                    module(torch.zeros(1, device=last.device), last, **extra)
                if isinstance(kind, dict):
                    kind[layer_type] = "default"
                else:
                    module.rope_type = "default"  # type: ignore[assignment]
