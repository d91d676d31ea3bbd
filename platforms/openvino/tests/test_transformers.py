"""Other decoders, through transformers' attention interface: its own numbers, or a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagoda import LLM, SamplingParams, registry
from pagoda.models.info import read_model_info
from pagoda.platform import BadCheckpoint, RunnerConfig, ScheduledBatch, UnsupportedFeature

pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("pagoda_openvino", reason="pagoda-openvino is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = {
    **{"vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
SMALL = {"vocab_size": 131, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
LONG = {
    **{"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    **{"original_max_position_embeddings": 64, "rope_theta": 10000.0},
}
SERVED: dict[str, dict[str, Any]] = {
    "gpt2": SMALL,
    "opt": {**SIZES, "ffn_dim": 96, "word_embed_proj_dim": 64, "num_key_value_heads": 4},
    "gpt_neox": {**SIZES, "num_key_value_heads": 4},
    "phi3 longrope": {**SIZES, "rope_scaling": LONG},
    "gemma3_text": {**SIZES, "head_dim": 16, "sliding_window": 9},
    "olmo2": SIZES,
    "granite": {**SIZES, "attention_multiplier": 0.2, "logits_scaling": 2.0},
    "mixtral": {**SIZES, "num_local_experts": 4},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gemma2": ({**SIZES, "head_dim": 16}, "no soft cap"),
    "gpt_oss": ({**SIZES, "head_dim": 16, "num_local_experts": 4}, "attention with s_aux"),
    "bloom": ({"vocab_size": 131, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "ALiBi"),
    "falcon": ({**SIZES, "num_key_value_heads": 4}, "attention interface"),
}


@pytest.fixture
def make_decoder(tmp_path: Path) -> Callable[..., Any]:
    """transformers' own model, random, and the folder that it was saved into."""

    def make(name: str, config: dict[str, Any]) -> Any:
        torch.manual_seed(0)
        settled = transformers.AutoConfig.for_model(name.split()[0], **config)
        settled.initializer_range = 0.2
        model = transformers.AutoModelForCausalLM.from_config(settled, dtype=torch.float32)
        for vector in model.parameters():
            if vector.ndim == 1:  # norms and biases that are not all alike
                vector.data += 0.1 * torch.randn_like(vector)
        model.eval().save_pretrained(tmp_path)
        return model

    return make


def expected(model: Any, batch: ScheduledBatch) -> Any:
    starts = zip(batch.query_start, batch.query_start[1:], strict=False)
    with torch.no_grad():
        rows = [model(torch.tensor(batch.token_ids[None, a:b]).long()).logits[0] for a, b in starts]
    return np.stack([row[-1].numpy() for row in rows])


@pytest.mark.parametrize("name", SERVED)
def test_the_numbers_of_transformers(
    make_decoder: Callable[..., Any],
    open_runner: Callable[..., Any],
    prompts: Callable[..., Any],
    tmp_path: Path,
    name: str,
) -> None:
    theirs = make_decoder(name, SERVED[name])
    batch = prompts(70, 1, 33, 8)
    if "longrope" in name:  # settled by the longest sequence that may come
        theirs.model.rotary_emb(torch.zeros(1), torch.tensor([[255]]))
        theirs.model.rotary_emb.rope_type = "default"
    wanted = expected(theirs, batch)
    runner = open_runner(read_model_info(tmp_path))
    assert wanted.std() > 0.1
    assert np.abs(runner.submit(batch).result().logits - wanted).max() < 1e-4
    nodes = runner.compiled.get_runtime_model().get_ops()
    kinds = [str(node.get_rt_info()["layerType"].value) for node in nodes]
    assert kinds.count("PagedAttention") == 2
    assert kinds.count("RoPE") == (0 if name in ("gpt2", "opt") else 4)


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_the_greedy_tokens_of_transformers(
    make_decoder: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    """Through the whole engine: prompts in chunks, beside each other, and preempted for want of
    blocks."""
    theirs = make_decoder(name, SERVED[name])
    rng = np.random.default_rng(7)
    prompts = [rng.integers(3, 131, size).tolist() for size in (1, 28, 40, 60)]
    wanted = [
        theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            **{"do_sample": False, "max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 0},
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    params = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, detokenize=False)
    sizes = {"max_num_batched_tokens": 16, "max_model_len": 128, "num_blocks": 5}
    config = {"device": "openvino", "dtype": "float32", "show_progress": False, **sizes}
    with LLM(str(tmp_path), **config) as llm:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
        assert llm.engine.stats().num_preemptions
    assert [output.outputs[0].token_ids for output in outputs] == wanted
    assert len({tuple(tokens) for tokens in wanted}) == len(prompts)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_op_cannot_serve(
    make_decoder: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    config, shown = REFUSED[name]
    make_decoder(name, config)
    with pytest.raises(UnsupportedFeature, match=shown) as caught:
        create(tmp_path)
    assert caught.value.remedy


def create(folder: Path, **config: Any) -> Any:
    settled = RunnerConfig(**{"dtype": "float32", **config})
    hook = registry.find("openvino").hook
    return hook.pagoda_create_runner(config=settled, model=read_model_info(folder), devices=())


def test_rounded_weights_are_not_offered(make_decoder: Callable[..., Any], tmp_path: Path) -> None:
    make_decoder("gpt2", SMALL)
    hook = registry.find("openvino").hook
    model = read_model_info(tmp_path)
    assert hook.pagoda_capabilities(model=model, devices=()).quantizations == ()
    with pytest.raises(UnsupportedFeature, match="--quantization int8"):
        create(tmp_path, quantization="int8")


def test_a_checkpoint_without_a_tensor(make_decoder: Callable[..., Any], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make_decoder("gpt2", SMALL)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["transformer.h.1.ln_1.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BadCheckpoint, match=r"h\.1\.ln_1\.weight"):
        create(tmp_path).load()


def test_code_in_a_checkpoint_is_not_run(make_decoder: Callable[..., Any], tmp_path: Path) -> None:
    make_decoder("gpt2", SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architectures": ["OwnForCausalLM"], "model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(BadCheckpoint, match="--trust-remote-code"):
        create(tmp_path)
    assert not (tmp_path / "ran").exists()
