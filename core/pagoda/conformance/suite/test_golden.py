"""A really trained model: greedy tokens known beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagoda.assets import storyteller
from pagoda.conformance.subject import Subject
from pagoda.llm import LLM
from pagoda.sampling.params import SamplingParams

QUICK = 24


@pytest.fixture(scope="module")
def model(subject: Subject) -> Path:
    """--pagoda-model, else the model that ships with the core."""
    return Path(subject.real_model) if subject.real_model else storyteller()


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


def test_golden_tokens(subject: Subject, llm: LLM, golden: list[dict[str, Any]]) -> None:
    """All prompts at once; the first tokens of each at the quick level."""
    if subject.level == "quick":
        golden = [{**entry, "output_ids": entry["output_ids"][:QUICK]} for entry in golden]
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
