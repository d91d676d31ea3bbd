"""Token-level workloads, the same work for every engine: random weights of real shapes, greedy, no
end of sequence."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """Prompts as token ids, and how many tokens each is to be continued by."""

    name: str
    model: str  # a folder of ``models``
    prompts: list[list[int]]
    num_outputs: list[int]
    cached: bool = False  # the timed runs find the prompts' prefixes in the cache


MAX_MODEL_LEN = {"opt-125m": 2048, "qwen3-0.6b": 6144, "llama3-8b": 6144}


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(10, 30000) for _ in range(count)]


def workloads() -> list[Workload]:
    """In the order in which they are run, model by model."""
    found = []
    for model in ("qwen3-0.6b", "llama3-8b"):  # nano-vllm's bench.py
        rng = random.Random(0)
        prompts = [_ids(rng, rng.randint(100, 1024)) for _ in range(256)]
        outputs = [rng.randint(100, 1024) for _ in range(256)]
        found.append(Workload(f"throughput/{model}", model, prompts, outputs))
    rng = random.Random(1)
    found += [Workload(f"latency1/{m}", m, [_ids(rng, 128)], [256]) for m in MAX_MODEL_LEN]

    def add(name: str, model: str, prompts: list[list[int]], outputs: int) -> None:
        cached = name == "prefix"
        workload = Workload(f"{name}/{model}", model, prompts, [outputs] * len(prompts), cached)
        found.append(workload)

    add("quickstart4", "opt-125m", [_ids(rng, 6) for _ in range(4)], 16)
    add("prefill", "llama3-8b", [_ids(rng, 4096) for _ in range(8)], 1)
    add("prefill", "qwen3-0.6b", [_ids(rng, 4096) for _ in range(16)], 1)
    add("decode64", "llama3-8b", [_ids(rng, 512) for _ in range(64)], 256)
    shared = _ids(rng, 2048)
    add("prefix", "llama3-8b", [shared + _ids(rng, 64) for _ in range(64)], 64)
    return sorted(found, key=lambda w: (list(MAX_MODEL_LEN).index(w.model), sum(w.num_outputs)))
