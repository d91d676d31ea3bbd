"""bfloat16 against float32 on the real shapes: the log-probabilities of a prompt's own tokens and
of greedy continuations, and the memory that closing an engine gives back.

    python ci/bench/gpu/closeness.py MODEL [--tokens N]"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch

from pagoda import LLM, SamplingParams
from pagoda.assets import storyteller

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=512)
    given = parser.parse_args()
    rng = random.Random(2)
    prompts = [[rng.randrange(10, 30000) for _ in range(given.tokens)] for _ in range(2)]
    exact, continued, first = logprobs(given.model, "float32", prompts)
    rounded, _, second = logprobs(given.model, "bfloat16", continued)
    wanted, _, third = logprobs(given.model, "float32", continued)
    difference = np.abs(rounded - wanted)
    print(
        json.dumps(
            {
                "model": given.model,
                "finite": bool(np.isfinite(rounded).all() and np.isfinite(exact).all()),
                "num_tokens": difference.size,
                "spread_of_float32": round(float(wanted.std()), 4),
                "mean_difference": round(float(difference.mean()), 5),
                "largest_difference": round(float(difference.max()), 4),
                "MiB_kept_after_each_close": [first, second, third],
            }
        )
    )


def logprobs(
    model: str, dtype: str, prompts: list[list[int]]
) -> tuple[np.ndarray, list[list[int]], int]:
    """Of each prompt's tokens after the first; the prompts with 16 greedy tokens more; and the
    device memory in MiB that is not given back at the end."""
    before = torch.cuda.mem_get_info()[0]
    with LLM(
        str(HERE / "models" / model),
        device="cuda",
        dtype=dtype,
        load_format="dummy",
        tokenizer=str(storyteller()),
        max_model_len=2048,
        show_progress=False,
    ) as llm:
        params = SamplingParams(
            temperature=0.0, ignore_eos=True, max_tokens=16, prompt_logprobs=0, detokenize=False
        )
        given = [{"prompt_token_ids": ids} for ids in prompts]
        found = llm.generate(given, params, use_tqdm=False)
    values = [
        position[token].logprob
        for output, ids in zip(found, prompts, strict=True)
        for position, token in zip((output.prompt_logprobs or [])[1:], ids[1:], strict=True)
        if position is not None
    ]
    longer = [
        ids + list(output.outputs[0].token_ids) for ids, output in zip(prompts, found, strict=True)
    ]
    return np.array(values), longer, (before - torch.cuda.mem_get_info()[0]) >> 20


if __name__ == "__main__":
    main()
