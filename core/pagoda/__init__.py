"""Pagoda: one LLM engine; hardware is a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pagoda.async_llm import AsyncLLM
    from pagoda.config import EngineConfig
    from pagoda.inputs import TextPrompt, TokensPrompt
    from pagoda.llm import LLM
    from pagoda.outputs import CompletionOutput, RequestOutput
    from pagoda.platform.errors import PagodaError
    from pagoda.sampling.params import (
        RequestOutputKind,
        SamplingParams,
        StructuredOutputsParams,
    )

__all__ = [
    "LLM",
    "AsyncLLM",
    "CompletionOutput",
    "EngineConfig",
    "PagodaError",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
]

_HOMES = {
    "LLM": "pagoda.llm",
    "AsyncLLM": "pagoda.async_llm",
    "EngineConfig": "pagoda.config",
    "TextPrompt": "pagoda.inputs",
    "TokensPrompt": "pagoda.inputs",
    "CompletionOutput": "pagoda.outputs",
    "RequestOutput": "pagoda.outputs",
    "PagodaError": "pagoda.platform.errors",
    "RequestOutputKind": "pagoda.sampling.params",
    "SamplingParams": "pagoda.sampling.params",
    "StructuredOutputsParams": "pagoda.sampling.params",
}


def __getattr__(name: str) -> object:
    """Import on first use, so that ``import pagoda`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pagoda' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
