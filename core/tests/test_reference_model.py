"""Loading into the NumPy platform, its card, and the golden stories."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pagoda.models.info import read_model_info
from pagoda.models.shape import read_shape
from pagoda.platform import (
    BadCheckpoint,
    BlockTable,
    Feature,
    RunnerConfig,
    SamplingBatch,
    ScheduledBatch,
)
from pagoda.reference import plugin
from pagoda.reference.load import load_weights, random_weights
from pagoda.reference.runner import ReferenceRunner

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    **{"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "vocab_size": 11},
    **{"intermediate_size": 12, "max_position_embeddings": 32, "tie_word_embeddings": True},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def load(folder):
    info = read_model_info(folder)
    return load_weights(read_shape(info, "reference"), info, RunnerConfig(dtype="float32"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_float_dtype_is_read(folder, write_safetensors, dtype):
    weights = random_weights(read_shape(read_model_info(folder), "reference"), seed=0)
    if dtype == "bfloat16":
        stored = {n: (w.view(np.uint32) >> 16).astype(np.uint16) for n, w in weights.items()}
    else:
        stored = {name: w.astype(dtype) for name, w in weights.items()}
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.float32)
    stored["lm_head.weight"] = np.zeros((11, 8), np.float32)  # tied: not looked at
    write_safetensors(folder / "model.safetensors", stored)
    found = load(folder)
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        assert found[name].dtype == np.float32
        tolerance = {"float32": 0, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
        np.testing.assert_allclose(found[name], weight, rtol=tolerance, atol=tolerance / 10)


def test_wrong_tensors_are_named(folder, write_safetensors):
    weights = random_weights(read_shape(read_model_info(folder), "reference"), seed=0)
    file = folder / "model.safetensors"
    norm = weights.pop("model.norm.weight")
    write_safetensors(file, {**weights, "surprise": norm})
    with pytest.raises(BadCheckpoint, match=r"missing model\.norm\.weight; unexpected surprise"):
        load(folder)
    write_safetensors(file, {**weights, "model.norm.weight": norm[:-1]})
    with pytest.raises(
        BadCheckpoint, match=r"model\.norm\.weight is \[7\], config\.json says \[8\]"
    ):
        load(folder)
    write_safetensors(file, {**weights, "model.norm.weight": norm.astype(np.int32)})
    with pytest.raises(BadCheckpoint, match=r"model\.norm\.weight is I32"):
        load(folder)


def test_random_weights_depend_on_the_seed_alone(folder):
    shape = read_shape(read_model_info(folder), "reference")
    first, again, other = (random_weights(shape, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(
        first["model.embed_tokens.weight"], other["model.embed_tokens.weight"]
    )


def test_card():
    assert plugin.pagoda_platform().priority == 0
    assert [device.problem for device in plugin.pagoda_probe()] == [""]
    capabilities = plugin.pagoda_capabilities(model=None, devices=[])
    assert frozenset(Feature) - capabilities.features == {Feature.TENSOR_PARALLEL}


def stories() -> Path:
    beside = Path(__file__).parents[2].parent / "shared" / "assets"
    found = Path(os.environ.get("PAGODA_ASSETS", beside)) / "models" / "stories260K"
    if not found.is_dir():
        pytest.skip(f"the trained model of the golden stories is not in {found}")
    return found


def test_golden_stories():
    """Prompts of different lengths told on together, 60 greedy tokens each."""
    folder = stories()
    cases = json.loads((folder / "golden_greedy_fp32.json").read_text())[:3]
    config = RunnerConfig(dtype="float32", block_size=16, max_model_len=128)
    runner = ReferenceRunner(config, read_model_info(folder / "hf"))
    runner.load()
    runner.init_kv_cache(8 * len(cases))
    rows = np.arange(len(cases), dtype=np.int32)
    blocks = np.arange(8 * len(cases), dtype=np.int32).reshape(len(cases), 8)[::-1]
    zeros, ones = np.zeros(len(cases), np.float32), np.ones(len(cases), np.float32)
    tokens, context = [case["prompt_ids"] for case in cases], rows * 0
    told: list[list[int]] = [[] for _ in cases]
    for _ in range(60):
        batch = ScheduledBatch(
            slots=rows,
            admitted=context == 0,
            query_start=np.cumsum([0, *map(len, tokens)], dtype=np.int32),
            token_ids=np.concatenate(tokens).astype(np.int32),
            context_lens=context,
            block_tables=(BlockTable(blocks, np.full(len(cases), 8, np.int32)),),
            sample_rows=rows,
            sampling=SamplingBatch(zeros, rows * 0, ones, zeros, zeros, rows * 0 - 1),
        )
        context = batch.seq_lens
        tokens = runner.submit(batch).result().token_ids[:, None].tolist()
        for story, (token,) in zip(told, tokens, strict=True):
            story.append(token)
    assert told == [case["output_ids"][:60] for case in cases]
