"""Log-probabilities of sampled tokens and of prompts: always those of the raw logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pagoda.conformance.feeder import Feeder
from pagoda.conformance.oracle import log_softmax
from pagoda.conformance.sampling_bench import Bench
from pagoda.conformance.subject import Opened
from pagoda.platform.batch import ScoreBatch
from pagoda.platform.types import Feature

Rng = np.random.Generator


@pytest.mark.needs(Feature.LOGPROBS)
def test_logprobs(opened: Opened, rng: Rng) -> None:
    """Of the raw logits, whatever was done to pick the token; in rows that want none, anything."""
    bench = Bench(opened, rng)
    n = bench.num_rows
    wanted = np.where(np.arange(n) % 3 == 2, -1, np.arange(n) % 3 * 5)
    result, batch = bench.run(
        temperature=np.where(np.arange(n) % 2, 0.0, 0.6),
        top_k=[40] * n,
        uniform=bench.uniform(),
        num_logprobs=wanted,
    )
    found, logits = result.logprobs, result.logits
    assert found is not None and logits is not None, "logprobs were asked for and none came"
    most = int(wanted.max())
    assert found.token_ids.shape == found.logprobs.shape == (n, most + 1), found.token_ids.shape
    expected = log_softmax(logits)
    for row in np.flatnonzero(wanted >= 0).tolist():
        check_logprobs(
            f"row {row} (temperature {batch.temperature[row]:.1f})",
            int(result.token_ids[row]),
            (found.token_ids[row], found.logprobs[row], int(found.ranks[row])),
            expected[row],
        )
    bench.feeder.judge()


@pytest.mark.needs(Feature.PROMPT_LOGPROBS)
def test_prompt_logprobs(opened: Opened, rng: Rng) -> None:
    """Each prompt token under the logits of the one before it, over chunks where they are cut."""
    feeder = Feeder(opened, rng)
    first, second = opened.prompts(rng, [21, 9])
    portions = [(0, len(first))]
    if opened.limits.chunked_prefill:
        portions = [(0, 8), (8, len(first))]
    for start, end in portions:
        rows = np.arange(start, min(end, len(first) - 1), dtype=np.int32)
        targets = np.array(first[start + 1 : end + 1], np.int32)
        score = ScoreBatch(rows - start, targets, 3)
        parts = {0: first[start:end]} | ({1: second} if start == 0 else {})
        result = feeder.run(parts, score=score)
        assert result.score is not None, "scores were asked for and none came"
        shape = (len(rows), 4)
        assert result.score.token_ids.shape == shape, f"{result.score.token_ids.shape}, not {shape}"
        expected = log_softmax(opened.oracle.logits(first))
        for i, position in enumerate(rows.tolist()):
            got = result.score.logprobs[i]
            target = int(targets[i])
            assert int(result.score.token_ids[i, 0]) == target, (
                f"the score of prompt token {position + 1} begins with token"
                f" {result.score.token_ids[i, 0]}, not with the prompt's own {target}"
            )
            error = float(np.abs(got - expected[position][result.score.token_ids[i]]).max())
            assert error <= 2 * opened.tolerance, (
                f"log-probability of prompt token {position + 1} (predicted by the logits of"
                f" position {position}) is off by {error:.2g}"
            )
    feeder.judge()


def check_logprobs(where: str, token: int, got: tuple[Any, Any, int], expected: Any) -> None:
    """One row's logprobs against the log-softmax of the row's own logits."""
    token_ids, logprobs, rank = got
    assert int(token_ids[0]) == token, f"{where}: the first entry is not the token itself"
    error = float(np.abs(logprobs - expected[token_ids]).max())
    assert error <= 1e-3, (
        f"{where}: log-probabilities are off by {error:.2g} from those of the raw logits (float32,"
        " before temperature, penalties, bias and masks)"
    )
    best = np.sort(expected)[::-1][: len(token_ids) - 1]
    assert np.allclose(logprobs[1:], best, atol=1e-3), (
        f"{where}: the alternatives are not the {len(best)} most likely tokens, best first"
    )
    low = 1 + int((expected > expected[token] + 1e-4).sum())
    high = 1 + int((expected > expected[token] - 1e-4).sum())
    assert low <= rank <= high, f"{where}: rank {rank}; {low - 1} tokens are more likely"
