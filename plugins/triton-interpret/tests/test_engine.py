"""The engine on interpreted kernels says what it says on the CPU platform."""

from __future__ import annotations

from pathlib import Path

import pytest

PROMPTS = ["Once upon a time", "The dog", "One day, Lily went to the park and saw a"]


def tokens(device: str, model: Path, dtype: str, count: int) -> list[list[int]]:
    from pagoda import LLM, SamplingParams

    wanted = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    settings = {"max_model_len": 64, "max_num_batched_tokens": 16, "max_num_seqs": 4}
    with LLM(str(model), device=device, dtype=dtype, show_progress=False, **settings) as llm:
        return [one.outputs[0].token_ids for one in llm.generate(PROMPTS, wanted, use_tqdm=False)]


@pytest.mark.parametrize(("arch", "count"), [("sm_90", 4), ("gfx1100", 3)])
def test_greedy_tokens_are_the_cpu_platforms(stories260k: Path, arch: str, count: int) -> None:
    """Prompts in chunks beside decodes, keys split and not, recorded steps."""
    model = stories260k / "hf"
    found = tokens(f"triton-interpret:{arch}", model, "float32", count)
    assert found == tokens("cpu", model, "float32", count)
