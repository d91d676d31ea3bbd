"""Which way a model becomes a graph: written down here for the Llama family, else traced from
transformers' own model, where torch and transformers are installed."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Protocol

import openvino as ov

from pagoda.platform import ModelInfo, RunnerConfig, UnsupportedFeature
from pagoda_openvino.llama import LlamaGraph
from pagoda_openvino.paged_attention import refuse_soft_caps

log = logging.getLogger(__name__)


class ModelGraph(Protocol):
    """A model that will be a graph, and the memory under its constants: whoever compiles the graph
    keeps this object as long as the compiled model lives."""

    def build(self) -> ov.Model:
        """Inputs: token_ids, positions int64 [T], logit_rows int64 [N] (which tokens' logits are
        wanted), the step's and the caches'.  Output: logits float32 [N, V]."""
        ...

    @property
    def most_tokens(self) -> int:
        """Of an inference, for speed; known when the graph is built."""
        ...

    def hand_back_pages(self) -> None:
        """Let the system have resident pages that can be read again from their file."""
        ...


def choose_graph(model: ModelInfo, config: RunnerConfig) -> ModelGraph:
    """Raises UnsupportedFeature, before anything is loaded, for what neither way can serve."""
    refuse_soft_caps(model)
    try:
        return LlamaGraph(model, config)
    except UnsupportedFeature as refusal:
        missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
        if missing:
            raise UnsupportedFeature(
                f"{refusal.what}. Other models run through transformers, but here"
                f" {' and '.join(missing)} cannot be imported",
                "pip install 'pagoda-openvino[transformers]', or another --device",
            ) from refusal
        log.warning("%s runs through transformers: %s", model.architecture, refusal.what)
    from pagoda_openvino.transformers_graph import TransformersGraph

    return TransformersGraph(model, config)
