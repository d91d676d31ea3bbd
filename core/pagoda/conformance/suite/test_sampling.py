"""Sampling against its definition, ``pagoda.sampling.reference``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pagoda.conformance.feeder import sampling
from pagoda.conformance.oracle import log_softmax
from pagoda.conformance.sampling_bench import Bench
from pagoda.conformance.subject import Opened
from pagoda.platform.batch import Int32, Penalties, TokenBias
from pagoda.platform.types import Feature
from pagoda.sampling import reference
from pagoda.sampling.state import mask_of

Rng = np.random.Generator


@pytest.fixture
def bench(opened: Opened, rng: Rng) -> Bench:
    return Bench(opened, rng)


def test_greedy(bench: Bench) -> None:
    bench.check("greedy")


def test_numbers_of_the_batch_are_used(bench: Bench) -> None:
    for temperature in (1.0, 0.3, 1.7):
        temperatures = [temperature] * bench.num_rows
        bench.check("temperature", temperature=temperatures, uniform=bench.uniform())


def test_extreme_numbers(bench: Bench) -> None:
    """0 and the largest number below 1."""
    uniform = np.where(np.arange(bench.num_rows) % 2, 1 - 2.0**-24, 0)
    bench.check("extreme uniform", temperature=[1.0] * bench.num_rows, uniform=uniform)


def test_greedy_and_random_rows_together(bench: Bench) -> None:
    temperature = np.where(np.arange(bench.num_rows) % 3, 0.0, 0.9)
    bench.check("mixed rows", temperature=temperature, uniform=bench.uniform())


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p"])
def test_top_k_top_p_min_p(bench: Bench, name: str) -> None:
    values: dict[str, list[float]] = {
        "top_k": [1, 2, 5, 40],
        "top_p": [0.05, 0.5, 0.9, 0.999],
        "min_p": [0.5, 0.1, 0.01],
    }
    for value in values[name]:
        fields = {name: [value] * bench.num_rows}
        temperature = [1.2] * bench.num_rows
        bench.check(name, temperature=temperature, uniform=bench.uniform(), **fields)


def test_all_of_them(bench: Bench) -> None:
    """Each row with its own parameters, several at once."""
    rng, n = bench.rng, bench.num_rows
    for _ in range(4):
        bench.check(
            "top_k, top_p and min_p at once",
            temperature=rng.choice([0.0, 0.7, 1.0, 1.5], n),
            top_k=rng.choice([0, 3, 50, 10_000], n),
            top_p=rng.choice([1.0, 0.9, 0.5], n),
            min_p=rng.choice([0.0, 0.05, 0.2], n),
            uniform=bench.uniform(),
        )


def test_frequencies(bench: Bench) -> None:
    """Evenly spread numbers draw every token as often as its probability says."""
    feeder, n, rounds = bench.feeder, bench.num_rows, 16
    (prompt,) = bench.opened.prompts(bench.rng, [1])
    counts = np.zeros(bench.opened.model.vocab_size)
    probabilities = counts
    total = n * rounds
    for number in range(rounds):
        for slot in list(feeder.lives):
            feeder.retire(slot)
        uniform = (np.arange(n) * rounds + number + 0.5) / total
        batch = sampling(n, temperature=[1.0] * n, uniform=uniform)
        result = feeder.run(dict.fromkeys(range(n), prompt), sampling=batch)
        assert result.logits is not None
        probabilities = np.exp(log_softmax(result.logits[0]))
        counts += np.bincount(result.token_ids, minlength=len(counts))
    worst = int(np.abs(counts - total * probabilities).argmax())
    assert abs(counts[worst] - total * probabilities[worst]) <= 2 + total * 1e-3, (
        f"token {worst} has probability {probabilities[worst]:.4f} and came {counts[worst]:.0f}"
        f" times in {total} evenly spread draws: `uniform` is not used as defined"
    )


@pytest.mark.needs(Feature.PENALTIES)
def test_penalties(bench: Bench) -> None:
    rng, n, vocab = bench.rng, bench.num_rows, bench.opened.model.vocab_size
    for temperature in (0.0, 1.0):
        rows = np.repeat(np.arange(n), 60)
        tokens = np.concatenate([rng.permutation(vocab)[:60] for _ in range(n)])
        penalties = Penalties(
            repetition=np.where(np.arange(n) % 2, 1.8, 1).astype(np.float32),
            presence=rng.choice([0, 1.5, -1], n).astype(np.float32),
            frequency=rng.choice([0, 0.7], n).astype(np.float32),
            rows=rows.astype(np.int32),
            token_ids=tokens.astype(np.int32),
            counts=rng.integers(0, 4, len(rows), np.int32),
        )
        bench.check(
            "penalties",
            temperature=[temperature] * n,
            uniform=bench.uniform(),
            penalties=penalties,
        )


@pytest.mark.needs(Feature.TOKEN_BIAS)
def test_bias(bench: Bench) -> None:
    """Added before anything else; -inf forbids; equal logits go to the lowest id."""
    rng, n, vocab = bench.rng, bench.num_rows, bench.opened.model.vocab_size
    tokens = np.concatenate([np.sort(rng.permutation(vocab)[:40]) for _ in range(n)])
    values = rng.choice([-np.inf, 3.0, -2.0, 6.5], 40 * n)
    bias = token_bias(np.repeat(np.arange(n), 40), tokens, values)
    for temperature in (0.0, 1.0):
        temperatures = [temperature] * n
        bench.check("bias", temperature=temperatures, uniform=bench.uniform(), bias=bias)
    ties = np.tile(np.array([300, 77, 401]), n)
    # In float32 a logit added to 2**28 leaves no trace: the three are equal.
    equal = token_bias(np.repeat(np.arange(n), 3), ties, np.full(3 * n, 2.0**28))
    result, _ = bench.run(bias=equal)
    assert result.token_ids.tolist() == [77] * n, (
        f"three equal logits, at 300, 77 and 401: tokens {result.token_ids.tolist()}, not the"
        " lowest id (bias is added in float32)"
    )


@pytest.mark.needs(Feature.TOKEN_MASK)
def test_mask(bench: Bench) -> None:
    """A bit a token; the last word is not full; some rows allow everything."""
    rng, n, vocab = bench.rng, bench.num_rows, bench.opened.model.vocab_size
    for count in (1, 7, 200):
        rows = [mask_of(rng.permutation(vocab)[:count].astype(np.int32), vocab) for _ in range(n)]
        rows[0] = mask_of(np.arange(vocab, dtype=np.int32), vocab)
        rows[-1] = mask_of(np.array([vocab - 1], np.int32), vocab)
        for temperature in (0.0, 1.0):
            bench.check(
                "mask",
                temperature=[temperature] * n,
                uniform=bench.uniform(),
                mask=np.stack(rows),
            )


@pytest.mark.needs(Feature.PENALTIES, Feature.TOKEN_BIAS, Feature.TOKEN_MASK)
def test_order_of_adjustments(bench: Bench) -> None:
    """Bias, then mask, then penalties, on the same tokens."""
    rng, n, vocab = bench.rng, bench.num_rows, bench.opened.model.vocab_size
    tokens = np.concatenate([np.sort(rng.permutation(vocab)[:50]) for _ in range(n)])
    rows = np.repeat(np.arange(n), 50).astype(np.int32)
    ones = np.ones(n, np.float32)
    bench.check(
        "bias, mask and penalties at once",
        temperature=rng.choice([0.0, 0.8], n),
        uniform=bench.uniform(),
        top_k=rng.choice([0, 4], n),
        bias=token_bias(rows, tokens, rng.normal(0, 4, len(rows))),
        mask=np.stack([mask_of(tokens[rows == row].astype(np.int32), vocab) for row in range(n)]),
        penalties=Penalties(
            np.full(n, 1.5, np.float32),
            ones,
            np.full(n, 0.5, np.float32),
            rows,
            tokens.astype(np.int32),
            (rows % 3).astype(np.int32),
        ),
    )


def test_neighbours_change_no_token(bench: Bench) -> None:
    """The same number, the same token: alone and in company, in any place of the batch."""
    feeder, n = bench.feeder, bench.num_rows
    (prompt,) = bench.opened.prompts(bench.rng, [5])
    fields = {"temperature": 1.0, "top_p": 0.95, "uniform": 0.637}
    found = set()
    for count in {1, min(2, n), n}:
        for place in {0, count - 1}:
            for slot in list(feeder.lives):
                feeder.retire(slot)
            parts = {s: prompt if s == place else [7 + s] for s in range(count)}
            if sum(map(len, parts.values())) > bench.opened.limits.max_tokens:
                continue
            rows = {k: [v] * count for k, v in fields.items()}
            result = feeder.run(parts, sampling=sampling(count, **rows))
            assert result.logits is not None
            right = reference.sample(result.logits, sampling(count, **rows))[0]
            found.add((int(result.token_ids[place]), int(right[place])))
    assert all(token == right for token, right in found), (
        f"one request's token depends on its neighbours: (token, by definition) {sorted(found)}"
    )


def token_bias(rows: Any, token_ids: Any, values: Any) -> TokenBias:
    as_ints: Int32 = np.asarray(token_ids, np.int32)
    return TokenBias(np.asarray(rows, np.int32), as_ints, np.asarray(values, np.float32))
