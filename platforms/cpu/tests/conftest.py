"""Plays the engine: sequences with block tables in random physical order, steps built by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from shared_assets import assets, stories260k

from pagoda.models.info import read_model_info
from pagoda.platform import (
    PENDING,
    BlockTable,
    RunnerConfig,
    ScheduledBatch,
    ScoreBatch,
    StepResult,
)
from pagoda.sampling.batch import build_sampling_batch
from pagoda.sampling.params import SamplingParams
from pagoda.sampling.state import SamplingState

__all__ = ["assets", "play", "stories260k"]


@dataclass
class Sequence:
    """One request: its tokens so far, what of it is cached, where."""

    slot: int
    tokens: list[int]
    blocks: list[int]
    params: SamplingParams
    num_prompt: int
    cached: int = 0
    logits: list[np.ndarray] = field(default_factory=list)
    prompt_logprobs: list[np.ndarray] = field(default_factory=list)


class Driver:
    """Runs sequences through a runner, every step checked by nobody but the caller."""

    def __init__(self, runner: Any, num_blocks: int, max_len: int, seed: int = 0):
        self.runner, self.max_len = runner, max_len
        self.block_size = runner.kv_cache_spec().groups[0].block_size
        runner.init_kv_cache(num_blocks)
        runner.warm_up()
        for layer in runner.context.attention_layers:
            layer.cache.fill_(float("nan"))
        self.free = list(np.random.default_rng(seed).permutation(num_blocks))

    def add(self, slot: int, prompt: list[int], **params: Any) -> Sequence:
        count = -(-self.max_len // self.block_size)
        blocks, self.free = self.free[:count], self.free[count:]
        return Sequence(
            slot, list(prompt), blocks, SamplingParams(**{"temperature": 0, **params}), len(prompt)
        )

    def batch(
        self, work: list[tuple[Sequence, int]], pending: bool = False, score: bool = False
    ) -> ScheduledBatch:
        """(sequence, how many of its next tokens) each; those whose last token is run sample."""
        lens = [n for _, n in work]
        sampled = [i for i, (s, n) in enumerate(work) if s.cached + n == len(s.tokens)]
        states = [
            SamplingState(work[i][0].params, self.runner.info.vocab_size, work[i][0].tokens, ())
            for i in sampled
        ]
        start = np.cumsum([0, *lens]).astype(np.int32)
        rows, targets = [], []
        for (s, n), first in zip(work, start, strict=False):
            for i in range(n if score else 0):
                if s.cached + i + 1 < s.num_prompt:
                    rows.append(first + i)
                    targets.append(s.tokens[s.cached + i + 1])
        tokens = [t for s, n in work for t in s.tokens[s.cached : s.cached + n]]
        return ScheduledBatch(
            slots=np.array([s.slot for s, _ in work], np.int32),
            admitted=np.array([s.cached == 0 for s, _ in work]),
            query_start=start,
            token_ids=np.array([PENDING] * len(work) if pending else tokens, np.int32),
            context_lens=np.array([s.cached for s, _ in work], np.int32),
            block_tables=(
                BlockTable(
                    np.array([s.blocks for s, _ in work], np.int32),
                    np.array([-(-(s.cached + n) // self.block_size) for s, n in work], np.int32),
                ),
            ),
            sample_rows=np.array(sampled, np.int32),
            sampling=build_sampling_batch(
                states, [len(work[i][0].tokens) - work[i][0].num_prompt for i in sampled]
            ),
            score=ScoreBatch(np.array(rows, np.int32), np.array(targets, np.int32), 2)
            if rows
            else None,
            want_logits=True,
        )

    def step(self, work: list[tuple[Sequence, int]], score: bool = False) -> StepResult:
        batch = self.batch(work, score=score)
        result = self.runner.submit(batch).result()
        for sequence, n in work:
            sequence.cached += n
        for i, row in enumerate(batch.sample_rows):
            work[row][0].tokens.append(int(result.token_ids[i]))
            work[row][0].logits.append(result.logits[i])
        if batch.score is not None:
            for row, logprob in zip(batch.score.token_rows, result.score.logprobs, strict=True):
                work[batch.rows[row]][0].prompt_logprobs.append(logprob[0])
        return result

    def generate(self, sequences: list[Sequence], count: int, budget: int = 10**9) -> None:
        """Decodes first, then prompts, at most ``budget`` tokens a step, until all have ``count``
        output tokens."""
        while True:
            left = [s for s in sequences if len(s.tokens) < s.num_prompt + count]
            if not left:
                return
            work, room = [], budget
            for s in sorted(left, key=lambda s: len(s.tokens) - s.cached > 1):
                n = min(len(s.tokens) - s.cached, room)
                if n:
                    work.append((s, n))
                    room -= n
            self.step(work, score=True)


@pytest.fixture(scope="session")
def play() -> ModuleType:
    """``play.Driver`` and ``play.load(path, ...)``."""
    made = ModuleType("play")
    made.Driver = Driver  # type: ignore[attr-defined]
    made.load = load  # type: ignore[attr-defined]
    return made


def load(path: Any, dtype: str = "float32", **settings: Any) -> Any:
    """A loaded CPU runner."""
    from pagoda_cpu import plugin

    config = {"max_model_len": 256, "max_tokens": 2048, "max_requests": 64, "block_size": 16}
    info = read_model_info(path)
    runner = plugin.pagoda_create_runner(
        RunnerConfig(dtype=dtype, platform_options={"cpu_threads": 1}, **{**config, **settings}),
        info,
        [],
    )
    runner.load()
    return runner
