"""SamplingState and SamplingTable: histories, biases, masks and random numbers as they cross."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from pagoda.platform.errors import InvalidValue
from pagoda.sampling.batch import SamplingTable, build_sampling_batch, stream_of, uniforms
from pagoda.sampling.params import SamplingParams
from pagoda.sampling.reference import allowed_tokens, sample
from pagoda.sampling.state import SamplingState, mask_of

VOCAB = 50


def state(prompt=(1, 2, 3), eos=(0,), **fields) -> SamplingState:
    fields.setdefault("temperature", 0)
    return SamplingState(SamplingParams(**fields), VOCAB, list(prompt), eos)


def test_plain_rows_cross_as_plain_greedy() -> None:
    batch = build_sampling_batch([state(), state(top_k=5, top_p=0.5)], [0, 3])
    assert batch.plain_greedy
    assert batch.uniform.tolist() == [0, 0]
    assert batch.penalties is None and batch.bias is None and batch.mask is None
    for array in (batch.temperature, batch.top_p, batch.min_p, batch.uniform):
        assert array.dtype == np.float32
    assert batch.top_k.dtype == batch.num_logprobs.dtype == np.int32


def test_no_rows() -> None:
    batch = SamplingTable(4, VOCAB).build(np.zeros(0, np.int32), np.zeros(0, np.int32))
    token_ids, logprobs = sample(np.zeros((0, VOCAB), np.float32), batch)
    assert token_ids.shape == (0,) and logprobs is None


def test_uniforms_depend_on_seed_and_index_alone() -> None:
    seeds = [0, 1, 2**63 - 1, -7]
    streams = np.array([stream_of(seed) for seed in seeds], np.uint64)
    index = np.array([0, 5, 5, 100_000], np.int32)
    together = uniforms(streams, index)
    for row in range(4):
        assert uniforms(streams[row : row + 1], index[row : row + 1])[0] == together[row]
    assert stream_of(0) == 0xE220A8397B1DCDAF  # SplitMix64's first number from seed 0


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    n = 1 << 14
    index = np.arange(n, dtype=np.int32)
    one = uniforms(np.full(n, stream_of(1), np.uint64), index)
    two = uniforms(np.full(n, stream_of(2), np.uint64), index)
    across = uniforms(np.array([stream_of(s) for s in range(n)], np.uint64), np.zeros(n, np.int32))
    for numbers in (one, two, across):
        assert numbers.min() >= 0 and numbers.max() < 1
        expected = n / 64
        counts = np.bincount((numbers * 64).astype(int), minlength=64)
        assert ((counts - expected) ** 2 / expected).sum() < 130  # chi-square, 63 degrees
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.04
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.04


def test_same_seed_gives_same_row_whoever_shares_the_batch() -> None:
    table = SamplingTable(8, VOCAB)
    for slot in range(8):
        table.put(slot, state(temperature=1.0, seed=slot % 4, top_k=slot))
    alone = table.build(np.array([6], np.int32), np.array([9], np.int32))
    among = table.build(np.array([1, 3, 6, 7], np.int32), np.array([0, 4, 9, 9], np.int32))
    assert alone.uniform[0] == among.uniform[2] != among.uniform[3]
    assert alone.top_k[0] == among.top_k[2] == 6
    table.put(6, state())
    assert table.build(np.array([6], np.int32), np.array([9], np.int32)).plain_greedy


def test_random_sampling_needs_a_seed() -> None:
    with pytest.raises(InvalidValue, match="seed"):
        state(temperature=1.0)


def test_penalties_count_prompt_and_output() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    prompt = [rng.randrange(VOCAB) for _ in range(30)]
    output = [rng.randrange(VOCAB) for _ in range(200)]
    one = state(prompt, repetition_penalty=1.3, presence_penalty=0.5)
    two = state(prompt, frequency_penalty=-0.5)
    rest = list(output)
    while rest:
        size = rng.randrange(1, 6)
        one.append(rest[:size])
        two.append(rest[:size])
        rest = rest[size:]
    assert one.needs_history and two.needs_history
    assert one.num_output_tokens == 200
    batch = build_sampling_batch([state(), one, state(), two], [0, 200, 0, 200])
    found = batch.penalties
    assert found is not None
    assert found.repetition.tolist() == pytest.approx([1, 1.3, 1, 1])
    assert found.presence.tolist() == [0, 0.5, 0, 0]
    assert found.frequency.tolist() == [0, 0, 0, -0.5]
    assert (np.diff(found.rows) >= 0).all()
    got = {(r, t): c for r, t, c in zip(found.rows, found.token_ids, found.counts, strict=True)}
    assert len(got) == len(found.rows)
    counts = Counter(output)
    want = {(1, token): counts[token] for token in {*prompt, *output}}
    want |= {(3, token): count for token, count in counts.items()}
    assert got == want


def test_a_submitted_batch_is_not_written_to() -> None:
    one = state(presence_penalty=1.0, bad_words_token_ids=[[4, 5]], logit_bias={7: 1})
    one.append([9])
    batch = build_sampling_batch([one], [1])
    before = batch.penalties.counts.copy(), batch.bias.values.copy()
    one.append([9, 4])
    assert (batch.penalties.counts == before[0]).all()
    assert (batch.bias.values == before[1]).all()


def bias_of(one: SamplingState, num_output_tokens: int) -> dict[int, float]:
    token_ids, values = one.bias(num_output_tokens)
    assert len(set(token_ids.tolist())) == len(token_ids)
    return dict(zip(token_ids.tolist(), values.tolist(), strict=True))


def test_min_tokens_hold_back_every_way_to_stop() -> None:
    one = state(eos=(0, 9), min_tokens=2, stop_token_ids=[4], logit_bias={4: 5, 6: 1})
    assert not one.needs_history
    forbidden = -np.inf
    assert bias_of(one, 0) == {0: forbidden, 9: forbidden, 4: forbidden, 6: 1}
    assert bias_of(one, 1) == bias_of(one, 0)
    assert bias_of(one, 2) == {4: 5, 6: 1}


def test_bad_words_forbid_their_last_token_after_the_others() -> None:
    words = [[3], [1, 2], [5, 6, 7], [8, 6, 7]]
    one = state(bad_words_token_ids=words, logit_bias={7: 2})
    forbidden = -np.inf
    assert one.needs_history
    assert bias_of(one, 0) == {7: 2, 3: forbidden}
    one.append([1])
    assert bias_of(one, 1) == {7: 2, 3: forbidden, 2: forbidden}
    one.append([8, 6])
    assert bias_of(one, 3) == {7: forbidden, 3: forbidden}
    one.append([6])
    assert bias_of(one, 4) == {7: 2, 3: forbidden}
    assert not state(bad_words_token_ids=[[3]]).needs_history


def test_masks_of_rows_with_and_without() -> None:
    batch = build_sampling_batch([state(), state(allowed_token_ids=[0, 31, 32, 49])], [0, 0])
    assert batch.mask.dtype == np.uint32 and batch.mask.shape == (2, 2)
    allowed = allowed_tokens(batch.mask, VOCAB)
    assert allowed[0].all()
    assert np.flatnonzero(allowed[1]).tolist() == [0, 31, 32, 49]
    assert batch.mask[1].tolist() == [1 | 1 << 31, 1 | 1 << 17]


def test_contradictions_are_refused() -> None:
    with pytest.raises(InvalidValue, match="allowed_token_ids"):
        state(allowed_token_ids=[0], min_tokens=1)
    with pytest.raises(InvalidValue, match="allowed_token_ids"):
        state(allowed_token_ids=[4], bad_words_token_ids=[[4]])
    one = state(allowed_token_ids=[4], bad_words_token_ids=[[4, 4]])
    one.append([4])
    assert one.error


class Walk:
    """A grammar of so many tokens 7, then the end."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.error: str | None = None

    @property
    def finished(self) -> bool:
        return self.left == 0

    def advance(self, token_ids) -> None:
        self.left -= len(token_ids)

    def mask(self) -> np.ndarray:
        return mask_of([7] if self.left else [0], VOCAB)


def test_grammar_rules_the_mask_and_the_end() -> None:
    params = SamplingParams(temperature=0, allowed_token_ids=[0, 7, 8])
    one = SamplingState(params, VOCAB, [1], [0], Walk(2))
    assert one.needs_history and not one.plain
    logits = np.zeros((1, VOCAB), np.float32)
    for _ in range(2):
        assert not one.grammar_finished and one.error is None
        token_ids, _ = sample(logits, build_sampling_batch([one], [0]))
        assert token_ids.tolist() == [7]
        one.append([7])
    assert one.grammar_finished
    params = SamplingParams(temperature=0, allowed_token_ids=[8])
    with pytest.raises(InvalidValue, match="no token is left"):
        SamplingState(params, VOCAB, [1], [0], Walk(2))
