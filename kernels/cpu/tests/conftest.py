"""Every level that this CPU runs is a parameter of the tests; the others are skipped, with the
reason.  Without the compiled kernels everything here is skipped."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

LEVELS = ("portable", "avx2", "avx512", "amx")
INSTALLED = find_spec("pagoda_kernels_cpu") is not None and find_spec("torch") is not None
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]


def pytest_report_header() -> str:
    if not INSTALLED:
        return "cpu kernels: not installed"
    from pagoda_kernels_cpu import level

    found, reason = level.allowed()
    return f"cpu kernels: {', '.join(found)}" + (f" ({reason})" if reason else "")


@pytest.fixture(params=(*LEVELS, "emulated"))
def native(request: pytest.FixtureRequest) -> ModuleType:
    """The kernels of one level, on one thread."""
    from pagoda_kernels_cpu import level

    found, reason = level.allowed()
    if request.param == "emulated":
        if find_spec("pagoda_kernels_cpu._emulated") is None:
            pytest.skip("emulated: only ci/check_sanitizers.sh builds it")
        module = import_module("pagoda_kernels_cpu._emulated")
    elif request.param not in found:
        pytest.skip(f"{request.param}: {reason}")
    else:
        module = level.load(request.param)
    module.set_num_threads(1)
    return module


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh random numbers; pytest prints the seed of a test that fails."""
    seed = int(np.random.SeedSequence().entropy) % 2**32  # type: ignore[operator, call-overload]
    print("seed", seed)
    return np.random.default_rng(seed)
