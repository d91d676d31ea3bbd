"""Planted bugs, one at a time in a copy of the kernels: what the tests here are made of finds every
one, by the numbers, by the memory watch, or past 2^31 elements."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kernel_mode
import numpy as np
import paged
import pytest
import torch

import pagoda_kernels_triton

Change = tuple[str, str, str]  # file, what stands there, what stands there instead
BLOCKS = "block = tl.load(blocks_ptr + key // BLOCK, mask=exists, other=0)"
VALUES = "v = tl.load(value_ptr + place[:, None] + d[None, :], mask=exists[:, None], other=0.0)"
# name: (which check finds it, the changes)
MUTANTS: dict[str, tuple[str, list[Change]]] = {
    "block ids past the row's own": (
        "prefill",
        [("scores", BLOCKS, "block = tl.load(blocks_ptr + key // BLOCK)")],
    ),
    "values that no token wrote": (
        "prefill",
        [("scores", VALUES, "v = tl.load(value_ptr + place[:, None] + d[None, :])")],
    ),
    "a token does not see itself": (
        "prefill",
        [("scores", "key[None, :] <= position[:, None]", "key[None, :] < position[:, None]")],
    ),
    "a window of one more": (
        "window",
        [("scores", "key[None, :] > (position - WINDOW)", "key[None, :] >= (position - WINDOW)")],
    ),
    "sums that keep an old level": (
        "prefill",
        [("scores", "found = found * shrink[:, None]", "found = found * 1.0")],
    ),
    "rows that have seen nothing yet": (
        "window",
        [("scores", 'level = tl.where(higher == float("-inf"), 0.0, higher)', "level = higher")],
    ),
    "rows of the next request": (
        "prefill",
        [("prefill", "(mine < num_tokens)[:, None] & (row", "(row")],
    ),
    "another query head": (
        "prefill",
        [("prefill", "head * GROUP + row % GROUP", "head + (row % GROUP) * KV_HEADS")],
    ),
    "keys that two parts take": (
        "decode",
        [("decode", "end = tl.minimum(start + size, cached)", "end = cached + 0 * start")],
    ),
    "32-bit offsets": (
        "far",
        [
            ("scores", f"{BLOCKS}.to(tl.int64)", BLOCKS),
            ("prefill", "stride_block = stride_block.to(tl.int64)", "stride_block = stride_block"),
        ],
    ),
}


def package(folder: Path, changes: list[Change]) -> SimpleNamespace:
    """A copy of the kernels with the changes made, tuned as the original is here."""
    name = f"mutant_{abs(hash(tuple(changes)))}"
    source = Path(pagoda_kernels_triton.__file__).parent
    shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in changes:
        text = (folder / name / f"{file}.py").read_text()
        assert old in text, f"{file}.py has no {old!r} any more: plant this bug anew"
        (folder / name / f"{file}.py").write_text(text.replace(old, new))
    for path in (folder / name).glob("*.py"):
        path.write_text(path.read_text().replace("pagoda_kernels_triton", name))
    sys.path.insert(0, str(folder))
    try:
        modules = {part: importlib.import_module(f"{name}.{part}") for part in PARTS}
    finally:
        sys.path.remove(str(folder))
    modules["tuning"].assume(modules["tuning"].Target("sm_90", 132))
    return SimpleNamespace(**modules)


PARTS = ("tuning", "prefill", "decode")


def prefill_error(kernels: Any, case: paged.Paged, window: int | None = None) -> float:
    heads, size = case.q.shape[1:]
    group = heads // case.cache.shape[2]
    tokens = kernels.prefill.tokens_of_tile(case.q.device, group, size, case.q.element_size())
    start = case.query_start, case.contexts, case.block_start
    tiles = torch.from_numpy(kernels.prefill.prefill_tiles(*start, tokens))
    out = torch.full((len(case.q), heads * size), float("nan"), dtype=case.q.dtype)
    kernels.prefill.prefill_attention(case.q, case.cache, out, tiles, case.blocks, 0.125, window)
    return paged.error(out, paged.dense(case, 0.125, window, None))


def prompts(kernels: Any) -> float:
    case = paged.make([1, 7, 33], [33, 7, 150], (4, 2), 64, 16, torch.bfloat16, "cpu")
    return prefill_error(kernels, case)


def windows(kernels: Any) -> float:
    case = paged.make([40, 3], [100, 30], (4, 2), 64, 16, torch.bfloat16, "cpu")
    return prefill_error(kernels, case, 8)


def decodes(kernels: Any) -> float:
    case = paged.make([1, 1], [20, 300], (4, 2), 64, 16, torch.bfloat16, "cpu")
    out = torch.full((2, 256), float("nan"), dtype=torch.bfloat16)
    lens, start = (torch.from_numpy(np.asarray(x, np.int32)) for x in (case.lens, case.block_start))
    kernels.decode.decode_attention(
        case.q, case.cache, out, lens, start, case.blocks, 0.125, splits=4
    )
    return paged.error(out, paged.dense(case, 0.125, None, None))


def far(kernels: Any) -> float:
    """In blocks past 2^31 elements; nothing else of the cache is ever touched."""
    case = paged.make([2], [33], (2, 1), 64, 16, torch.bfloat16, "cpu")
    first = (1 << 20) + 5
    cache = torch.empty((first + len(case.cache), 2, 1, 16, 64), dtype=torch.bfloat16)
    cache[first:] = case.cache
    case.cache, case.blocks = cache, torch.where(case.blocks < 0, case.blocks, case.blocks + first)
    return prefill_error(kernels, case)


CHECKS: dict[str, Callable[[Any], float]] = {
    "prefill": prompts,
    "window": windows,
    "decode": decodes,
    "far": far,
}


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    if kernel_mode.on_gpu():
        pytest.skip("planted bugs read and write anywhere: in the interpreter alone")
    yield


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    check, changes = MUTANTS[name]
    kernels = package(tmp_path, changes)
    try:
        error = CHECKS[check](kernels)
    except Exception as found:
        assert "OutOfBounds" in str(found) or "WriteRace" in type(found).__name__, found
    else:
        assert error > paged.TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_found_without_one(check: str, tmp_path: Path) -> None:
    assert CHECKS[check](package(tmp_path, [])) < paged.TOLERANCE[torch.bfloat16]


def test_no_int32_sum_or_product_wraps(tmp_path: Path) -> None:
    """With every one of them checked, in blocks past 2^31 elements too."""
    from pagoda_triton_interpret.interpreter import overflow_checked

    kernels = package(tmp_path, [])
    with overflow_checked():
        for check in (windows, decodes, far):
            assert check(kernels) < paged.TOLERANCE[torch.bfloat16]
        wrong = package(tmp_path, MUTANTS["32-bit offsets"][1])
        with pytest.raises(Exception, match="int32 overflow"):
            far(wrong)
