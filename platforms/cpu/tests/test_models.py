"""Native models against transformers in float32, through the paged runner: ragged batches, random
block order, chunked prompts, poisoned caches."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama-tied-biased": (
        "Llama",
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "llama-gelu": ("Llama", {"hidden_act": "gelu", "num_key_value_heads": 6}),
    "llama-rope": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 7}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
}


def make(folder: Path, family: str, changes: dict[str, Any]) -> Any:
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **changes})
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.3)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def expected(model: Any, tokens: list[int]) -> np.ndarray:
    return model(torch.tensor([tokens])).logits[0].log_softmax(-1).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_matches_transformers(name: str, tmp_path: Path, play: ModuleType) -> None:
    model = make(tmp_path, *CONFIGS[name])
    seed = 7
    print("seed", seed)
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 97, n).tolist() for n in (1, 2, 5, 17, 33, 64, 70, 150)]
    truth: list[np.ndarray] = []
    for block_size, budget in ((16, 10**9), (8, 40), (5, 13)):
        runner = play.load(tmp_path, block_size=block_size)
        driver = play.Driver(runner, 500, 200, seed)
        sequences = [driver.add(i, p) for i, p in enumerate(prompts)]
        driver.generate(sequences, 24, budget)
        if not truth:
            truth = [expected(model, s.tokens[:-1]) for s in sequences]
            first = [s.tokens for s in sequences]
        for s, logprobs, tokens in zip(sequences, truth, first, strict=True):
            assert s.tokens == tokens
            got = torch.tensor(np.stack(s.logits)).log_softmax(-1).numpy()
            assert np.abs(got - logprobs[s.num_prompt - 1 :]).max() < 1e-4
            wanted = [logprobs[i, s.tokens[i + 1]] for i in range(s.num_prompt - 1)]
            assert np.abs(np.array(s.prompt_logprobs) - wanted).max(initial=0) < 1e-4
        runner.close()
