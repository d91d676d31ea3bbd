"""OPT, GPT-2 and the families that transformers runs for us, against transformers in float32:
through the whole engine, ragged and chunked, prefix cache on and off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pagoda import LLM, SamplingParams
from pagoda.platform import PagodaError
from pagoda.platform.errors import UnsupportedFeature

MAX_LEN, NUM_OUTPUT = 128, 64
PLAIN = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_LEN,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
SMALL = {**PLAIN, "num_key_value_heads": 2}
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OPT = {**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32}
GPT2 = {**PLAIN, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MAX_LEN}
LONGROPE = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0] * 4, "rope_theta": 1e4}

NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("OPT", OPT),
    "opt-norm-after": ("OPT", {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "opt-bare": ("OPT", {**OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}),
    "opt-untied": (
        "OPT",
        {**OPT, "tie_word_embeddings": False, "activation_function": "gelu"}
        | {"_remove_final_layer_norm": True},
    ),
    "gpt2": ("GPT2", GPT2),
    "gpt2-scaled": (
        "GPT2",
        {
            **GPT2,
            "scale_attn_by_inverse_layer_idx": True,
            "n_inner": 40,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2-unscaled": ("GPT2", {**GPT2, "scale_attn_weights": False, "activation_function": "relu"}),
}
FALLBACK: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma": ("Gemma", {**SMALL, "head_dim": 16}),
    "gemma2": (
        "Gemma2",
        {**SMALL, **MIXED, "head_dim": 16, "query_pre_attn_scalar": 16}
        | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0},
    ),
    "gemma3": ("Gemma3Text", {**SMALL, **MIXED, "head_dim": 16, "query_pre_attn_scalar": 16}),
    "phi3": ("Phi3", {**SMALL, "sliding_window": 9}),
    "phi3-longrope": (
        "Phi3",
        {**SMALL, "rope_parameters": {"rope_type": "longrope", **LONGROPE}}
        | {"original_max_position_embeddings": MAX_LEN},
    ),
    "gpt-neox": ("GPTNeoX", PLAIN),
    "gpt-neox-sequential": ("GPTNeoX", {**PLAIN, "use_parallel_residual": False}),
    "stablelm": ("StableLm", SMALL),
    "stablelm-2": (
        "StableLm",
        {**SMALL, "use_qkv_bias": True, "qk_layernorm": True, "use_parallel_residual": True},
    ),
    "mixtral": ("Mixtral", {**SMALL, "num_local_experts": 4}),
    "qwen2-moe": ("Qwen2Moe", {**SMALL, **EXPERTS, "shared_expert_intermediate_size": 24}),
    "deepseek-v3": (
        "DeepseekV3",
        {**PLAIN, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "q_lora_rank": 16}
        | {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12}
        | {"first_k_dense_replace": 1},
    ),
    "cohere": ("Cohere", {**SMALL, "logit_scale": 0.3}),
    "olmo2": ("Olmo2", SMALL),
    "granite": ("Granite", {**SMALL, "attention_multiplier": 0.3, "logits_scaling": 3.0}),
    "starcoder2": ("Starcoder2", {**SMALL, "sliding_window": 9}),
    "gpt-bigcode": ("GPTBigCode", GPT2),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "falcon": ("Falcon", PLAIN, "does not go through transformers' attention interface"),
    "bloom": ("Bloom", {**PLAIN, "n_layer": 2, "n_head": 4}, "takes no positions"),
    "gpt-j": ("GPTJ", {**GPT2, "rotary_dim": 4}, "does not go through"),
    "gpt-oss": ("GptOss", {**SMALL, "head_dim": 8, "num_local_experts": 4}, "s_aux"),
    "llama-4": (
        "Llama4Text",
        {**SMALL, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 32},
        "chunked_attention",
    ),
    "lfm2": ("Lfm2", {**SMALL, "layer_types": ["conv", "full_attention"]}, "type conv"),
    "mamba": ("Mamba", {**PLAIN, "state_size": 4}, "recurrent state"),
    "jamba": ("Jamba", {**SMALL, "use_mamba_kernels": False}, "recurrent state"),
}


def save(folder: Path, family: str, settings: dict[str, Any]) -> Any:
    """A random model of a family, saved as its checkpoints are."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
        else:
            torch.nn.init.normal_(parameter, parameter.float().mean().item(), 0.1)
    model.eval().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Eight of 1 to 60 tokens; the last two begin alike."""
    rng = np.random.default_rng(5)
    found = [rng.integers(0, 99, size).tolist() for size in (1, 2, 7, 16, 33, 60, 40, 5)]
    return [*found[:7], found[6][:32] + found[7]]


def told(model: Any, tokens: list[int]) -> torch.Tensor:
    """[T, V] what transformers expects after each token of a sequence."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)


def open_llm(folder: Path, **settings: Any) -> LLM:
    fixed = {"device": "cpu", "dtype": "float32", "block_size": 8, "num_blocks": 200}
    fixed["platform_options"] = {"cpu_threads": 1}
    return LLM(str(folder), **{**fixed, "show_progress": False, **settings})


@pytest.mark.parametrize("name", [*NATIVE, *FALLBACK])
def test_same_as_transformers(name: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    family, settings = (NATIVE | FALLBACK)[name]
    model = save(tmp_path, family, settings)
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    params = {"temperature": 0, "max_tokens": NUM_OUTPUT, "ignore_eos": True, "detokenize": False}
    with open_llm(tmp_path, max_num_batched_tokens=24) as llm:
        first = llm.generate(asked, SamplingParams(**params, prompt_logprobs=0), use_tqdm=False)
        cached = llm.generate(asked[5:], SamplingParams(**params), use_tqdm=False)
    with open_llm(tmp_path, enable_prefix_caching=False) as llm:
        uncached = llm.generate(asked[5:], SamplingParams(**params), use_tqdm=False)
    for prompt, output in zip(prompts, first, strict=True):
        tokens = output.outputs[0].token_ids
        expected = told(model, prompt + tokens)
        assert tokens == expected[len(prompt) - 1 : -1].argmax(-1).tolist()
        found = [next(iter(p.values())).logprob for p in output.prompt_logprobs[1:]]
        targets = torch.tensor(prompt[1:], dtype=torch.int64)
        wanted = expected[: len(prompt) - 1].gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-4, rtol=0)
    assert all(output.num_cached_tokens for output in cached)
    for again in (cached, uncached):
        outputs = [output.outputs[0].token_ids for output in again]
        assert outputs == [output.outputs[0].token_ids for output in first[5:]]


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str, tmp_path: Path) -> None:
    family, settings, reason = REFUSED[name]
    model = save(tmp_path, family, settings)
    with pytest.raises(PagodaError, match=reason) as caught:
        open_llm(tmp_path)
    assert type(model).__name__ in str(caught.value)


def test_code_of_a_checkpoint_is_not_run_unasked(tmp_path: Path) -> None:
    save(tmp_path, *FALLBACK["stablelm"])
    (tmp_path / "evil.py").write_text("raise SystemExit('ran the code of a checkpoint')")
    config = (tmp_path / "config.json").read_text()
    auto_map = '{"auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},'
    (tmp_path / "config.json").write_text(
        config.replace("{", auto_map, 1).replace('"stablelm"', '"unheard_of"')
    )
    with pytest.raises(PagodaError, match="--trust-remote-code"):
        open_llm(tmp_path)


def test_code_of_a_checkpoint_is_run_when_told(
    tmp_path: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "c"))
    model = save(tmp_path, *FALLBACK["stablelm"])
    (tmp_path / "code.py").write_text(
        "from transformers import StableLmConfig, StableLmForCausalLM\n"
        "class OwnConfig(StableLmConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(StableLmForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((tmp_path / "config.json").read_text())
    classes = {"AutoConfig": "code.OwnConfig", "AutoModelForCausalLM": "code.OwnForCausalLM"}
    config |= {"auto_map": classes, "model_type": "own", "architectures": ["OwnForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PagodaError, match="--trust-remote-code"):
        open_llm(tmp_path)
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False)
    with open_llm(tmp_path, trust_remote_code=True) as llm:
        output = llm.generate([{"prompt_token_ids": prompts[3]}], params, use_tqdm=False)
    tokens = output[0].outputs[0].token_ids
    assert tokens == told(model, prompts[3] + tokens)[15:-1].argmax(-1).tolist()


@pytest.mark.parametrize("pickled", [False, True])
def test_gpt2_without_the_outer_name(
    pickled: bool, tmp_path: Path, prompts: list[list[int]]
) -> None:
    """The hub's own gpt2 was saved without ``transformer.``, causal masks included."""
    from safetensors.torch import load_file, save_file

    model = save(tmp_path, "GPT2", GPT2)
    file = tmp_path / "model.safetensors"
    bare = {name.removeprefix("transformer."): x for name, x in load_file(file).items()}
    bare["h.0.attn.bias"] = torch.ones(1, 1, MAX_LEN, MAX_LEN, dtype=torch.uint8)
    if pickled:
        file.unlink()
        torch.save(bare, tmp_path / "pytorch_model.bin")
    else:
        save_file(bare, file)
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, detokenize=False)
    with open_llm(tmp_path) as llm:
        output = llm.generate([{"prompt_token_ids": prompts[3]}], params, use_tqdm=False)
    tokens = output[0].outputs[0].token_ids
    assert tokens == told(model, prompts[3] + tokens)[15:-1].argmax(-1).tolist()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save(tmp_path, *FALLBACK["mixtral"])
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if "experts.2" in name)
    save_file({name: x for name, x in weights.items() if name != lost}, file)
    with pytest.raises(PagodaError, match=lost):
        open_llm(tmp_path)


@pytest.mark.parametrize("family", [FALLBACK["stablelm"], NATIVE["opt"]])
def test_quantized_checkpoints_are_refused(family: Any, tmp_path: Path) -> None:
    save(tmp_path, *family)
    config = (tmp_path / "config.json").read_text()
    quantized = '{"quantization_config": {"quant_method": "gptq", "bits": 4},'
    (tmp_path / "config.json").write_text(config.replace("{", quantized, 1))
    with pytest.raises(UnsupportedFeature, match="quantized"):
        open_llm(tmp_path)
