"""The kernel against dense attention, and planted faults that must be noticed.  Where AWS's NKI is
not installed it runs on a shim of ours, which knows the published rules and no compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nki_cases
import nki_shim
import numpy as np
import pytest
from nki_cases import Shape, Step, make_step, run
from nki_faults import FORBIDDEN, WRONG

import pagoda_kernels_nki
from pagoda_kernels_nki.limits import refusal

SOURCE = Path(pagoda_kernels_nki.__file__).with_name("attention.py")
ON_SHIM = nki_cases.BY == "the shim"
DECODE = Shape((8, 2), 128)
PROMPT = Shape((6, 2), 64, tile_tokens=8)
CASES = {
    "decode": (DECODE, [1, 1, 1, 1], [1, 16, 129, 500]),
    "decode of 7 heads a key": (replace(DECODE, heads=(14, 2), size=64), [1, 1], [33, 400]),
    "decode in a window": (replace(DECODE, window=20), [1, 1, 1], [5, 20, 300]),
    "prompts": (PROMPT, [20, 8, 9], [20, 8, 140]),
    "mixed, in a window, capped": (
        replace(PROMPT, window=21, soft_cap=3.0, scale=0.5),
        [1, 17, 3],
        [70, 40, 3],
    ),
    "a head each, small": (replace(PROMPT, heads=(3, 3), size=16), [4, 1], [9, 77]),
}


def kernel(old: str = "", new: str = "") -> Any:
    """``paged_attention`` with a change."""
    source = SOURCE.read_text()
    assert old in source, f"no longer in the source: {old}"
    names: dict[str, Any] = {}
    exec(compile(source.replace(old, new), str(SOURCE), "exec"), names)
    return names["paged_attention"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_answers(name: str, dtype: str) -> None:
    print("run by", nki_cases.BY)
    shape, queries, lens = CASES[name]
    if dtype == "bfloat16":
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        shape = replace(shape, dtype=bfloat16)
    for seed in range(3):
        print("seed", seed)
        step = make_step(shape, queries, lens, seed)
        assert step.error(run(kernel(), step)) < (1e-5 if dtype == "float32" else 4e-2)


def test_keys_in_several_chunks() -> None:
    for seed in range(3):
        print("seed", seed)
        step = make_step(PROMPT, [10, 1], [1100, 513], seed, num_keys=1536)
        assert step.error(run(kernel(), step)) < 1e-5
        capped = replace(PROMPT, window=530, soft_cap=2.0, scale=0.5)
        step = make_step(capped, [10, 1], [1100, 513], seed, num_keys=1536)
        assert step.error(run(kernel(), step)) < 1e-5


def steps() -> list[Step]:
    shape = replace(PROMPT, window=600, soft_cap=2.0, scale=0.5)
    windowed = replace(shape, window=21)
    found = [make_step(shape, [10, 1], [900, 77], 1, num_keys=1024)]
    return [*found, make_step(windowed, [10, 1], [90, 77], 2)]


def notice(changed: Any) -> str:
    """What running it brings to light; empty for a correct kernel."""
    for step in steps():
        try:
            error = step.error(run(changed, step))
        except Exception as problem:
            return f"{type(problem).__name__}: {problem}"
        if not error < 1e-5:
            return f"error {error}"
    return ""


def test_the_kernel_itself_passes() -> None:
    assert not notice(kernel())


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_noticed(name: str) -> None:
    seen = notice(kernel(*WRONG[name]))
    print(name, "->", seen)
    assert seen


@pytest.mark.parametrize("name", FORBIDDEN)
@pytest.mark.skipif(not ON_SHIM, reason="AWS's simulator words its refusals in its own way")
def test_what_the_chip_cannot_do_is_refused(name: str) -> None:
    seen = notice(kernel(*FORBIDDEN[name]))
    print(name, "->", seen)
    assert seen.startswith(nki_shim.ShimError.__name__)


@pytest.mark.parametrize("slot", [-1, 10**6])
@pytest.mark.skipif(not ON_SHIM, reason="AWS's simulator words its refusals in its own way")
def test_a_slot_outside_of_the_cache_is_refused(slot: int) -> None:
    step = make_step(DECODE, [1], [20], 0)
    step.arguments[2][0, 100] = slot
    with pytest.raises(nki_shim.ShimError, match="out of bounds"):
        run(kernel(), step)


def test_unwritten_places_are_never_read() -> None:
    step = make_step(DECODE, [1], [20], 0)
    step.arguments[2][0, 30] = 0 if np.isnan(step.arguments[1][0]).any() else 1
    empty = np.flatnonzero(np.isnan(step.arguments[1]).all(1))[0]
    step.arguments[2][0, 30] = empty
    assert step.error(run(kernel(), step)) == float("inf")


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((8, 64, 128, 2), None),
        ((8, 64, 256, 2), "head size 256"),
        ((1, 129, 64, 2), "129 query rows"),
        ((32, 16, 128, 4), "cache rows of 32768 bytes"),
    ],
)
def test_limits(sizes: tuple[int, int, int, int], said: str | None) -> None:
    found = refusal(*sizes)
    assert found is None if said is None else found is not None and said in found
