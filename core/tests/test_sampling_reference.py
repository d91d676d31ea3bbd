"""The reference sampler against brute force on small vocabularies, and its frequencies."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pagoda.platform.batch import Penalties, SamplingBatch, TokenBias
from pagoda.sampling.batch import stream_of, uniforms
from pagoda.sampling.reference import adjust, kept_weights, logprobs_of, sample
from pagoda.sampling.state import mask_of


def make_batch(rows: int, **fields) -> SamplingBatch:
    defaults = {
        "temperature": np.float32(1),
        "top_k": np.int32(0),
        "top_p": np.float32(1),
        "min_p": np.float32(0),
        "uniform": np.float32(0),
        "num_logprobs": np.int32(-1),
    }
    extras = {name: fields.pop(name) for name in ("penalties", "bias", "mask") if name in fields}
    arrays = {
        name: np.broadcast_to(np.asarray(fields.get(name, value), value.dtype), rows).copy()
        for name, value in defaults.items()
    }
    return SamplingBatch(**arrays, **extras)


def brute_force(logits, temperature, top_k, top_p, min_p, uniform) -> int:
    """By lists of tokens instead of arrays of numbers."""
    exps = np.exp(np.asarray(logits, np.float64) / temperature)
    probs = {token: p / exps.sum() for token, p in enumerate(exps)}
    kept = {t: p for t, p in probs.items() if p >= min_p * max(probs.values())}
    if top_k:
        worst = sorted(probs.values(), reverse=True)[: min(top_k, len(probs))][-1]
        kept = {t: p for t, p in kept.items() if p >= worst}
    if top_p < 1:
        mass = 0.0
        for p in sorted(kept.values(), reverse=True):
            mass += p
            if mass >= top_p * sum(kept.values()):
                break
        kept = {t: q for t, q in kept.items() if q >= p}
    mass = 0.0
    for token in sorted(kept):
        mass += kept[token]
        if mass > uniform * sum(kept.values()):
            return token
    raise AssertionError


def test_against_brute_force() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for _ in range(2000):
        vocab = int(rng.integers(1, 9))
        logits = (rng.integers(-8, 9, vocab) / 2).astype(np.float32)  # ties are common
        settings = {
            "temperature": np.float32(rng.choice([0.25, 0.5, 1, 2])),
            "top_k": int(rng.integers(0, vocab + 2)),
            "top_p": np.float32(rng.choice([1, 0.9, 0.53, 0.31, 0.01])),
            "min_p": np.float32(rng.choice([0, 0.03, 0.3, 1])),
            "uniform": np.float32(rng.random()),
        }
        token_ids, _ = sample(logits[None], make_batch(1, **settings))
        assert token_ids[0] == brute_force(logits, **settings), (logits, settings)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = np.array([[0, 3, 3, 1], [5, 5, 5, 5], [-np.inf, -2, -2, -9]], np.float32)
    token_ids, logprobs = sample(logits, make_batch(3, temperature=0, top_k=1, uniform=0.9))
    assert token_ids.tolist() == [1, 0, 1]
    assert token_ids.dtype == np.int32 and logprobs is None


def test_frequencies_follow_probabilities() -> None:
    n, rng = 6_000, np.random.default_rng(3)
    logits = rng.normal(size=12).astype(np.float32) * 2
    for settings in ({}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 2.5}):
        batch = make_batch(
            n,
            uniform=uniforms(np.full(n, stream_of(11), np.uint64), np.arange(n, dtype=np.int32)),
            **settings,
        )
        token_ids, _ = sample(np.tile(logits, (n, 1)), batch)
        scores = logits / np.float32(settings.get("temperature", 1))
        weights = kept_weights(
            scores, settings.get("top_k", 0), settings.get("top_p", 1), settings.get("min_p", 0)
        )
        probs = weights / weights.sum()
        kept = probs > 0
        counts = np.bincount(token_ids, minlength=12)
        assert not counts[~kept].any()
        chi_square = ((counts[kept] - n * probs[kept]) ** 2 / (n * probs[kept])).sum()
        assert chi_square < 35, settings  # 11 degrees at most: p < 0.0003


def test_never_a_masked_token() -> None:
    vocab = 70
    mask = mask_of([3, 64, 69], vocab)[None].repeat(2, axis=0)
    logits = np.zeros((2, vocab), np.float32)
    logits[:, 10] = 100
    seen = set()
    for uniform in (0.0, 0.2, 0.34, 0.5, 0.67, 1 - 2**-24):
        batch = make_batch(2, temperature=[0, 1], uniform=uniform, mask=mask)
        token_ids, _ = sample(logits, batch)
        assert token_ids[0] == 3
        seen.add(int(token_ids[1]))
    assert seen == {3, 64, 69}


def test_order_of_bias_mask_and_penalties() -> None:
    logits = np.array([[2.0, -2.0, 1.0, 0.5]], np.float32)
    rows = np.zeros(3, np.int32)
    batch = make_batch(
        1,
        temperature=0,
        bias=TokenBias(np.zeros(2, np.int32), np.array([0, 3], np.int32), np.array([2, 1], "f4")),
        mask=mask_of([0, 1, 3], 4)[None],
        penalties=Penalties(
            repetition=np.array([2.0], np.float32),
            presence=np.array([0.25], np.float32),
            frequency=np.array([0.5], np.float32),
            rows=rows,
            token_ids=np.array([0, 1, 2], np.int32),
            counts=np.array([3, 0, 1], np.int32),
        ),
    )
    scores = adjust(logits, batch)
    # 0: (2 + 2) / 2 - 3 * 0.5 - 0.25; 1: -2 * 2; 2: masked; 3: 0.5 + 1
    assert scores.tolist() == [[0.25, -4.0, -np.inf, 1.5]]
    assert logits.tolist() == [[2.0, -2.0, 1.0, 0.5]]
    assert sample(logits, batch)[0].tolist() == [3]


def test_tiny_temperature_and_huge_logits_stay_finite() -> None:
    logits = np.array([[1e30, 9e29, -1e30, -np.inf]], np.float32)
    with np.errstate(over="raise", invalid="raise"):
        token_ids, _ = sample(logits, make_batch(1, temperature=1e-5, uniform=0.99))
    assert token_ids.tolist() == [0]


def test_logprobs_are_of_the_raw_logits() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 4, (40, 17)).astype(np.float32)
    batch = make_batch(40, temperature=0.3, uniform=rng.random(40), num_logprobs=[5, -1] * 20)
    token_ids, logprobs = sample(logits, batch)
    assert logprobs is not None
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    assert logprobs.token_ids.shape == logprobs.logprobs.shape == (40, 6)
    assert (logprobs.token_ids[:, 0] == token_ids).all()
    for row in range(40):
        best = sorted(range(17), key=lambda t: (-logits[row, t], t))[:5]
        assert logprobs.token_ids[row, 1:].tolist() == best
        assert logprobs.logprobs[row] == pytest.approx(exact[row, [token_ids[row], *best]])
        assert logprobs.ranks[row] == 1 + sum(logits[row] > logits[row, token_ids[row]])


def test_logprobs_without_alternatives_and_of_the_whole_vocabulary() -> None:
    logits = np.array([[0, 1, 1, -np.inf]], np.float32)
    none = logprobs_of(logits, np.array([2], np.int32), 0)
    assert none.token_ids.tolist() == [[2]] and none.ranks.tolist() == [1]
    everything = logprobs_of(logits, np.array([0], np.int32), 100)
    assert everything.token_ids.tolist() == [[0, 1, 2, 0, 3]]
    assert everything.ranks.tolist() == [3]
    assert everything.logprobs[0, -1] == -np.inf
