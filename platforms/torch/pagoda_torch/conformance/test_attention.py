"""Every attention backend of a torch platform, over a matrix of shapes, against dense attention."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from pagoda.conformance.fixtures import Subject
from pagoda_torch.attention import AttentionSpec
from pagoda_torch.conformance.dense import Bench, allowed
from pagoda_torch.runner import DTYPES

HEADS = [(4, 4), (8, 2), (7, 1)]  # queries, keys
HEAD_SIZES = [32, 64, 80, 128]
BLOCK_SIZES = [8, 16, 32]
QUICK = 5  # shapes a test at the quick level, picked at random

STEPS: dict[str, list[dict[int, int]]] = {
    # steps of {sequence: new tokens}; each is checked
    "prefill": [{0: 1}, {1: 37}, {2: 16, 3: 5, 4: 70}],
    "decode": [{0: 40, 1: 3, 2: 15}, {0: 1, 1: 1, 2: 1}, {2: 1, 0: 1}, {1: 1}],
    "chunks": [{0: 17}, {0: 30}, {0: 2}, {0: 65}],
    "mixed": [{0: 20, 1: 33}, {0: 1, 2: 18, 1: 7}, {3: 1, 2: 1, 0: 1, 1: 40}],
}


@pytest.mark.parametrize("window", [None, 1, 19], ids=lambda w: f"window_{w}")
@pytest.mark.parametrize("soft_cap", [None, 2.5], ids=lambda c: f"cap_{c}")
@pytest.mark.parametrize("kind", STEPS)
def test_attention(
    subject: Subject,
    rng: np.random.Generator,
    kind: str,
    window: int | None,
    soft_cap: float | None,
) -> None:
    """Shapes in a loop, so many that each two of dtype, heads, head size and block size meet.  A
    backend may refuse a layer."""
    family = family_of(subject)
    dtypes = [variant.dtype for variant in subject.variants if variant.kv_dtype == "auto"]
    sizes = [s for s in BLOCK_SIZES if s in subject.capabilities.block_sizes] or BLOCK_SIZES
    shapes = _pairs(list(dict.fromkeys(dtypes)), sizes)
    if subject.level == "quick":
        shapes = [shapes[i] for i in rng.permutation(len(shapes))[:QUICK]]
    refusals = []
    num_checked = 0
    for (dtype, heads, head_size, block_size), backend in itertools.product(
        shapes, family.attention
    ):
        scale = head_size**-0.5
        layer = AttentionSpec(heads[0], heads[1], head_size, scale, window, soft_cap)
        if reason := backend.refuses(layer):
            refusals.append(f"{backend.name}: {reason}")
            continue
        device = family.device
        bench = Bench(backend, layer, block_size, device, DTYPES[dtype], rng)
        for number, queries in enumerate(STEPS[kind]):
            with torch.inference_mode():
                error = bench.run(queries)
            assert error <= allowed(bench.dtype), (
                f"backend {backend.name!r}, {dtype}, {heads[0]} heads over {heads[1]}, head size"
                f" {head_size}, blocks of {block_size}, window {window}, soft cap {soft_cap}: step"
                f" {number} of {kind} ({queries}) is off by {error:.2g};"
                f" {allowed(bench.dtype):.2g} is allowed"
            )
            num_checked += 1
    if not num_checked:
        pytest.skip("; ".join(dict.fromkeys(refusals)))


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_copy_blocks(subject: Subject, rng: np.random.Generator, block_size: int) -> None:
    """Whole blocks, keys and values, and no others."""
    family = family_of(subject)
    for backend in family.attention:
        layer = AttentionSpec(4, 2, 64, 0.125)
        bench = Bench(backend, layer, block_size, family.device, torch.float32, rng)
        bench.run({0: 3 * block_size, 1: block_size})
        first = bench.sequences[0]
        fresh = [bench.free.pop() for _ in first.blocks]
        source, destination = (
            torch.tensor(blocks, device=family.device.device) for blocks in (first.blocks, fresh)
        )
        backend.copy_blocks(bench.cache, source, destination)
        first.blocks = fresh
        error = bench.run({0: 1, 1: 1})
        assert error <= allowed(bench.dtype), (
            f"backend {backend.name!r}: after copy_blocks a sequence that goes on in the copies, or"
            f" one beside it, is off by {error:.2g}"
        )


def _pairs(
    dtypes: list[str], block_sizes: list[int]
) -> list[tuple[str, tuple[int, int], int, int]]:
    """A backend may compile a kernel a shape: not all of them, but all pairs of values."""
    return [
        (dtypes[(i + j) % len(dtypes)], heads, size, block_sizes[(i - j) % len(block_sizes)])
        for i, size in enumerate(HEAD_SIZES)
        for j, heads in enumerate(HEADS)
    ]


def family_of(subject: Subject) -> Any:
    """The TorchFamily that the platform hands over."""
    runner = subject.shared(subject.families[0], subject.exact).runner
    found = getattr(runner, "family", None)
    if found is None:
        pytest.skip("the platform's runner is not pagoda_torch's own")
    return found
