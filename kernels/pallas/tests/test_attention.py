"""The kernel against dense attention, interpreted in both of JAX's ways: as plain HLO, which is how
other runtimes take it, and with copies, semaphores and memory followed one by one."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from tiled import CASES, PROMPT, Shape, make_step, random_step
from watched import found_races

from pagoda_kernels_pallas import paged_attention

TOLERANCE = {np.float32: 2e-6, jnp.bfloat16: 2e-2}
WATCHED = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")


def kernel(shape: Shape, interpret: Any, **options: Any) -> Any:
    options = {"blocks_per_fetch": 2, **shape.options, **options}
    return jax.jit(functools.partial(paged_attention, interpret=interpret, **options))


@pytest.mark.parametrize("name", CASES)
def test_as_plain_hlo(name: str) -> None:
    shape, run = CASES[name], kernel(CASES[name], True)
    for seed in range(8):
        print("seed", seed)
        step = random_step(shape, seed)
        assert step.error(run(*step.arguments)) < TOLERANCE[shape.dtype]


@pytest.mark.parametrize("name", CASES)
def test_watched(name: str) -> None:
    shape, run = CASES[name], kernel(CASES[name], WATCHED)
    for seed in range(100, 102):
        print("seed", seed)
        step = random_step(shape, seed)
        assert step.error(run(*step.arguments)) < TOLERANCE[shape.dtype]
        assert not found_races()


@pytest.mark.parametrize("interpret", [True, WATCHED], ids=["plain", "watched"])
def test_programs_for_some_of_the_heads(interpret: Any) -> None:
    shape = Shape((6, 3), 64, tile_tokens=4, num_tiles=6, table_width=4)
    step = make_step(shape, [1, 6, 3], [33, 6, 50], seed=7)
    for heads in (1, 2, 3):
        run = kernel(shape, interpret, heads_per_program=heads)
        assert step.error(run(*step.arguments)) < 2e-6
    assert interpret is True or not found_races()


@pytest.mark.parametrize("interpret", [True, WATCHED], ids=["plain", "watched"])
def test_a_step_of_nothing_gives_zeros(interpret: Any) -> None:
    step = make_step(PROMPT, [], [], seed=0)
    assert not np.asarray(kernel(PROMPT, interpret)(*step.arguments)).any()


def test_answers_do_not_depend_on_the_fetch() -> None:
    shape = CASES["mixed in a window, capped"]
    step = make_step(shape, [9, 1, 30], [70, 21, 30], seed=3)
    for blocks in (1, 3, 8):
        found = kernel(shape, True, blocks_per_fetch=blocks)(*step.arguments)
        assert step.error(found) < 2e-6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tile_tokens": 3}, "tiles of 3 tokens"),
        ({"block_size": 12}, "blocks of 12 tokens"),
        ({"q": jnp.zeros((8, 2, 16, 128))}, "cache rows of 256 elements"),
    ],
)
def test_refusals(change: dict[str, Any], said: str) -> None:
    q, *others = make_step(PROMPT, [1], [1], seed=0).arguments
    options = {**PROMPT.options, **change}
    with pytest.raises(ValueError, match=said):
        paged_attention(options.pop("q", q), *others, **options)
