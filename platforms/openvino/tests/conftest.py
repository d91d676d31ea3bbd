"""Small models of every switch, run step by step and beside the NumPy reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_assets import assets, stories260k

from pagoda import registry
from pagoda.conformance.tiny import write_safetensors
from pagoda.models.info import read_model_info
from pagoda.models.shape import read_shape
from pagoda.platform import BlockTable, ModelInfo, RunnerConfig, SamplingBatch, ScheduledBatch
from pagoda.reference.load import random_weights

__all__ = ["assets", "make_model", "open_runner", "prompts", "stories260k"]

SIZES = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 131},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False},
}


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., ModelInfo]:
    """A folder with random weights of this config, as ``read_model_info`` sees it."""

    def make(architecture: str = "LlamaForCausalLM", stored: str = "float32", **more: Any) -> Any:
        config = {"architectures": [architecture], "torch_dtype": stored, **SIZES, **more}
        (tmp_path / "config.json").write_text(json.dumps(config))
        model = read_model_info(tmp_path)
        rng = np.random.default_rng(5)
        weights = {
            name: tensor if name.endswith(".weight") else rng.normal(0, 0.3, tensor.shape)
            for name, tensor in random_weights(read_shape(model, "reference"), 3).items()
        }
        tensors = {name: tensor.astype(np.float32) for name, tensor in weights.items()}
        write_safetensors(tmp_path / "model.safetensors", tensors, stored)
        return model

    return make


@pytest.fixture
def open_runner() -> Iterator[Callable[..., Any]]:
    """A runner ready for steps; closed when the test ends."""
    opened = []

    def start(model: ModelInfo, platform: str = "openvino", **config: Any) -> Any:
        settled = RunnerConfig(**{"dtype": "float32", "max_model_len": 256, **config})
        chosen = registry.choose(platform)
        runner = chosen.platform.hook.pagoda_create_runner(
            config=settled, model=model, devices=chosen.devices
        )
        opened.append(runner)
        runner.load()
        runner.init_kv_cache(40)
        runner.warm_up()
        return runner

    yield start
    for runner in opened:
        runner.close()


@pytest.fixture
def prompts() -> Callable[..., ScheduledBatch]:
    def make(*lengths: int) -> ScheduledBatch:
        """One step of whole prompts, every row's logits wanted, blocks far apart."""
        rng, count = np.random.default_rng(sum(lengths)), len(lengths)
        zeros, ones = np.zeros(count, np.float32), np.ones(count, np.float32)
        blocks = np.arange(39, 39 - 9 * count, -1, dtype=np.int32).reshape(count, 9)
        return ScheduledBatch(
            slots=np.arange(count, dtype=np.int32),
            admitted=np.ones(count, np.bool_),
            query_start=np.cumsum([0, *lengths], dtype=np.int32),
            token_ids=rng.integers(0, 131, sum(lengths), np.int32),
            context_lens=zeros.astype(np.int32),
            block_tables=(BlockTable(blocks, np.full(count, 9, np.int32)),),
            sample_rows=np.arange(count, dtype=np.int32),
            sampling=SamplingBatch(
                zeros, zeros.astype(np.int32), ones, zeros, zeros, np.full(count, -1, np.int32)
            ),
            want_logits=True,
        )

    return make
