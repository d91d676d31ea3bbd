"""Rounded weights: what they cost the shipped model; and that threads change nothing."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from pagoda import LLM, SamplingParams
from pagoda.assets import storyteller
from pagoda.platform import OutOfMemory
from pagoda_cpu import hardware

ROOT = Path(__file__).resolve().parents[3]
NUM_STORIES, NUM_TOKENS = 48, 400
LIMITS = {"int8": 0.01, "int4": 0.04}
"""Perplexity above float32's, as a share of it."""


def engine(**settings: object) -> LLM:
    return LLM(storyteller(), device="cpu", dtype="float32", show_progress=False, **settings)


@pytest.fixture(scope="module")
def stories(assets: Path) -> list[str]:
    """Held out from the model's training, by ci/model's own rule."""
    sys.path.insert(0, str(ROOT / "ci" / "model"))
    try:
        from stories import read_library
    finally:
        sys.path.pop(0)
    return read_library(assets / "storybooks.tar.xz").test[:NUM_STORIES]


def perplexity(stories: list[str], quantization: str | None) -> float:
    llm = engine(quantization=quantization)
    prompts = [llm.get_tokenizer().encode(story)[:NUM_TOKENS] for story in stories]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False)
    nats = [
        -found[token].logprob
        for output, prompt in zip(outputs, prompts, strict=True)
        for token, found in zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
    ]
    return math.exp(sum(nats) / len(nats))


def test_perplexity(stories: list[str]) -> None:
    plain = perplexity(stories, None)
    for name, limit in LIMITS.items():
        rounded = perplexity(stories, name)
        print(f"{name}: {rounded:.4f} against {plain:.4f}, {rounded / plain - 1:+.2%}")
        assert rounded / plain - 1 < limit


@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_threads_change_no_token(quantization: str | None) -> None:
    prompts = ["Once upon a time", "The sun was bright and", "Tom and his mom"]
    params = SamplingParams(temperature=0, max_tokens=12)
    found = []
    for threads in (1, 2, 8):
        llm = engine(
            quantization=quantization, platform_options={"cpu_threads": threads}, num_blocks=64
        )
        outputs = llm.generate(prompts, params, use_tqdm=False)
        found.append([output.outputs[0].token_ids for output in outputs])
    assert all(tokens == found[0] for tokens in found)


def test_too_little_memory_is_said_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory", lambda: (1 << 30, 20 << 20))
    with pytest.raises(OutOfMemory, match=r"0\.03 GiB in float32 and the cache.*are free"):
        engine()
    with pytest.raises(OutOfMemory, match=r"0\.01 GiB in int8 and the cache"):
        monkeypatch.setattr(hardware, "memory", lambda: (1 << 30, 5 << 20))
        engine(quantization="int8")
