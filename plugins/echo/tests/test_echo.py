"""The example backend: chosen by --device, right on a trained model, honest about its limits."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from installed import pagoda_command

from pagoda import registry
from pagoda.assets import golden, storyteller
from pagoda.config import make_config
from pagoda.engine.startup import settle
from pagoda.llm import LLM
from pagoda.models.info import read_model_info
from pagoda.platform import (
    BlockTable,
    InvalidValue,
    ModelInfo,
    PagodaError,
    RunnerConfig,
    SamplingBatch,
    ScheduledBatch,
    UnsupportedFeature,
)
from pagoda.sampling.params import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)


def outputs(folder: Path, device: str, prompts: list, params: SamplingParams, **settings) -> list:
    with LLM(str(folder), device=device, show_progress=False, **settings) as llm:
        done = llm.generate(prompts, params, use_tqdm=False)
    return [list(request.outputs[0].token_ids) for request in done]


@pytest.mark.parametrize("settings", [{}, {"max_num_batched_tokens": 16}, {"num_blocks": 17}])
def test_golden_tokens(echo: Path, stories260k: Path, settings: dict) -> None:
    entries = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    prompts = [{"prompt_token_ids": entry["prompt_ids"]} for entry in entries]
    found = outputs(stories260k / "hf", "echo", prompts, GREEDY, **settings)
    assert found == [entry["output_ids"] for entry in entries]


def test_the_bundled_model(echo: Path) -> None:
    entries = json.loads(golden().read_text())
    prompts = [{"prompt_token_ids": entry["prompt_ids"]} for entry in entries]
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    found = outputs(storyteller(), "echo", prompts, params, dtype="float32")
    assert found == [entry["output_ids"][:32] for entry in entries]


def test_the_same_random_tokens_as_the_reference(echo: Path, stories260k: Path) -> None:
    params = SamplingParams(seed=7, top_k=40, presence_penalty=0.5, max_tokens=60)
    prompts = ["Once upon a time", "The cat", "A"]
    found = outputs(stories260k / "hf", "echo", prompts, params)
    assert found == outputs(stories260k / "hf", "reference", prompts, params)


def test_it_is_listed_and_never_what_auto_means(echo: Path) -> None:
    assert registry.choose("echo").platform.distribution == "pagoda-echo"
    assert registry.choose("auto").platform.info.name != "echo"


def test_the_command_line_lists_it(echo_site: Path) -> None:
    done = pagoda_command("platforms", site=echo_site)
    assert "echo" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"block_size": 16}, "block_size=16 is not offered by platform 'echo'"),
        ({"dtype": "bfloat16"}, "dtype bfloat16 is not offered by 'echo'"),
        ({"async_scheduling": True}, "async_scheduling is not offered by platform 'echo'"),
    ],
)
def test_settings_beyond_its_limits_are_refused(
    echo: Path, stories260k: Path, settings: dict, shown: str
) -> None:
    with pytest.raises(UnsupportedFeature) as caught:
        settle(make_config(model=str(stories260k / "hf"), device="echo", **settings))
    assert shown in str(caught.value)


def test_a_request_for_what_is_not_claimed_is_refused(echo: Path, stories260k: Path) -> None:
    with (
        LLM(str(stories260k / "hf"), device="echo", show_progress=False) as llm,
        pytest.raises((UnsupportedFeature, InvalidValue), match=r"prompt_logprobs.*'echo'"),
    ):
        llm.generate("A", SamplingParams(prompt_logprobs=1), use_tqdm=False)


def toy(**config: object) -> ModelInfo:
    config = {"hidden_size": 16, "intermediate_size": 24, "rms_norm_eps": 1e-5, **config}
    architecture = str(config.pop("architecture", "LlamaForCausalLM"))
    return ModelInfo("nowhere", architecture, config, "float32", 2, 2, 1, 8, 40, 64)


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"architecture": "GPT2LMHeadModel"}, "architecture='LlamaForCausalLM', not 'GPT2LMHead"),
        ({"hidden_act": "gelu"}, "hidden_act='silu', not 'gelu'"),
        ({"attention_bias": True}, "attention_bias=False, not True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type='default', not 'yarn'"),
    ],
)
def test_models_it_would_get_wrong_are_refused(echo: Path, config: dict, shown: str) -> None:
    create = registry.find("echo").hook.pagoda_create_runner
    with pytest.raises(UnsupportedFeature) as caught:
        create(config=RunnerConfig("float32"), model=toy(**config), devices=())
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("model.norm.weight", (7,)), ("model.stranger.weight", (7,)), ("", ())],
    ids=["wrong shape", "extra", "missing"],
)
def test_checkpoints_that_do_not_fit_are_named(
    echo: Path, stories260k: Path, monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple
) -> None:
    llama = import_module("pagoda_echo.llama")
    model = read_model_info(stories260k / "hf")
    real = list(llama.iter_weights(model.path, "auto", False))
    zeros = memoryview(np.zeros(shape, np.float32).tobytes())
    tensors = [t for t in real if t.name != "model.norm.weight"]
    if name:
        tensors.append(llama.RawTensor(name, "F32", shape, zeros))
    monkeypatch.setattr(llama, "iter_weights", lambda *_: iter(tensors))
    with pytest.raises(PagodaError, match=name or r"model\.norm\.weight"):
        llama.Llama(model, RunnerConfig("float32"))


def test_steps_beyond_what_was_agreed_are_refused(echo: Path) -> None:
    config = RunnerConfig("float32", load_format="dummy", max_tokens=4, max_model_len=64)
    runner = registry.find("echo").hook.pagoda_create_runner(config=config, model=toy(), devices=())
    with pytest.raises(PagodaError, match="before load"):
        runner.submit(step([1]))
    runner.load()
    runner.init_kv_cache(2)
    assert runner.submit(step([1, 2, 3, 4])).result().token_ids.shape == (1,)
    with pytest.raises(PagodaError, match="5 tokens"):
        runner.submit(step([1] * 5))
    with pytest.raises(UnsupportedFeature, match="PENDING"):
        runner.submit(step([-1]))
    runner.close()
    runner.close()


def step(tokens: list[int]) -> ScheduledBatch:
    """One request that begins with these tokens, in block 1."""
    floats, ints = np.zeros(1, np.float32), np.zeros(1, np.int32)
    return ScheduledBatch(
        slots=ints,
        admitted=np.ones(1, np.bool_),
        query_start=np.array([0, len(tokens)], np.int32),
        token_ids=np.array(tokens, np.int32),
        context_lens=ints,
        block_tables=(BlockTable(np.ones((1, 1), np.int32), ints + 1),),
        sample_rows=ints,
        sampling=SamplingBatch(floats, ints, floats + 1, floats, floats, ints - 1),
    )
