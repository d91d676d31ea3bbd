"""The kernels run on a GPU where there is one, else in Triton's interpreter, which is slow: sizes
are small, and the tiles an H200's.  Without Triton everything here is skipped."""

from __future__ import annotations

import kernel_mode
import pytest

REASON = kernel_mode.why_not()  # before anything imports triton
collect_ignore_glob = ["test_*.py"] if REASON else []


def pytest_report_header() -> str:
    where = "on the GPU" if kernel_mode.on_gpu() else "in the interpreter"
    return f"triton kernels: {REASON or where}"


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if kernel_mode.on_gpu() else "cpu"


@pytest.fixture(scope="session", autouse=True)
def faithful_interpreter() -> None:
    kernel_mode.skip_or_prepare()
    if not kernel_mode.on_gpu():
        from pagoda_kernels_triton import tuning

        tuning.assume(tuning.Target("sm_90", 132))
