"""Pagoda and transformers.generate on the same prompts, in turns, on this machine's CPU.

    python ci/bench/cpu/against_transformers.py --model DIR [--dtype bfloat16] [--rounds 3]

Greedy, end of sequence ignored, random token ids.  transformers gets each workload as one
left-padded batch run to the longest output, which is what it offers.  Prints a Markdown table:
output tokens a second, median and range over the rounds, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from pagoda import LLM, SamplingParams

Request = tuple[list[int], int]
"""Prompt token ids and the number of tokens to generate."""

LOW_ID, HIGH_ID = 300, 7000


def workloads(seed: int, divide: int) -> dict[str, list[Request]]:
    """Other ids every round, the same lengths: these, divided by ``divide``."""
    ids = random.Random(seed)
    lengths = random.Random(0)

    def request(num_in: int, num_out: int) -> Request:
        prompt = [ids.randrange(LOW_ID, HIGH_ID) for _ in range(num_in // divide)]
        return prompt, num_out // divide

    return {
        "1 request, 128 in, 128 out": [request(128, 128)],
        "16 requests, 128 in, 128 out": [request(128, 128) for _ in range(16)],
        "16 requests, 32-256 in, 32-256 out": [
            request(lengths.randint(32, 256), lengths.randint(32, 256)) for _ in range(16)
        ],
    }


def pagoda_runner(args: argparse.Namespace) -> Callable[[list[Request]], int]:
    llm = LLM(args.model, device="cpu", dtype=args.dtype, show_progress=False)

    def run(requests: list[Request]) -> int:
        params = [
            SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False)
            for _, n in requests
        ]
        outputs = llm.generate([ids for ids, _ in requests], params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def transformers_runner(args: argparse.Namespace) -> Callable[[list[Request]], int]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model: Any = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa"
    )
    model.eval()

    @torch.inference_mode()
    def run(requests: list[Request]) -> int:
        longest, most = max(len(ids) for ids, _ in requests), max(n for _, n in requests)
        batch = torch.tensor([[1] * (longest - len(ids)) + ids for ids, _ in requests])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _ in requests])
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=most,
            min_new_tokens=most,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=1,
        )
        model.generate(batch, attention_mask=mask, generation_config=config)
        return sum(n for _, n in requests)  # what was asked for; the rest is padding

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--divide", type=int, default=1, help="shorten all lengths so many times")
    parser.add_argument("--only", default="", help="part of a workload's name")
    args = parser.parse_args()
    engines = {"pagoda": pagoda_runner(args), "transformers": transformers_runner(args)}
    rates: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.rounds + 1):
        for name, requests in workloads(seed, args.divide).items():
            if args.only not in name:
                continue
            for engine, run in engines.items():
                if seed == 0:  # warm-up, cut short
                    run([(ids, 8) for ids, _ in requests])
                    continue
                gc.collect()
                started = time.perf_counter()
                count = run(requests)
                rate = count / (time.perf_counter() - started)
                rates.setdefault(name, {}).setdefault(engine, []).append(rate)
                print(f"round {seed}, {name}, {engine}: {rate:.1f} tokens/s", flush=True)
    print(f"\n{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, ")
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {args.dtype}, ")
    print(f"lengths divided by {args.divide}\n")
    print("| workload | pagoda | transformers | ratio |\n|---|---|---|---|")
    for name, found in rates.items():
        shown = [f"{statistics.median(r):.1f} ({min(r):.1f}-{max(r):.1f})" for r in found.values()]
        ratio = statistics.median(found["pagoda"]) / statistics.median(found["transformers"])
        print(f"| {name} | {shown[0]} | {shown[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
