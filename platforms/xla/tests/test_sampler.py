"""The sampler's graphs against the definition, row by row, filled up to buckets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pagoda.platform import Penalties, SamplingBatch, TokenBias
from pagoda.sampling import reference
from pagoda_xla.sampling import NUM_ENTRIES, SamplerGraphs

NEAR = 2e-6
"""A random number so close to an edge may fall to its other side: sums here are float32."""


class Identity:
    """A model whose hidden states are its logits."""

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def make(runtime: Any, vocab: int) -> SamplerGraphs:
    last_tokens = runtime.filled((20,), torch.int32, 0)
    return SamplerGraphs(runtime, Identity(), last_tokens, vocab)  # type: ignore[arg-type]


def random_batch(rng: np.random.Generator, rows: int, vocab: int) -> SamplingBatch:
    def choose(*values: float, dtype: type = np.float32) -> np.ndarray:
        return rng.choice(np.array(values, dtype), rows)

    pairs = rng.permutation(rows * vocab)[: rows * 4].astype(np.int32)
    pairs.sort()
    seen, biased = pairs[::2], pairs[1::2]
    mask = rng.integers(0, 2**32, (rows, -(-vocab // 32)), dtype=np.uint32) | np.uint32(1)
    penalties = Penalties(
        repetition=choose(1, 1.3, 0.8),
        presence=choose(0, 0.5, -0.5),
        frequency=choose(0, 0.5, -0.2),
        rows=seen // vocab,
        token_ids=seen % vocab,
        counts=rng.integers(0, 4, len(seen)).astype(np.int32),
    )
    values = rng.choice(np.array([-np.inf, -3, 5], np.float32), len(biased))
    values[biased % vocab == 0] = 1  # token 0 stays possible
    return SamplingBatch(
        temperature=choose(0, 0.3, 1, 2),
        top_k=choose(0, 1, 3, 40, vocab, dtype=np.int32),
        top_p=choose(1, 0.1, 0.5, 0.95),
        min_p=choose(0, 0, 0.05, 0.5),
        uniform=rng.random(rows).astype(np.float32),
        num_logprobs=choose(-1, -1, 0, 5, dtype=np.int32),
        penalties=penalties if rng.random() < 0.5 else None,
        bias=TokenBias(biased // vocab, biased % vocab, values) if rng.random() < 0.5 else None,
        mask=mask if rng.random() < 0.4 else None,
    )


def nearby(batch: SamplingBatch) -> list[SamplingBatch]:
    """The batch, and those that rounding makes of it."""
    found = [batch]
    for by in (-NEAR, NEAR):
        uniform = np.clip(batch.uniform + by, 0, 1 - 2.0**-24).astype(np.float32)
        top_p = np.where(batch.top_p < 1, batch.top_p + by, 1).astype(np.float32)
        min_p = np.where(batch.min_p > 0, batch.min_p * (1 + by), 0).astype(np.float32)
        changes: list[dict[str, Any]] = [{"uniform": uniform}, {"top_p": top_p}, {"min_p": min_p}]
        found += [dataclasses.replace(batch, **change) for change in changes]
    return found


def sample(graphs: SamplerGraphs, logits: np.ndarray, batch: SamplingBatch, bucket: int) -> Any:
    rows = len(logits)
    states = np.full((20, logits.shape[1]), np.nan, np.float32)
    states[0] = 0  # what rows of padding are
    states[5 : 5 + rows] = logits
    hidden = graphs.runtime.upload(states)
    index, slots = np.arange(rows, dtype=np.int32) + 5, np.arange(rows, dtype=np.int32) + 1
    picks = graphs.picks(index, slots, bucket)
    raw = graphs.logits(hidden, picks, bucket)
    tokens = graphs.pick(raw, picks, batch, bucket)
    assert graphs.last_tokens[1 : rows + 1].tolist() == tokens[:rows].tolist()
    logprobs = graphs.logprobs(raw, tokens, bucket)
    return tokens[:rows].tolist(), dataclasses.replace(
        logprobs, **{name: value.cpu() for name, value in vars(logprobs).items()}
    )


@pytest.mark.parametrize("vocab", [7, 97, 5000])
def test_equals_the_definition(rng: np.random.Generator, any_runtime: Any, vocab: int) -> None:
    graphs = make(any_runtime, vocab)
    for trial in range(60):
        rows = int(rng.integers(1, 9))
        logits = rng.normal(0, 3, (rows, vocab)).astype(np.float32)
        if trial % 3 == 0:  # ties, as in low precision
            logits = np.round(logits)
        batch = random_batch(rng, rows, vocab)
        tokens, logprobs = sample(graphs, logits, batch, 8)
        right = [reference.sample(logits, near)[0] for near in nearby(batch)]
        for row, token in enumerate(tokens):
            assert token in {int(wanted[row]) for wanted in right}, (trial, row, batch)
        count = min(20, vocab)
        wanted = reference.logprobs_of(logits, np.array(tokens), count)
        np.testing.assert_array_equal(logprobs.token_ids[:rows], wanted.token_ids)
        np.testing.assert_array_equal(logprobs.ranks[:rows], wanted.ranks)
        np.testing.assert_allclose(logprobs.logprobs[:rows], wanted.logprobs, atol=1e-5)


def test_more_entries_than_a_piece(rng: np.random.Generator, any_runtime: Any) -> None:
    """Bias and penalties of every token; the last piece is filled up."""
    rows, vocab = 3, NUM_ENTRIES + 77
    pairs = np.arange(rows * vocab, dtype=np.int32)
    batch = dataclasses.replace(
        random_batch(rng, rows, vocab),
        temperature=np.zeros(rows, np.float32),
        mask=None,
        bias=TokenBias(
            pairs // vocab, pairs % vocab, rng.normal(0, 2, len(pairs)).astype(np.float32)
        ),
        penalties=Penalties(
            *(np.full(rows, x, np.float32) for x in (1.4, 0.3, 0.2)),
            pairs // vocab,
            pairs % vocab,
            rng.integers(0, 3, len(pairs)).astype(np.int32),
        ),
    )
    logits = rng.normal(0, 3, (rows, vocab)).astype(np.float32)
    graphs = make(any_runtime, vocab)
    tokens, _ = sample(graphs, logits, batch, 4)
    assert tokens == reference.sample(logits, batch)[0].tolist()


def test_the_last_token_with_mass_is_taken_at_the_very_end(any_runtime: Any) -> None:
    logits = np.full((1, 40), -200.0, np.float32)
    logits[0, 3] = 10.0
    one = np.ones(1, np.float32)
    almost = np.nextafter(one, 0, dtype=np.float32)
    batch = SamplingBatch(one, np.zeros(1, np.int32), one, one * 0, almost, one.astype(np.int32))
    graphs = make(any_runtime, 40)
    assert sample(graphs, logits, batch, 2)[0] == [3]


def test_greedy_takes_the_lowest_of_equals(any_runtime: Any) -> None:
    values = np.zeros((3, 500), np.float32)
    values[1, [400, 123]] = 2
    logits = any_runtime.upload(values).bfloat16()
    graphs = make(any_runtime, 500)
    index = np.arange(3, dtype=np.int32)
    assert graphs.likeliest(logits, index, index, 8)[:3].tolist() == [0, 123, 0]
