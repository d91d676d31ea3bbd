"""The sampler against the reference, row by row and in any company."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pagoda.platform import Penalties, SamplingBatch, TokenBias
from pagoda.sampling import reference
from pagoda_cpu.device import CpuDevice
from pagoda_torch.sampler import logprobs_of, sample


class Overlapping(CpuDevice):
    """Takes the paths of a device that must not be waited for."""

    overlaps = True


def random_batch(rng: np.random.Generator, rows: int, vocab: int) -> SamplingBatch:
    def choose(*values: float, dtype: type = np.float32) -> np.ndarray:
        return rng.choice(np.array(values, dtype), rows)

    pairs = rng.permutation(rows * vocab)[: rows * 4].astype(np.int32)
    pairs.sort()
    seen, biased = pairs[::2], pairs[1::2]
    mask = None
    if rng.random() < 0.4:
        words = rng.integers(0, 2**32, (rows, -(-vocab // 32)), dtype=np.uint32)
        mask = words | np.uint32(1)
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
        mask=mask,
    )


@pytest.mark.parametrize("device", [CpuDevice(1), Overlapping(1)], ids=["waits", "overlaps"])
@pytest.mark.parametrize("vocab", [7, 97, 5000])
def test_equals_the_reference(device: CpuDevice, vocab: int) -> None:
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    rng = np.random.default_rng(seed)
    for trial in range(60):
        rows = int(rng.integers(1, 9))
        logits = rng.normal(0, 3, (rows, vocab)).astype(np.float32)
        if trial % 3 == 0:  # ties, as in low precision
            logits = np.round(logits)
        batch = random_batch(rng, rows, vocab)
        tokens, logprobs = sample(torch.from_numpy(logits.copy()), batch, device)
        wanted, wanted_logprobs = reference.sample(logits, batch)
        assert tokens.tolist() == wanted.tolist(), (trial, batch)
        if wanted_logprobs is None:
            assert logprobs is None
            continue
        assert logprobs is not None
        np.testing.assert_array_equal(logprobs.token_ids, wanted_logprobs.token_ids)
        np.testing.assert_array_equal(logprobs.ranks, wanted_logprobs.ranks)
        np.testing.assert_allclose(logprobs.logprobs, wanted_logprobs.logprobs, atol=1e-5)


def test_plain_greedy_takes_the_lowest_of_equals() -> None:
    logits = torch.zeros(3, 50_000, dtype=torch.bfloat16)
    logits[1, [40_000, 123]] = 2
    zeros = np.zeros(3, np.float32)
    batch = SamplingBatch(
        zeros, np.zeros(3, np.int32), zeros + 1, zeros, zeros, np.full(3, -1, np.int32)
    )
    assert sample(logits, batch, CpuDevice(1))[0].tolist() == [0, 123, 0]


def test_logprobs_of_no_alternatives_and_of_all() -> None:
    logits = np.array([[0.0, -0.0, 1.0, 1.0]], np.float32)
    for count in (0, 2, 4, 9):
        wanted = reference.logprobs_of(logits, np.array([1], np.int32), count)
        found = logprobs_of(torch.from_numpy(logits), torch.tensor([1]), count, CpuDevice(1))
        assert found.token_ids.tolist() == wanted.token_ids.tolist()
        assert found.ranks.tolist() == wanted.ranks.tolist()


def test_the_last_token_with_mass_is_taken_at_the_very_end() -> None:
    logits = torch.full((1, 40), -200.0)
    logits[0, 3] = 10.0
    one = np.ones(1, np.float32)
    almost = np.nextafter(one, 0, dtype=np.float32)
    batch = SamplingBatch(
        one, np.zeros(1, np.int32), one, one * 0, almost, np.full(1, -1, np.int32)
    )
    assert sample(logits, batch, CpuDevice(1))[0].tolist() == [3]


@pytest.mark.parametrize("device", [CpuDevice(1), Overlapping(1)], ids=["waits", "overlaps"])
def test_a_row_of_nan_spoils_no_other(device: CpuDevice) -> None:
    """Nor asks for a place that is none, which on a GPU would end every request."""
    logits = torch.randn(2, 50)
    logits[0] = float("nan")
    batch = SamplingBatch(
        temperature=np.ones(2, np.float32),
        top_k=np.zeros(2, np.int32),
        top_p=np.full(2, 0.9, np.float32),
        min_p=np.zeros(2, np.float32),
        uniform=np.full(2, 0.5, np.float32),
        num_logprobs=np.full(2, -1, np.int32),
    )
    tokens, _ = sample(logits, batch, device)
    assert 0 <= int(tokens[0]) < 50
    kept = reference.kept_weights(logits[1].numpy(), 0, 0.9, 0.0)
    assert kept[int(tokens[1])] > 0
