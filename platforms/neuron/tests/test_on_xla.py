"""The platform's own code executed by XLA on the CPU, through the engine, with gather attention."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagoda import LLM, SamplingParams
from pagoda.platform import InvalidValue, RunnerConfig
from pagoda_neuron.buckets import RULE
from pagoda_neuron.environment import EMULATE
from pagoda_xla.buckets import Buckets

PROMPTS, TOKENS = 3, 60


@pytest.fixture(scope="module")
def emulation() -> Iterator[None]:
    if importlib.util.find_spec("torch_xla") is None:
        pytest.skip("torch-xla is not installed here: ci/check_xla.sh has an environment with it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EMULATE, "1")
        yield


def options(folder: Path) -> dict[str, Any]:
    return {"model": str(folder / "hf"), "device": "neuron", "dtype": "float32"}


@pytest.fixture(scope="module")
def llm(emulation: None, stories260k: Path) -> Iterator[LLM]:
    with LLM(**options(stories260k), max_num_seqs=4, show_progress=False) as made:
        yield made


def test_golden_tokens(llm: LLM, stories260k: Path) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())[:PROMPTS]
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    prompts = [{"prompt_token_ids": one["prompt_ids"]} for one in golden]
    found = llm.generate(prompts, greedy, use_tqdm=False)
    tokens = [list(one.outputs[0].token_ids) for one in found]
    assert tokens == [one["output_ids"][:TOKENS] for one in golden]


def test_nothing_is_compiled_after_warm_up_and_nothing_runs_on_the_host(llm: LLM) -> None:
    import torch_xla
    import torch_xla.debug.metrics as metrics

    def compiled() -> int:
        return int(metrics.metric_data("CompileTime")[0])

    before = compiled()
    for length in (1, 5, 130, 200):
        prompts = [{"prompt_token_ids": list(range(5, 5 + length))} for _ in range(length % 4 + 1)]
        llm.generate(prompts, SamplingParams(temperature=0.7, top_k=9, max_tokens=3, seed=1))
    assert compiled() == before
    assert not torch_xla._XLAC._get_executed_fallback_ops()


def test_a_context_beyond_the_buckets_is_refused_at_once() -> None:
    config = RunnerConfig(dtype="float32", max_model_len=RULE.max_context + 1)
    with pytest.raises(InvalidValue, match=f"holds {RULE.max_context} tokens"):
        Buckets(RULE, config, 32)
