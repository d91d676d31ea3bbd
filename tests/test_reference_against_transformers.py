"""The NumPy platform is what others are checked by; here it is checked itself."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from pagoda import LLM, SamplingParams  # noqa: E402

SMALL = {
    **{"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
    **{"bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3},
}
LLAMA3 = {
    **{"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0},
    **{"high_freq_factor": 4.0, "original_max_position_embeddings": 32},
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Llama", {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3}),
        ("Llama", {"tie_word_embeddings": True, "rope_parameters": LINEAR}),
        ("Mistral", {"sliding_window": 9, "head_dim": 16}),
        ("Qwen2", WINDOWS),
        ("Qwen3", {**WINDOWS, "head_dim": 16}),
    ],
)
def test_reference_is_right(family: str, settings: dict, tmp_path) -> None:
    torch.manual_seed(2)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **settings})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    model.eval().save_pretrained(tmp_path)
    prompts = [torch.randint(0, 99, (size,)).tolist() for size in (1, 12, 40)]
    params = SamplingParams(
        temperature=0, max_tokens=30, ignore_eos=True, detokenize=False, prompt_logprobs=0
    )
    fixed = {"device": "reference", "num_blocks": 60, "block_size": 4, "show_progress": False}
    with LLM(str(tmp_path), max_num_batched_tokens=16, **fixed) as llm:
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = llm.generate(asked, params, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        tokens = output.outputs[0].token_ids
        with torch.no_grad():
            expected = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        assert tokens == expected[len(prompt) - 1 : -1].argmax(-1).tolist()
        found = [next(iter(place.values())).logprob for place in output.prompt_logprobs[1:]]
        wanted = [float(expected[i, token]) for i, token in enumerate(prompt[1:])]
        assert found == pytest.approx(wanted, abs=1e-4)
