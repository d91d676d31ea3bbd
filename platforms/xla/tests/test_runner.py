"""The whole runner on the eager runtime: golden tokens, the null block, refusals, compiles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagoda.models.info import read_model_info
from pagoda.platform import (
    BlockTable,
    OutOfMemory,
    PagodaError,
    RunnerConfig,
    ScheduledBatch,
    ScoreBatch,
    UnsupportedFeature,
)
from pagoda.sampling.reference import logprobs_of
from pagoda_torch.trial import trial_batch
from pagoda_xla.buckets import BucketRule
from pagoda_xla.family import XlaFamily
from pagoda_xla.gather_attention import GatherKernel
from pagoda_xla.runner import XlaRunner

RULE = BucketRule(rows=(2, 8), tokens=(16, 64), tile=8, contexts=(64,))
NUM_BLOCKS = 100


def make(folder: Path, runtime: Any, **config: Any) -> XlaRunner:
    fields = {"dtype": "float32", "max_tokens": 64, "max_requests": 8, "max_model_len": 256}
    family = XlaFamily(runtime, [GatherKernel()], RULE, 16)
    return XlaRunner(RunnerConfig(**{**fields, **config}), read_model_info(folder), family)


@pytest.fixture
def runner(stories260k: Path, runtime: Any) -> XlaRunner:
    found = make(stories260k / "hf", runtime)
    found.load()
    found.init_kv_cache(NUM_BLOCKS)
    found.warm_up()
    found.poison_cache()
    return found


class Rows:
    """Sequences in fixed random blocks, stepped by hand."""

    def __init__(self, rng: np.random.Generator, prompts: list[list[int]]):
        blocks = rng.permutation(NUM_BLOCKS).astype(np.int32)
        self.blocks = blocks[: len(prompts) * 12].reshape(len(prompts), 12)
        self.tokens = [list(prompt) for prompt in prompts]
        self.cached = [0] * len(prompts)

    def step(self, parts: list[tuple[int, int]], **more: Any) -> ScheduledBatch:
        """Rows and how many tokens of each run; the caller counts what is cached."""
        rows = [row for row, _ in parts]
        tokens = [self.tokens[r][self.cached[r] : self.cached[r] + n] for r, n in parts]
        batch = dataclasses.replace(
            trial_batch(0, 1, len(parts)),
            slots=np.array(rows, np.int32),
            admitted=np.array([self.cached[r] == 0 for r in rows]),
            query_start=np.cumsum([0, *map(len, tokens)], dtype=np.int32),
            token_ids=np.array([t for some in tokens for t in some], np.int32),
            context_lens=np.array([self.cached[r] for r in rows], np.int32),
            block_tables=(BlockTable(self.blocks[rows], np.full(len(rows), 12, np.int32)),),
            **more,
        )
        for row, count in parts:
            self.cached[row] += count
        return batch


def test_golden_tokens(stories260k: Path, runner: XlaRunner, rng: np.random.Generator) -> None:
    golden = json.loads((stories260k / "golden_greedy_fp32.json").read_text())
    rows = Rows(rng, [g["prompt_ids"] for g in golden])
    compiled = runner.num_compiles
    while min(map(len, rows.tokens)) < 120:
        parts, room = [], 64
        for row, tokens in enumerate(rows.tokens):
            count = min(len(tokens) - rows.cached[row], int(rng.integers(1, 12)), room)
            if count:
                parts.append((row, count))
                room -= count
        whole = [r for r, n in parts if rows.cached[r] + n == len(rows.tokens[r])]
        index = np.array([[r for r, _ in parts].index(r) for r in whole], np.int32)
        result = runner.submit(rows.step(parts, sample_rows=index)).result()
        for row, token in zip(whole, result.token_ids.tolist(), strict=True):
            rows.tokens[row].append(token)
    for tokens, g in zip(rows.tokens, golden, strict=True):
        found = tokens[len(g["prompt_ids"]) :]
        assert found == g["output_ids"][: len(found)]
    assert runner.num_compiles == compiled, "something was compiled after warm-up"


def test_the_null_block_is_no_block_of_the_cores(
    runner: XlaRunner, rng: np.random.Generator
) -> None:
    """Padding is written nowhere else: all the core's blocks are as they were."""
    before = [layer.cache[16:].clone() for layer in runner._layers]
    rows = Rows(rng, [[5]])
    batch = rows.step([(0, 1)])
    runner.submit(batch).result()
    for layer, old in zip(runner._layers, before, strict=True):
        changed = (layer.cache[16:].isnan() != old.isnan()).any(1).nonzero().flatten().tolist()
        assert changed == batch.cache_slots(16).tolist()


def test_prompt_logprobs_of_any_number(runner: XlaRunner, rng: np.random.Generator) -> None:
    """More tokens than rows are scored at once, and more alternatives than the graph has."""
    prompt = rng.integers(3, 500, 30).tolist()
    for count in (0, 3, 20, 33):
        rows = Rows(rng, [prompt])
        score = ScoreBatch(np.arange(29, dtype=np.int32), np.array(prompt[1:], np.int32), count)
        found = runner.submit(rows.step([(0, 30)], score=score)).result().score
        assert found is not None and found.token_ids.shape == (29, count + 1)
        one_by_one = Rows(rng, [prompt])
        for position in range(29):
            step = one_by_one.step([(0, 1)], want_logits=True)
            logits = runner.submit(step).result().logits
            assert logits is not None
            wanted = logprobs_of(logits, np.array(prompt[position + 1 : position + 2]), count)
            np.testing.assert_allclose(found.logprobs[position], wanted.logprobs[0], atol=1e-4)
            own = logits[0, prompt[position + 1]]
            least, most = (1 + int((logits[0] > own + by).sum()) for by in (1e-4, -1e-4))
            assert least <= found.ranks[position] <= most


def test_a_step_that_samples_nothing(runner: XlaRunner, rng: np.random.Generator) -> None:
    step = Rows(rng, [[5, 6, 7]]).step(
        [(0, 2)], sample_rows=np.zeros(0, np.int32), want_logits=True
    )
    step = dataclasses.replace(step, sampling=trial_batch(0, 1, 0).sampling)
    result = runner.submit(step).result()
    assert result.token_ids.shape == (0,) and result.logits is not None
    assert result.logits.shape == (0, 512) and result.logprobs is None


def test_steps_beyond_what_was_agreed(runner: XlaRunner, rng: np.random.Generator) -> None:
    rows = Rows(rng, [[1] * 300] * 2)
    with pytest.raises(PagodaError, match="65 tokens, the limit is 64"):
        runner.submit(rows.step([(0, 64), (1, 1)]))
    rows.cached[0] = 256
    with pytest.raises(PagodaError, match="257 tokens in a sequence"):
        runner.submit(rows.step([(0, 1)]))
    pending = dataclasses.replace(rows.step([(1, 1)]), token_ids=np.full(1, -1, np.int32))
    with pytest.raises(PagodaError, match="PENDING"):
        runner.submit(pending)


def test_what_cannot_be_served_is_refused_early(stories260k: Path, runtime: Any) -> None:
    folder = stories260k / "hf"
    for fields in ({"dtype": "float16"}, {"kv_cache_dtype": "u8"}, {"quantization": "int8"}):
        with pytest.raises(UnsupportedFeature):
            make(folder, runtime, **fields)
    info = dataclasses.replace(read_model_info(folder), architecture="FalconForCausalLM")
    family = XlaFamily(runtime, [GatherKernel()], RULE, 16)
    with pytest.raises(UnsupportedFeature, match="FalconForCausalLM"):
        XlaRunner(RunnerConfig(dtype="float32", max_model_len=64), info, family)


class Picky(GatherKernel):
    name = "picky"

    def refuses(self, *_: object) -> str | None:
        return "not today"


def test_a_kernel_that_refuses_is_named(stories260k: Path, runtime: Any) -> None:
    runner = make(stories260k / "hf", runtime)
    runner.family = XlaFamily(runtime, [Picky()], RULE, 16)
    with pytest.raises(UnsupportedFeature, match="picky: not today"):
        runner.load()


def test_a_graph_that_does_not_fit_fails_at_warm_up(stories260k: Path, runtime: Any) -> None:
    runner = make(stories260k / "hf", runtime)
    runner.load()
    runner.init_kv_cache(40)
    runtime.too_large = "step of 64 tokens"
    with pytest.raises(OutOfMemory, match="step of 64 tokens"):
        runner.warm_up()


def test_too_large_a_cache_is_refused_with_numbers(stories260k: Path, runtime: Any) -> None:
    runner = make(stories260k / "hf", runtime)
    runner.load()
    with pytest.raises(OutOfMemory, match=r"GiB are free"):
        runner.init_kv_cache(1 << 40)
