"""One engine in a process of its own: says when it is ready, then runs what it is told.

Started by bench.py; a line in is {"workload", "repetition", "divide"}, one out {"seconds", ...}."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from five_workloads import WORKLOADS, Request, request_ids

Run = Callable[[list[Request]], int]
"""Returns how many tokens were generated."""

MAX_LEN, MAX_BATCHED, MAX_REQUESTS = 2304, 512, 64
CACHE_GIB = 2
INFER = [0, 0.0]  # Pagoda's steps, and the seconds of CPU its own thread spent in their inferences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("pagoda", "genai"))
    parser.add_argument("model")
    parser.add_argument("settings", type=json.loads)
    given = parser.parse_args()
    began = time.perf_counter()
    run = {"pagoda": open_pagoda, "genai": open_genai}[given.engine](given.model, given.settings)
    loaded = time.perf_counter()
    run([(request_ids(0, 16), 1)])
    first = time.perf_counter()
    run([(request_ids(1, 24), 4), (request_ids(2, 40), 4)])
    tell({"load": loaded - began, "first token": first - loaded, "peak": peak_bytes()})
    settle()
    tell({"settled": time.perf_counter() - first})
    for line in sys.stdin:
        tell(measure(run, json.loads(line)))


def measure(run: Run, asked: dict[str, Any]) -> dict[str, Any]:
    requests = WORKLOADS[asked["workload"]](asked["repetition"], asked["divide"])
    INFER[:] = [0, 0.0]
    cpu, own, began = time.process_time(), time.thread_time(), time.perf_counter()
    generated = run(requests)
    seconds, own = time.perf_counter() - began, time.thread_time() - own
    wanted = sum(num_out for _, num_out in requests)
    if generated != wanted:
        raise SystemExit(f"{generated} tokens came back, {wanted} were asked for")
    steps, infer = INFER
    return {
        **{"seconds": seconds, "cpu": time.process_time() - cpu, "out": generated},
        **{"in": sum(len(prompt) for prompt, _ in requests), "peak": peak_bytes()},
        **({"host ms": 1000 * (own - infer) / steps} if steps else {}),
    }


def settle() -> None:
    """Wait for what the engine still does behind its first token, so that neither engine's turns
    have it beside them."""
    used = -1.0
    while time.process_time() - used > 0.05:
        used = time.process_time()
        time.sleep(0.5)


def open_pagoda(model: str, settings: dict[str, Any]) -> Run:
    import openvino as ov

    from pagoda import LLM, SamplingParams
    from pagoda_openvino.runner import OpenVINORunner

    infer, submit = ov.InferRequest.infer, OpenVINORunner.submit

    def counted(*words: Any) -> Any:
        INFER[0] += 1
        return submit(*words)

    def timed(*words: Any, **more: Any) -> Any:
        began = time.thread_time()
        try:
            return infer(*words, **more)
        finally:
            INFER[1] += time.thread_time() - began

    ov.InferRequest.infer, OpenVINORunner.submit = timed, counted  # type: ignore[method-assign,assignment]
    llm = LLM(
        model,
        device="openvino",
        max_model_len=MAX_LEN,
        max_num_batched_tokens=MAX_BATCHED,
        max_num_seqs=MAX_REQUESTS,
        show_progress=False,
        **settings,
    )

    def run(requests: list[Request]) -> int:
        params = [
            SamplingParams(temperature=0, max_tokens=num_out, ignore_eos=True, detokenize=False)
            for _, num_out in requests
        ]
        outputs = llm.generate([prompt for prompt, _ in requests], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def open_genai(model: str, settings: dict[str, Any]) -> Run:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GIB
    scheduler.max_num_batched_tokens = MAX_BATCHED
    scheduler.max_num_seqs = MAX_REQUESTS
    scheduler.enable_prefix_caching = True
    scheduler.dynamic_split_fuse = True
    pipe = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", settings)

    def run(requests: list[Request]) -> int:
        configs = []
        for _, num_out in requests:
            config = genai.GenerationConfig()
            config.max_new_tokens = config.min_new_tokens = num_out
            config.ignore_eos, config.do_sample = True, False
            configs.append(config)
        prompts = [ov.Tensor(np.array([prompt], np.int64)) for prompt, _ in requests]
        results = pipe.generate(prompts, configs)
        return sum(len(result.m_generation_ids[0]) for result in results)

    return run


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
