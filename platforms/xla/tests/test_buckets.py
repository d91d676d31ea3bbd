"""Which shape a step is padded to, and what is refused before anything is loaded."""

from __future__ import annotations

import numpy as np
import pytest

from pagoda.platform import InvalidValue, PagodaError, RunnerConfig
from pagoda_xla.buckets import BucketRule, Buckets, StepShape

RULE = BucketRule(rows=(2, 8, 64), tokens=(16, 64, 256), tile=8, contexts=(64, 512))


def make(rule: BucketRule = RULE, **config: object) -> Buckets:
    fields = {"dtype": "float32", "max_tokens": 100, "max_requests": 12, "max_model_len": 200}
    return Buckets(rule, RunnerConfig(**{**fields, **config}), 16)  # type: ignore[arg-type]


def test_shapes_end_at_what_was_agreed() -> None:
    buckets = make()
    assert buckets.rows == [2, 8, 12]
    assert {shape.tokens for shape in buckets.shapes if shape.tile > 1} == {16, 64, 100}
    assert {shape.blocks for shape in buckets.shapes} == {4, 13}
    assert make(max_tokens=5).rows == [2, 5], "a step of 5 tokens has 5 rows at most"


def test_the_smallest_that_fits_is_chosen() -> None:
    buckets = make()
    assert buckets.choose(2, 2, 3) == StepShape(2, 4, 2, 1)
    assert buckets.choose(3, 3, 5) == StepShape(8, 13, 8, 1)
    assert buckets.choose(3, 2, 1) == StepShape(16, 4, 12, 8)
    assert buckets.choose(17, 12, 13) == StepShape(64, 13, 12, 8)
    assert buckets.rows_for(9) == 12


def test_every_step_within_the_limits_has_a_shape(rng: np.random.Generator) -> None:
    buckets = make()
    for _ in range(500):
        rows = int(rng.integers(1, 13))
        tokens = int(rng.integers(rows, 101))
        blocks = int(rng.integers(1, 14))
        shape = buckets.choose(tokens, rows, blocks)
        assert shape.tokens >= tokens and shape.rows >= rows and shape.blocks >= blocks
        cuts = np.sort(rng.permutation(tokens - 1)[: rows - 1] + 1)
        queries = np.diff([0, *cuts, tokens])
        assert shape.tile > 1 or (queries == 1).all()
        assert (-(-queries // shape.tile)).sum() <= shape.tiles


def test_beyond_the_largest_is_an_error() -> None:
    for step in ((101, 1, 1), (13, 13, 1), (1, 1, 14)):
        with pytest.raises(PagodaError, match="largest bucket"):
            make().choose(*step)


def test_a_length_beyond_the_largest_context_is_refused_at_configuration() -> None:
    rule = BucketRule(rows=(8,), tokens=(64,), tile=8, max_context=4096)
    with pytest.raises(InvalidValue, match=r"--max-model-len 4096"):
        make(rule, max_model_len=4097)
    assert make(rule, max_model_len=4096).shapes[-1].blocks == 256
