"""The engines under the benchmark: what starts one, and what runs a workload on it once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workloads import MAX_MODEL_LEN, Workload

HERE = Path(__file__).resolve().parent
Run = Callable[[Workload, int], list[list[int]]]
"""Runs a workload, told the number of the run; returns each prompt's new tokens."""


def start_pagoda(model: str) -> Run:
    from pagoda import LLM, SamplingParams
    from pagoda.assets import storyteller

    llm = LLM(
        str(HERE / "models" / model),
        device="cuda",
        load_format="dummy",
        tokenizer=str(storyteller()),  # any: tokens go in and come out
        max_model_len=MAX_MODEL_LEN[model],
        gpu_memory_utilization=0.85,
    )

    def run(workload: Workload, number: int) -> list[list[int]]:
        params = [
            SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=count, detokenize=False)
            for count in workload.num_outputs
        ]
        salt = "" if workload.cached else str(number)  # a salt of its own finds nothing cached
        prompts = [{"prompt_token_ids": ids, "cache_salt": salt} for ids in workload.prompts]
        found = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in found]

    return run


def start_vllm(model: str) -> Run:
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(HERE / "models" / model),
        load_format="dummy",
        skip_tokenizer_init=True,
        max_model_len=MAX_MODEL_LEN[model],
        gpu_memory_utilization=0.85,
        seed=0,
    )

    def run(workload: Workload, number: int) -> list[list[int]]:
        params = [
            SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=count, detokenize=False)
            for count in workload.num_outputs
        ]
        if not workload.cached:
            llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": ids} for ids in workload.prompts]
        found = llm.generate(prompts, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in found]

    return run


ENGINES: dict[str, Callable[[str], Run]] = {"pagoda": start_pagoda, "vllm": start_vllm}
