"""Whole graphs compiled by libtpu for chips that are not here, and what it must refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

CHIPS = {"v5e:2x2": "TPU v5 lite", "v6e:2x2": "TPU v6 lite"}
LAYERS = 2
SAMPLING = {"argmax", "bias", "mask", "penalties", "random", "logprobs"}

Script = Callable[..., list[dict[str, Any]]]


def test_every_graph_compiles_for_a_chip(script: Script) -> None:
    found = script("ahead_of_time.py", *CHIPS)
    refused = [told for told in found if "refused" in told]
    assert not refused, refused
    assert {told["chip"] for told in found} == set(CHIPS.values())
    for topology in CHIPS:
        kernels = {told["graph"]: told["kernels"] for told in found if told["topology"] == topology}
        assert set(kernels) == {"decode", "prefill", *SAMPLING}
        assert kernels["decode"] == kernels["prefill"] == LAYERS


def test_steps_compile_for_four_chips_that_share_a_model(script: Script) -> None:
    found = [
        told
        for told in script("ahead_of_time.py", *CHIPS, "--devices", "4", "--steps-only")
        if told["graph"] in ("decode", "prefill")
    ]
    assert len(found) == 2 * len(CHIPS)
    for told in found:
        assert told.get("kernels") == LAYERS, told
        assert told["collectives"] >= LAYERS, "the parts of a sum are nowhere put together"


def test_what_does_not_fit_is_refused_with_the_compilers_words(script: Script) -> None:
    """18 GiB at once: more than a v5e has; a v6e takes it, so it is the size that is refused."""
    found = {told["topology"]: told for told in script("ahead_of_time.py", *CHIPS, "--too-large")}
    refusal = found["v5e:2x2"]
    assert refusal["refused"] == "OutOfMemory"
    assert "RESOURCE_EXHAUSTED" in refusal["message"] and "hbm" in refusal["message"]
    assert "--max-num-batched-tokens" in refusal["message"]
    assert "refused" not in found["v6e:2x2"]


def test_block_tables_beyond_scalar_memory_are_refused(script: Script) -> None:
    """What ``PallasKernel.refuses`` keeps away from the compiler, the compiler refuses."""
    found = script("ahead_of_time.py", *CHIPS, "--table-blocks", "65536")
    assert [told["refused"] for told in found] == ["OutOfMemory"] * len(CHIPS), found
    assert all("smem" in told["message"].lower() for told in found)
