"""Which class runs which architecture; modules are imported when chosen, never before."""

from __future__ import annotations

import importlib

from pagoda.models.info import refuse_quantized
from pagoda.platform import ModelInfo
from pagoda_torch.models.interface import CausalLM

NATIVE: dict[str, str] = {
    "LlamaForCausalLM": "pagoda_torch.models.llama:LlamaModel",
    "MistralForCausalLM": "pagoda_torch.models.llama:LlamaModel",
    "Qwen2ForCausalLM": "pagoda_torch.models.llama:LlamaModel",
    "Qwen3ForCausalLM": "pagoda_torch.models.llama:LlamaModel",
    "OPTForCausalLM": "pagoda_torch.models.opt:OPTModel",
    "GPT2LMHeadModel": "pagoda_torch.models.gpt2:GPT2Model",
}

FALLBACK = "pagoda_torch.models.transformers_fallback:TransformersModel"
"""Runs every other decoder-only architecture that transformers knows, or says why it cannot."""


def model_class(info: ModelInfo) -> type[CausalLM]:
    """The class for a model's architecture.  Raises UnsupportedFeature for quantized weights."""
    refuse_quantized(info)
    module, _, name = NATIVE.get(info.architecture, FALLBACK).partition(":")
    found: type[CausalLM] = getattr(importlib.import_module(module), name)
    return found
