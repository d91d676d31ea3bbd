"""A really trained model: greedy tokens known beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagoda.conformance.subject import Subject
from pagoda.llm import LLM
from pagoda.models.hub import resolve
from pagoda.platform.errors import PagodaError
from pagoda.sampling.params import SamplingParams


@pytest.fixture(scope="module")
def model(subject: Subject) -> Path:
    """--pagoda-model, else the model that ships with the core."""
    if subject.real_model:
        return Path(subject.real_model)
    try:
        return resolve("")
    except PagodaError:
        pytest.skip("--pagoda-model is not given, and this core ships no model")


@pytest.fixture(scope="module")
def golden(model: Path) -> list[dict[str, Any]]:
    """A JSON list of {prompt, prompt_ids, output_ids}."""
    files = sorted([*model.glob("golden*.json"), *model.parent.glob("golden*.json")])
    if not files:
        pytest.skip(f"no golden*.json in {model} or beside it")
    found: list[dict[str, Any]] = json.loads(files[0].read_text())
    return found


@pytest.fixture(scope="module")
def llm(subject: Subject, model: Path) -> Iterator[LLM]:
    if "float32" not in subject.capabilities.dtypes:
        pytest.skip("golden tokens are float32's, and the platform declares no float32")
    with LLM(str(model), device=subject.device, dtype="float32", show_progress=False) as found:
        yield found


def test_golden_tokens(llm: LLM, golden: list[dict[str, Any]]) -> None:
    """All prompts at once."""
    params = [
        SamplingParams(temperature=0, max_tokens=len(entry["output_ids"]), ignore_eos=True)
        for entry in golden
    ]
    outputs = llm.generate([entry["prompt_ids"] for entry in golden], params, use_tqdm=False)
    for entry, output in zip(golden, outputs, strict=True):
        found, expected = output.outputs[0].token_ids, entry["output_ids"]
        same = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), None
        )
        assert same is None, (
            f"prompt {entry['prompt']!r}: {same} tokens agree, then {found[same]} came in place of"
            f" {expected[same]}"
        )


def test_golden_tokenization(llm: LLM, golden: list[dict[str, Any]]) -> None:
    for entry in golden:
        if entry["prompt"]:
            assert llm.get_tokenizer().encode(entry["prompt"]) == entry["prompt_ids"]
