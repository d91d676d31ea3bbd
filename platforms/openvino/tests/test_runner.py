"""The runner: golden tokens in every cache dtype, the properties asked for, no torch anywhere."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagoda.llm import LLM
from pagoda.platform import ModelInfo, ScoreBatch
from pagoda.sampling.params import SamplingParams

pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("pagoda_openvino", reason="pagoda-openvino is not installed")


def outputs(folder: Path, device: str, prompts: list[Any], params: Any, **more: Any) -> list[Any]:
    settings = {"dtype": "float32", "show_progress": False, **more}
    with LLM(str(folder), device=device, **settings) as llm:
        done = llm.generate(prompts, params, use_tqdm=False)
    return [list(request.outputs[0].token_ids) for request in done]


@pytest.mark.parametrize(
    "settings", [{}, {"max_num_batched_tokens": 16}, {"num_blocks": 17}, {"kv_cache_dtype": "u8"}]
)
def test_golden_tokens(stories260k: Path, settings: dict[str, Any]) -> None:
    """Heads of 8: the smallest anybody has."""
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    prompts = [{"prompt_token_ids": entry["prompt_ids"]} for entry in golden]
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    found = outputs(stories260k / "hf", "openvino", prompts, params, **settings)
    assert found == [entry["output_ids"][:200] for entry in golden]


def test_the_same_random_tokens_as_the_reference(stories260k: Path) -> None:
    params = SamplingParams(seed=7, top_k=40, presence_penalty=0.5, max_tokens=60)
    prompts = ["Once upon a time", "The cat", "A"]
    found = outputs(stories260k / "hf", "openvino:AUTO", prompts, params)
    assert found == outputs(stories260k / "hf", "reference", prompts, params)


@pytest.mark.parametrize(("asked", "found"), [("auto", "float32"), ("u8", "uint8_t")])
def test_the_cache_is_what_was_asked_for(
    make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any], asked: str, found: str
) -> None:
    """The plugin's own default is 8 bits, whatever it computes in."""
    runner = open_runner(make_model(), kv_cache_dtype=asked)
    kinds = {str(one.kind) for one in runner.cache.layout.inputs}
    assert kinds == {f"<Type: '{found}'>"}
    assert all(len(array) == 40 for array in runner.cache.arrays)
    told = runner.compiled.get_property
    assert int(told("DYNAMIC_QUANTIZATION_GROUP_SIZE")) == 0
    assert "float32" in str(told("INFERENCE_PRECISION_HINT"))


def test_threads(make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any]) -> None:
    runner = open_runner(make_model(), platform_options={"openvino_threads": 1})
    assert runner.compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_copies_read_before_they_write(
    make_model: Callable[..., ModelInfo], open_runner: Callable[..., Any]
) -> None:
    cache = open_runner(make_model()).cache
    for array in cache.arrays:
        array[:] = np.arange(40)[:, None, None, None]
    cache.copy_blocks(np.array([[1, 2], [2, 3], [3, 1]], np.int32))
    assert all(array[[1, 2, 3], 0, 0, 0].tolist() == [3, 1, 2] for array in cache.arrays)


def test_no_torch(stories260k: Path) -> None:
    """Neither is touched, nor could be: importing either raises there."""
    program = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "pagoda_torch")))
from pagoda.llm import LLM
from pagoda.sampling.params import SamplingParams
with LLM(sys.argv[1], device="openvino", show_progress=False) as llm:
    done = llm.generate("Once", SamplingParams(max_tokens=3, logprobs=2), use_tqdm=False)
print(len(done[0].outputs[0].token_ids))
"""
    command = [sys.executable, "-c", program, str(stories260k / "hf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "3"


@pytest.mark.parametrize("lengths", [(70, 1, 33, 8), (1, 1, 1), (16, 16)])
def test_a_step_in_several_inferences(
    make_model: Callable[..., ModelInfo],
    open_runner: Callable[..., Any],
    prompts: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    lengths: tuple[int, ...],
) -> None:
    """The same numbers, of every token: those sampled and those scored."""
    from pagoda_openvino import blocking

    monkeypatch.setattr(blocking.machine, "only_avx2", lambda: True)
    monkeypatch.setattr(blocking, "ROWS", 16)
    model, batch = make_model(stored="bfloat16", vocab_size=256), prompts(*lengths)
    scored = np.arange(0, sum(lengths), 3, dtype=np.int32)
    batch = dataclasses.replace(batch, score=ScoreBatch(scored, scored % 131, 2))
    found, expected = (
        open_runner(model, platform, block_size=32).submit(batch).result()
        for platform in ("openvino", "reference")
    )
    assert np.abs(found.logits - expected.logits).max() < 1e-4
    assert np.array_equal(found.token_ids, expected.token_ids)
    assert np.abs(found.score.logprobs - expected.score.logprobs).max() < 1e-4
    plain = dataclasses.replace(batch, score=None, want_logits=False)
    greedy = open_runner(model).submit(plain).result()
    assert np.array_equal(greedy.token_ids, expected.token_ids)
