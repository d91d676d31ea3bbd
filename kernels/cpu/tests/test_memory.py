"""Matrices in memory that was made ready for them, and in memory of their own."""

from __future__ import annotations

import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")

LARGE_PAGE = 2 << 20
PATIENCE = 20.0
"""Seconds for one large page to be cleared: a second is long already."""


def whole_product(native: Any, matrix: Any) -> Any:
    out = torch.empty(1, matrix.outputs)
    matrix.multiply(torch.ones(1, matrix.inputs), out)
    return out


def test_matrices_outlive_their_provision(native: Any) -> None:
    weight = torch.arange(1024 * 1024, dtype=torch.float32).view(1024, 1024) % 64
    alone = whole_product(native, native.Matrix([weight], "float32"))
    provision = native.Provision(5 * LARGE_PAGE)  # room for two of the three
    inside = [native.Matrix([weight], "float32") for _ in range(3)]
    provision.end()
    assert provision.idle() == 0
    inside.append(native.Matrix([weight], "float32"))
    assert all(torch.equal(whole_product(native, matrix), alone) for matrix in inside)
    del inside[0]
    assert torch.equal(whole_product(native, inside[0]), alone)


def test_what_is_idle_is_taken_first(native: Any) -> None:
    provision = native.Provision(2 * LARGE_PAGE)
    until = time.monotonic() + PATIENCE
    while provision.idle() < 2 * LARGE_PAGE and time.monotonic() < until:
        pass
    if not provision.idle():
        pytest.skip("this system clears no memory ahead (MADV_POPULATE_WRITE)")
    kept = native.Matrix([torch.zeros(512, 1024)], "float32")
    assert provision.idle() == LARGE_PAGE
    del kept
    provision.end()
    provision.end()
    assert native.Provision(0).idle() == 0
