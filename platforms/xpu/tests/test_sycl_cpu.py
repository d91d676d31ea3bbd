"""The engine on SYCL kernels, executed by the CPU: golden tokens, with recorded steps too."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from pagoda import LLM, SamplingParams
from pagoda.platform import RunnerConfig
from pagoda_kernels_sycl import programs
from pagoda_torch.family import TorchFamily
from pagoda_xpu import families


class Again:
    """Implements GraphCapture by running the work again."""

    replayed = 0

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        output = work()

        def replay() -> None:
            self.replayed += 1
            output.copy_(work())

        return replay, output


def greedy(num_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)


def tokens_of(
    model: Path, device: str, prompts: list[list[int]], num_tokens: int, **settings: object
) -> list[list[int]]:
    with LLM(str(model), device=device, dtype="float32", show_progress=False, **settings) as llm:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            greedy(num_tokens),
            use_tqdm=False,
        )
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("recorded", [False, True])
def test_golden_tokens(
    sycl_cpu: str, stories260k: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
) -> None:
    """Heads of 8 elements; prompts in pieces of 16 tokens."""
    capture, make = Again(), families.make_family

    def with_capture(device_id: str, config: RunnerConfig) -> TorchFamily:
        return dataclasses.replace(make(device_id, config), graphs=capture)

    if recorded:
        monkeypatch.setattr(families, "make_family", with_capture)
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    prompts = [case["prompt_ids"] for case in golden]
    count = 40 if recorded else 200
    found = tokens_of(stories260k / "hf", sycl_cpu, prompts, count, max_num_batched_tokens=16)
    assert found == [case["output_ids"][:count] for case in golden]
    assert bool(capture.replayed) == recorded


def test_nothing_is_compiled_after_the_start(sycl_cpu: str, stories260k: Path) -> None:
    with LLM(str(stories260k / "hf"), device=sycl_cpu, dtype="float32", show_progress=False) as llm:
        before = dict(programs.compile_seconds)
        llm.generate(["Once upon a time", "The dog"], greedy(8), use_tqdm=False)
        assert programs.compile_seconds == before
