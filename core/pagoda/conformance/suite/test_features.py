"""What is claimed works from a request on; what is not is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pagoda.conformance.driver import Driver
from pagoda.conformance.feeder import Feeder
from pagoda.conformance.subject import Subject, Variant
from pagoda.llm import LLM
from pagoda.platform.errors import PagodaError, UnsupportedFeature
from pagoda.platform.types import Feature
from pagoda.sampling.params import SamplingParams

Rng = np.random.Generator

REQUESTS: dict[Feature, tuple[dict[str, Any], Callable[[Any], bool]]] = {
    # a request that needs the feature, and what its output shows when it was heeded
    Feature.LOGPROBS: (
        {"logprobs": 3},
        lambda output: len(output.outputs[0].logprobs or []) == 6,
    ),
    Feature.PROMPT_LOGPROBS: (
        {"prompt_logprobs": 1},
        lambda output: len(output.prompt_logprobs or []) == 5,
    ),
    Feature.PENALTIES: (
        {"repetition_penalty": 1e6, "logit_bias": None, "presence_penalty": 2.0},
        lambda output: not set(output.outputs[0].token_ids) & set(output.prompt_token_ids),
    ),
    Feature.TOKEN_BIAS: (
        {"logit_bias": {77: 100.0}},
        lambda output: output.outputs[0].token_ids == [77] * 6,
    ),
    Feature.TOKEN_MASK: (
        {"allowed_token_ids": [5, 300, 487]},
        lambda output: set(output.outputs[0].token_ids) <= {5, 300, 487},
    ),
}


@pytest.fixture(scope="module")
def llm(subject: Subject) -> Iterator[LLM]:
    """The public API on the first tiny model."""
    folder = str(subject.model(subject.families[0]).folder)
    with LLM(
        folder,
        device=subject.device,
        dtype=subject.exact.dtype,
        max_num_seqs=4,
        show_progress=False,
    ) as found:
        yield found


@pytest.mark.parametrize("feature", list(REQUESTS), ids=lambda f: f.value)
def test_requests(subject: Subject, llm: LLM, feature: Feature) -> None:
    """Claimed: the answer shows it.  Unclaimed: refused at admission, by name."""
    fields, heeded = REQUESTS[feature]
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True, **fields)

    def ask() -> Any:
        return llm.generate([{"prompt_token_ids": [9, 8, 7, 6, 5]}], params, use_tqdm=False)[0]

    if feature in subject.capabilities.features:
        assert heeded(ask()), (
            f"{feature.value} is claimed, and a request with {fields} shows none of it"
        )
        return
    with pytest.raises(UnsupportedFeature) as refusal:
        ask()
    check_refusal(refusal.value, subject, feature.value)


def test_forks(subject: Subject, llm: LLM) -> None:
    """n > 1 works with BLOCK_COPY and without."""
    params = SamplingParams(n=3, temperature=1.0, seed=4, max_tokens=5, ignore_eos=True)
    (output,) = llm.generate([{"prompt_token_ids": list(range(5, 30))}], params, use_tqdm=False)
    assert [len(one.token_ids) for one in output.outputs] == [5, 5, 5]


def test_every_declared_variant_computes(subject: Subject, rng: Rng) -> None:
    """Each dtype, cache dtype and quantization that is declared is there, at every level."""
    declared = subject.capabilities
    variants = [Variant(dtype) for dtype in declared.dtypes]
    variants += [Variant(declared.dtypes[0], kv) for kv in declared.kv_dtypes if kv != "auto"]
    variants += [Variant(declared.dtypes[0], quantization=q) for q in declared.quantizations]
    for variant in variants:
        try:
            opened = subject.open(subject.families[0], variant)
        except PagodaError as error:
            pytest.fail(f"{variant.name} is declared and cannot be had: {error}")
        try:
            feeder = Feeder(opened, rng)
            feeder.run({0: opened.prompts(rng, [20])[0]})
            feeder.run({0: [7]})
            feeder.judge(f"{variant.name} is declared.")
            driver = Driver(opened)
            driver.add(opened.prompts(rng, [9])[0], 4)
            driver.finish()
            driver.judge(f"{variant.name} is declared.")
        finally:
            opened.runner.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("quantization", "made_up_4bit"),
        ("kv_cache_dtype", "made_up_fp3"),
        ("block_size", 7),
        ("tensor_parallel_size", 2),
        ("async_scheduling", True),
        ("dtype", "float16"),
        ("dtype", "bfloat16"),
        ("dtype", "float32"),
    ],
)
def test_undeclared_settings_are_refused(subject: Subject, setting: str, value: Any) -> None:
    """At configuration, before anything is loaded; the error names platform and setting."""
    declared = subject.capabilities
    offered = {
        "quantization": value in declared.quantizations,
        "kv_cache_dtype": value in declared.kv_dtypes,
        "block_size": not declared.block_sizes or value in declared.block_sizes,
        "tensor_parallel_size": Feature.TENSOR_PARALLEL in declared.features,
        "async_scheduling": declared.limits.steps_in_flight > 1,
        "dtype": value in declared.dtypes,
    }
    if offered[setting]:
        pytest.skip(f"{setting}={value} is declared")
    # Any device will do: one named alone would be refused for not being two.
    fields = {setting: value, "device": subject.name}
    with pytest.raises(PagodaError) as refusal:
        subject.settle(subject.model(subject.families[0]), subject.exact, **fields)
    if setting != "tensor_parallel_size" or len(subject.choice.devices) > 1:
        check_refusal(refusal.value, subject, setting)


def check_refusal(error: PagodaError, subject: Subject, what: str) -> None:
    """Platform, feature, and what to do."""
    text = str(error)
    assert subject.name in text, f"the refusal does not name the platform: {text}"
    assert what in text, f"the refusal does not name {what}: {text}"
    assert error.remedy, f"the refusal does not say what to do: {text}"
