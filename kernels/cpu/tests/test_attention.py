"""Paged attention and the store of every level against dense attention in float64."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from cpu_paged import DTYPES, Shape, allowed, make_step, random

MIXES: dict[str, list[tuple[int, int]]] = {  # (tokens cached before, tokens run now)
    "prompts": [(0, 1), (0, 37), (0, 16), (0, 130)],
    "decodes": [(0, 1), (63, 1), (64, 1), (300, 1), (1100, 1)],
    "mixed": [(40, 1), (0, 33), (7, 18), (127, 1), (100, 65)],
}
SHAPES = {
    "plain": Shape(),
    "one kv head": Shape(7, 1, 80, 32),
    "no groups": Shape(4, 4, 128, 16),
    "large": Shape(4, 2, 256, 128),
    "many heads a key head": Shape(40, 1, 64, 48),
    "odd head": Shape(6, 3, 13, 8),
    "odd block": Shape(6, 2, 24, 5),
    "window": Shape(14, 2, 64, 16, window=70),
    "narrow window": Shape(window=1, block_size=8),
    "soft cap": Shape(soft_cap=2.5),
    "cap and window": Shape(soft_cap=30.0, window=19),
    "scale below 0": Shape(scale=-0.2),
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("kv_dtype", ["auto", "int8", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_dense(
    native: ModuleType, rng: np.random.Generator, dtype: str, kv_dtype: str, mix: str
) -> None:
    """Two shapes of the table each time; over all parameters every shape comes up."""
    for name in rng.permutation(list(SHAPES))[:2]:
        shape = Shape(**{**vars(SHAPES[str(name)]), "dtype": dtype, "kv_dtype": kv_dtype})
        step = make_step(native, shape, rng, MIXES[mix])
        error = np.abs(step.run(native) - step.expected()).max()
        assert error <= allowed(shape), (name, shape, error)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape(native: ModuleType, rng: np.random.Generator, name: str) -> None:
    for dtype in ("float32", "bfloat16"):
        shape = Shape(**{**vars(SHAPES[name]), "dtype": dtype, "kv_dtype": "auto"})
        step = make_step(native, shape, rng, [(0, 21), (90, 1), (30, 40)])
        error = np.abs(step.run(native) - step.expected()).max()
        assert error <= allowed(shape), (shape, error)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 3e4])
def test_poison_is_not_seen(native: ModuleType, rng: np.random.Generator, poison: float) -> None:
    """The tails of pages, and blocks of nobody."""
    for dtype in DTYPES:
        shape = Shape(7, 1, 64, 16, dtype, window=int(rng.integers(1, 60)))
        step = make_step(native, shape, rng, [(50, 1), (3, 19), (0, 1)], poison)
        error = np.abs(step.run(native) - step.expected()).max()
        assert error <= allowed(shape), (shape, error)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_far_apart(native: ModuleType, rng: np.random.Generator, dtype: str) -> None:
    """Where a row's largest score comes late, and the others vanish beside it."""
    shape = Shape(dtype=dtype, scale=3.0)
    step = make_step(native, shape, rng, [(600, 1), (0, 90), (300, 200)], gain=3.0)
    error = np.abs(step.run(native) - step.expected()).max()
    # A score of some hundred has an error of its own: float32 sums, and their exponentials.
    assert error <= (0.2 if dtype == "bfloat16" else 2e-3), error


def test_threads_and_neighbours_change_nothing(
    native: ModuleType, rng: np.random.Generator
) -> None:
    """Bit for bit, for 1 to 8 threads, and for each request alone."""
    for dtype, kv_dtype in (("bfloat16", "int8"), ("float32", "auto")):
        shape = Shape(14, 2, 64, 16, dtype, kv_dtype)
        rows = [(2100, 1), (0, 70), (511, 1), (512, 1), (900, 30)]
        step = make_step(native, shape, rng, rows)
        alone = step.run(native)
        try:
            for threads in range(2, 9):
                native.set_num_threads(threads)
                assert np.array_equal(step.run(native), alone), threads
        finally:
            native.set_num_threads(1)
        for i in range(len(rows)):
            begin, end = step.query_start[i : i + 2]
            out = torch.empty(int(end - begin), 14 * 64, dtype=DTYPES[dtype])
            native.paged_attention(
                *(step.q[begin:end], step.cache, out, step.tables[i : i + 1].copy()),
                *(np.array([0, end - begin], np.int32), step.seq_lens[i : i + 1].copy()),
                *(shape.block_size, shape.scale),
            )
            assert np.array_equal(out.double().numpy(), alone[begin:end]), i


def test_strided_queries(native: ModuleType, rng: np.random.Generator) -> None:
    """q, k and v as slices of one product."""
    shape = Shape(dtype="bfloat16")
    step = make_step(native, shape, rng, [(20, 3), (0, 9)])
    wide = torch.full((len(step.q), 12, 64), float("nan"), dtype=torch.bfloat16)
    wide[:, 2:10] = step.q
    expected = step.run(native)
    step.q = wide[:, 2:10]
    assert np.array_equal(step.run(native), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turned", [0, 32, 64])
@pytest.mark.parametrize("normed", [False, True])
def test_store_norms_and_turns(
    native: ModuleType, rng: np.random.Generator, dtype: str, turned: int, normed: bool
) -> None:
    shape = Shape(4, 2, 64, 16, dtype)
    tokens = 21
    kind = DTYPES[dtype]
    q, k, v = (random(rng, shape, tokens, heads) for heads in (4, 2, 2))
    angles = torch.from_numpy(rng.standard_normal((tokens, 1, max(turned, 2) // 2), np.float32))
    cos, sin = angles.cos(), angles.sin()
    cos, sin = torch.cat([cos, cos], -1).to(kind), torch.cat([-sin, sin], -1).to(kind)
    norms = [random(rng, shape, 1, 1).reshape(64) for _ in range(2)]
    cache = torch.full((4, 2, 2 * 16 * 64), float("nan"), dtype=kind)
    slots = rng.permutation(64)[:tokens].astype(np.int64)
    slots[5] = -1
    expected = [
        turn(rms(x, w) if normed else x.double(), cos, sin, turned)
        for x, w in zip((q, k), norms, strict=True)
    ]
    more = {"cos": cos, "sin": sin} if turned else {}
    if normed:
        more |= {"query_norm": norms[0], "key_norm": norms[1]}
    native.store_kv(k, v, cache, slots, 16, query=q, epsilon=1e-5, **more)
    pages = cache.double().view(4, 2, 2, -1)
    keys, values = pages[:, :, 0].view(4, 2, 64, 16), pages[:, :, 1].view(4, 2, 16, 64)
    limit = allowed(shape) / 4
    for i, slot in enumerate(slots):
        assert (
            (q[i].double() - expected[0][i]).abs() <= limit * expected[0][i].abs().clamp(1)
        ).all()
        if slot < 0:
            continue
        found = keys[slot // 16, :, :, slot % 16]
        assert ((found - expected[1][i]).abs() <= limit * expected[1][i].abs().clamp(1)).all()
        assert torch.equal(values[slot // 16, :, slot % 16], v[i].double())
    used = np.isin(np.arange(64), slots)
    free = keys.permute(0, 3, 1, 2).reshape(64, 2, 64)[torch.from_numpy(~used)]
    assert free.isnan().all()


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, turned: int) -> torch.Tensor:
    part, rest = x[..., :turned], x[..., turned:]
    if not turned:
        return x
    moved = part * cos.double() + part.roll(turned // 2, -1) * sin.double()
    return torch.cat([moved, rest], -1)


def test_zeros_in_int8(native: ModuleType) -> None:
    shape = Shape(2, 2, 64, 16, kv_dtype="int8")
    cache = torch.full((1, 2, 2 * 16 * 68), -1, dtype=torch.int8)
    zeros = torch.zeros(3, 2, 64)
    native.store_kv(zeros, zeros, cache, np.arange(3), 16)
    out = torch.full((3, 128), 7.0)
    tables = np.zeros((1, 1), np.int32)
    start, lens = np.array([0, 3], np.int32), np.array([3], np.int32)
    native.paged_attention(zeros, cache, out, tables, start, lens, shape.block_size, 0.1)
    assert not out.any()


WRONG = {
    "a block outside": ({"tables": [[9]]}, "block_tables name a block"),
    "narrow tables": ({"lens": [40]}, "too narrow"),
    "tokens left over": ({"start": [0, 2]}, "query_start"),
    "shorter than its query": ({"lens": [2]}, "more query tokens"),
    "another block size": ({"block_size": 8}, "another size"),
    "no window": ({"window": 0}, "window"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refusals(native: ModuleType, name: str) -> None:
    wrong, said = WRONG[name]
    given = {
        "tables": [[0]],
        "start": [0, 3],
        "lens": [3],
        "block_size": 16,
        "window": None,
        **wrong,
    }
    q, cache, out = torch.zeros(3, 2, 64), torch.zeros(2, 2, 2 * 16 * 64), torch.zeros(3, 128)
    rows = [np.array(given[key], np.int32) for key in ("tables", "start", "lens")]
    with pytest.raises(ValueError, match=said):
        native.paged_attention(q, cache, out, *rows, given["block_size"], 1.0, given["window"])


def test_wrong_dtypes_are_refused(native: ModuleType) -> None:
    q, cache = torch.zeros(1, 2, 64, dtype=torch.float64), torch.zeros(2, 2, 2048)
    rows = [np.array(x, np.int32) for x in ([[0]], [0, 1], [1])]
    with pytest.raises(ValueError, match="float32, bfloat16 or float16"):
        native.paged_attention(q, cache, torch.zeros(1, 128).double(), *rows, 16, 1.0)
    with pytest.raises(ValueError, match="int64"):
        native.store_kv(q.float(), q.float(), cache, np.zeros(1, np.int32), 16)
